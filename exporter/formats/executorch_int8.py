"""8-bit products in ExecuTorch programs, by torchao: a scale per output channel of the weights.

Nothing is calibrated: XNNPACK rounds activations as they come, with a scale for each position.
"""

from collections.abc import Iterator

from torch import nn

from exporter.modules.layout import Pointwise
from runtimes.bundle.manifest import Weight

# The last part of the names of products that stay fp32. Near the end of a trajectory epsilon
# magnifies what the last projection rounds; the others have few of the weights.
EXACT = ("clf", "embed", "mapper", "out", "projection")


def round_products(module: nn.Module) -> None:
    """Replace the weights of a module's products; it then computes as its program will."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, quantize_
    from torchao.utils import unwrap_tensor_subclass

    config = Int8DynamicActivationIntxWeightConfig(weight_granularity=PerAxis(0))
    quantize_(module, config, _is_rounded)
    unwrap_tensor_subclass(module)


def dynamic_weights(module: nn.Module) -> tuple[Weight, ...]:
    """Every weight of a module as it was before, and what becomes of it."""
    return tuple(_listed(module))


def _listed(module: nn.Module) -> Iterator[Weight]:
    for name, layer in module.named_modules():
        weight = getattr(layer, "weight", None)
        if weight is None or weight.ndim < 2:
            continue
        if _is_rounded(layer, name):
            yield Weight(f"{name}.weight", "int8, dynamic activations", "")
        elif _is_product(layer):
            reason = "it stays exact, or has little to gain"
            yield Weight(f"{name}.weight", "float32", reason)
        else:
            reason = f"{type(layer).__name__}: no product of channels"
            yield Weight(f"{name}.weight", "float32", reason)


def _is_product(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | Pointwise)


def _is_rounded(layer: nn.Module, name: str) -> bool:
    return _is_product(layer) and name.rpartition(".")[2] not in EXACT
