"""Run Wuerstchen bundles with NumPy and one inference engine; no PyTorch."""

from runtimes.bundle import Bundle, open_bundle
from runtimes.errors import RunError, UsageError
from runtimes.options import Options
from runtimes.pipeline import Pipeline, Result

__all__ = ["Bundle", "Options", "Pipeline", "Result", "RunError", "UsageError", "open_bundle"]
