"""The image embedding's resize as two matrix products (rewrite 2)."""

import torch
from torch import Tensor


def resize_matrix(size_in: int, size_out: int) -> Tensor:
    """The (size_out, size_in) matrix of torch's bicubic, antialiased, align_corners resize.

    The antialiased kernel samples at s*(i + 0.5) with s = (in-1)/(out-1) even under
    align_corners (ATen/native/cpu/UpSampleKernel.cpp); ONNX Resize and OpenVINO's conversion
    sample elsewhere. Sizes may be symbolic: the matrix is then computed in the graph.
    """
    last_in = torch.full((), size_in - 1, dtype=torch.float32)
    last_out = torch.full((), size_out - 1, dtype=torch.float32)
    # s is 0 for a single output, as in torch; no branch, so that it can be traced.
    scale = last_in / last_out.clamp(min=1) * last_out.clamp(max=1)
    centre = scale * (torch.arange(size_out, dtype=torch.float32)[:, None] + 0.5)
    at = torch.arange(size_in, dtype=torch.float32)[None, :] + 0.5
    weights = cubic((at - centre) / scale.clamp(min=1))
    return weights / weights.sum(dim=1, keepdim=True)


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """(B,C,h,w) to (B,C,height,width)."""
    rows, columns = resize_matrix(x.shape[2], height), resize_matrix(x.shape[3], width)
    return rows @ x @ columns.T
