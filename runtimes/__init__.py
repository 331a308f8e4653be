"""Run Wuerstchen bundles with NumPy and one inference engine; no PyTorch."""

from runtimes.bundle import Bundle, open_bundle
from runtimes.errors import RunError, UsageError
from runtimes.pipeline import Options, Pipeline, Result

__all__ = ["Bundle", "Options", "Pipeline", "Result", "RunError", "UsageError", "open_bundle"]
