"""torchvision's models beside any build of PyTorch, which its compiled operators need not suit.

torchvision is no dependency of this package: transformers imports one that is in its environment,
and where its operators do not load beside this build of PyTorch, nothing of transformers does. It
lies in a folder of the environment instead, where nobody else looks:

    pip install --no-deps --target "$VIRTUAL_ENV/torchvision" torchvision
"""

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

BESIDE = Path(sys.prefix) / "torchvision"
# What torchvision registers kernels for as it is imported, whether its operators loaded or not.
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def torchvision_models() -> ModuleType:
    """`torchvision.models`, of the environment or of the folder beside it.

    Without its compiled operators the import ends at the first that it looks for. Their schemas
    suffice: no classifier calls one.

    Raises:
        ModuleNotFoundError: torchvision is in neither place.
    """
    if importlib.util.find_spec("torchvision") is None:
        sys.path.append(str(BESIDE))
        importlib.invalidate_caches()
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name, schema in _SCHEMAS.items():
        torch.library.define(f"torchvision::{name}", schema)
    return importlib.import_module("torchvision.models")


def has_torchvision() -> bool:
    """Whether it is in either place."""
    return importlib.util.find_spec("torchvision") is not None or BESIDE.is_dir()
