"""What each MIL operation computes: https://apple.github.io/coremltools (MIL ops, iOS 17).

A function's parameters are those of the operation, tensors or strings, defaults as in MIL; a
parameter or value that is not here is an error, never ignored. Results have the type of the
inputs: after every operation, fp16 is rounded to fp16.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.errors import RunError
from validation.mil.heavy import conv, conv_transpose, linear, matmul
from validation.mil.movement import (
    concat,
    expand_dims,
    gather,
    pixel_shuffle,
    reshape,
    slice_by_index,
    split,
    squeeze,
    stack,
    transpose,
)

_CAST = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}


def _unary(compute: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def computed(x: Tensor) -> Tensor:  # MIL's parameter is named x, whatever torch's is
        return compute(x)

    return computed


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Broadcasting as in torch, but no promotion: MIL wants one type."""

    def computed(x: Tensor, y: Tensor) -> Tensor:
        if x.dtype != y.dtype:
            raise RunError(f"types {x.dtype} and {y.dtype} differ")
        return compute(x, y)

    return computed


def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(_CAST[dtype])


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return x.clamp(alpha, beta)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode != "EXACT":
        raise RunError(f"mode {mode} is not EXACT")
    return F.gelu(x)


def identity(x: Tensor) -> Tensor:
    return x


def layer_norm(
    x: Tensor,
    axes: Tensor,
    epsilon: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:
    """Over any axes; `gamma` and `beta` have the shape of those axes."""
    over = [axis % x.ndim for axis in axes.tolist()]
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    centred = x - x.mean(dim=over, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(dim=over, keepdim=True) + epsilon)
    if gamma is not None:
        normed = normed * gamma.reshape(shape)
    return normed if beta is None else normed + beta.reshape(shape)


def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.leaky_relu(x, alpha.item())


def reduce_max(x: Tensor, axes: Tensor, keep_dims: Tensor) -> Tensor:
    return x.amax(dim=axes.tolist(), keepdim=bool(keep_dims))


def reduce_mean(x: Tensor, axes: Tensor, keep_dims: Tensor) -> Tensor:
    return x.mean(dim=axes.tolist(), keepdim=bool(keep_dims))


def reduce_sum(x: Tensor, axes: Tensor, keep_dims: Tensor) -> Tensor:
    return x.sum(dim=axes.tolist(), keepdim=bool(keep_dims))


def rsqrt(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.rsqrt(x + epsilon)


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if a.dtype != b.dtype:
        raise RunError(f"types {a.dtype} and {b.dtype} differ")
    return torch.where(cond, a, b)


def softmax(x: Tensor, axis: Tensor) -> Tensor:
    return x.softmax(dim=int(axis))


# Exactly the operations of the seven graphs (abs, not_equal: of earlier exports'); a program with
# another one is not interpreted.
OPERATIONS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "abs": _unary(torch.abs),
    "add": _binary(torch.add),
    "cast": cast,
    "clip": clip,
    "concat": concat,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "expand_dims": expand_dims,
    "gather": gather,
    "gelu": gelu,
    "greater_equal": _binary(torch.ge),
    "identity": identity,
    "layer_norm": layer_norm,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "logical_and": _binary(torch.logical_and),
    "matmul": matmul,
    "mul": _binary(torch.mul),
    "not_equal": _binary(torch.ne),
    "pixel_shuffle": pixel_shuffle,
    "real_div": _binary(torch.div),
    "reduce_max": reduce_max,
    "reduce_mean": reduce_mean,
    "reduce_sum": reduce_sum,
    "relu": _unary(F.relu),
    "reshape": reshape,
    "rsqrt": rsqrt,
    "select": select,
    "sigmoid": _unary(torch.sigmoid),
    "silu": _unary(F.silu),
    "slice_by_index": slice_by_index,
    "softmax": softmax,
    "split": split,
    "sqrt": _unary(torch.sqrt),
    "squeeze": squeeze,
    "stack": stack,
    "sub": _binary(torch.sub),
    "transpose": transpose,
}
