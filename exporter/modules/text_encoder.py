"""CLIP's text encoder, written out plainly so that every backend's converter takes it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.checkpoint.configs import TextConfig

MASKED = torch.finfo(torch.float32).min


class SelfAttention(nn.Module):
    """Multi-head self-attention with an additive fp32 mask; softmax in fp32."""

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
        weights = (scores.float() + mask).softmax(dim=-1).to(x.dtype)
        return self.out_proj((weights @ value).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, self.act = config.hidden_size, config.hidden_act
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.self_attn = SelfAttention(width, config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(_norm(self.layer_norm1, x), mask)
        inner = self.fc1(_norm(self.layer_norm2, x))
        inner = F.gelu(inner) if self.act == "gelu" else inner * torch.sigmoid(1.702 * inner)
        return x + self.fc2(inner)


class TextEncoder(nn.Module):
    """`input_ids`, `attention_mask` i64 (B,T) -> `last_hidden_state` (B,T,width)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = input_ids.shape[1]
        x = self.token_embedding(input_ids) + self.position_embedding.weight[:tokens]
        causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        # A cast: compared with 0 it would be an Equal and a Not, which Core ML's provider has not.
        seen = causal[None, None] & attention_mask[:, None, None, :].to(torch.bool)
        mask = torch.where(seen, 0.0, MASKED)
        for layer in self.layers:
            x = layer(x, mask)
        return _norm(self.final_layer_norm, x).float()


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm in fp32, whatever the compute type."""
    weight, bias = norm.weight.float(), norm.bias.float()
    return F.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)
