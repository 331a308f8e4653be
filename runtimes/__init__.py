"""Run Wuerstchen bundles with NumPy and one inference engine; no PyTorch.

The names below are imported on first use: what `python -m runtimes` does first is to guard itself
against interrupts (runtimes.entry), and this module is imported before that.
"""

import os

# ONNX Runtime's own wheels gather what they run on and send it, unless told so before they load.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

TYPE_CHECKING = False  # typing's, whose import would take longer than all of this
if TYPE_CHECKING:
    from runtimes.bundle.read import Bundle, open_bundle
    from runtimes.errors import RunError, UsageError
    from runtimes.pipeline import Pipeline, Result
    from runtimes.plan import Options
    from runtimes.start import Start

__all__ = [
    "Bundle",
    "Options",
    "Pipeline",
    "Result",
    "RunError",
    "Start",
    "UsageError",
    "open_bundle",
]

_HOMES = {
    "Bundle": "runtimes.bundle.read",
    "Options": "runtimes.plan",
    "Pipeline": "runtimes.pipeline",
    "Result": "runtimes.pipeline",
    "RunError": "runtimes.errors",
    "Start": "runtimes.start",
    "UsageError": "runtimes.errors",
    "open_bundle": "runtimes.bundle.read",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
