"""Adapters as training tools write them, all from the same random matrices.

Names are those of PyTorch's modules, so that nothing here reads the exporter's own tables.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PARTS = ("prior", "text_encoder")


@dataclass(frozen=True)
class Update:
    """What a trained adapter adds to one layer: alpha / rank * up @ down."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


Updates = dict[str, Update]  # by the layer's name in its module


def trained(module: nn.Module, rank: int = 3, alpha: float = 2.0, seed: int = 5) -> Updates:
    """Random updates of every Linear and dense convolution, as kohya's `lora_down`, `lora_up`."""
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            out, *rest = layer.weight.shape
            ones = [1] * (len(rest) - 1)
            down = 0.2 * torch.randn(rank, *rest, generator=generator)
            up = 0.2 * torch.randn(out, rank, *ones, generator=generator)
            updates[name] = Update(down, up, alpha)
    return updates


def merged(module: nn.Module, updates: Updates, weight: float = 1.0) -> nn.Module:
    """A copy of a module with W + weight * alpha / rank * up @ down for W, in fp64."""
    module = copy.deepcopy(module)
    for name, update in updates.items():
        kernel = module.get_submodule(name).weight
        product = update.up.double().flatten(1) @ update.down.double().flatten(1)
        factor = weight * update.alpha / update.rank
        kernel.data = (kernel.double() + factor * product.view(kernel.shape)).float()
    return module.eval()


def kohya(updates: Updates, prefix: str) -> dict[str, Tensor]:
    """kohya's sd-scripts and OneTrainer: `lora_unet_blocks_2_attention_to_q.lora_down.weight`."""
    return _native({name.replace(".", "_"): update for name, update in updates.items()}, prefix)


def dotted(updates: Updates, prefix: str) -> dict[str, Tensor]:
    """OneTrainer before 2026, for Wuerstchen: `lora_prior_unet.blocks.2….lora_down.weight`."""
    return _native(updates, prefix)


def comfy(updates: Updates, prefix: str) -> dict[str, Tensor]:
    """OneTrainer for ComfyUI: `lora_A` and `lora_B`, alphas kept."""
    tensors = _native(updates, prefix)
    names = {"lora_down": "lora_A", "lora_up": "lora_B"}
    for old, new in names.items():
        tensors = {key.replace(old, new): value for key, value in tensors.items()}
    return tensors


def diffusers(updates: Updates, prefix: str) -> dict[str, Tensor]:
    """OneTrainer for diffusers: `prior.….lora_A.weight`, alpha / rank folded into `lora_B`."""
    tensors = {}
    for name, update in updates.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = update.down
        tensors[f"{prefix}{name}.lora_B.weight"] = update.up * (update.alpha / update.rank)
    return tensors


def _native(updates: Updates, prefix: str) -> dict[str, Tensor]:
    tensors = {}
    for name, update in updates.items():
        tensors[f"{prefix}{name}.lora_down.weight"] = update.down
        tensors[f"{prefix}{name}.lora_up.weight"] = update.up
        tensors[f"{prefix}{name}.alpha"] = torch.tensor(update.alpha)
    return tensors
