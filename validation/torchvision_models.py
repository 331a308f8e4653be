"""torchvision's models beside any build of PyTorch, which its compiled operators need not suit."""

import functools
import importlib
from types import ModuleType

import torch

# What torchvision registers kernels for as it is imported, whether its operators loaded or not.
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def torchvision_models() -> ModuleType:
    """`torchvision.models`; call it before what imports torchvision itself, as transformers does.

    A wheel's compiled operators load beside the build of PyTorch that they were made for, and
    without them the import ends at the first that it looks for. Their schemas suffice: no
    classifier calls one.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name, schema in _SCHEMAS.items():
        torch.library.define(f"torchvision::{name}", schema)
    return importlib.import_module("torchvision.models")
