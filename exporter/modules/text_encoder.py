"""CLIP's text encoder, written out plainly so that every backend's converter takes it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.checkpoint.configs import TextConfig
from exporter.modules.islands import WithIslands, half_norm

MASKED = torch.finfo(torch.float32).min
MASKED_HALF = -(2.0**15)  # half of fp16's range: a score is added to it


class TextNorm(WithIslands, nn.LayerNorm):
    """A layer norm that takes and gives the compute type, and is fp32 inside where an island."""

    def forward(self, x: Tensor) -> Tensor:
        if "norm" in self.islands:
            weight, bias = self.weight.float(), self.bias.float()
            wide = F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)
            return wide.to(x.dtype)
        return half_norm(x, -1, self.eps) * self.weight + self.bias


class SelfAttention(WithIslands):
    """Multi-head self-attention with an additive mask; softmax in fp32 where an island."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        weights = (self.widened(scores, "softmax") + mask).softmax(dim=-1).to(x.dtype)
        return self.out_proj((weights @ value).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, self.act = config.hidden_size, config.hidden_act
        self.layer_norm1 = TextNorm(width, eps=config.layer_norm_eps)
        self.self_attn = SelfAttention(width, config.num_attention_heads)
        self.layer_norm2 = TextNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        inner = self.fc1(self.layer_norm2(x))
        inner = F.gelu(inner) if self.act == "gelu" else inner * torch.sigmoid(1.702 * inner)
        return x + self.fc2(inner)


class TextEncoder(WithIslands):
    """`input_ids`, `attention_mask` i64 (B,T) -> `last_hidden_state` (B,T,width)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = TextNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = input_ids.shape[1]
        x = self.token_embedding(input_ids) + self.position_embedding.weight[:tokens]
        causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        # A cast: compared with 0 it would be an Equal and a Not, which Core ML's provider has not.
        seen = causal[None, None] & attention_mask[:, None, None, :].to(torch.bool)
        if "softmax" in self.islands:
            mask = torch.where(seen, 0.0, MASKED)
        else:
            mask = torch.where(seen, 0.0, MASKED_HALF).to(x.dtype)
        for layer in self.layers:
            x = layer(x, mask)
        return self.final_layer_norm(x).float()
