"""torchvision beside any build of PyTorch, which its compiled operators need not suit.

transformers imports torchvision wherever it is installed. What imports transformers calls
`let_torchvision_import` first, or imports `torchvision_first`: else it may end with 'operator
torchvision::nms does not exist'.
"""

import contextlib
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
    """`torchvision.models`, the semantic compressor's reference among them.

    A wheel's operators load beside the build of PyTorch that they were made for, and without them
    the import ends at the first that it looks for. Their schemas suffice: no classifier calls one.

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


def let_torchvision_import() -> None:
    """Import torchvision, if it is there, so that whoever imports it next finds it imported."""
    with contextlib.suppress(ModuleNotFoundError):
        torchvision_models()
