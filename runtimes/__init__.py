"""Run Wuerstchen bundles with NumPy and one inference engine; no PyTorch."""

from runtimes.bundle.read import Bundle, open_bundle
from runtimes.errors import RunError, UsageError
from runtimes.pipeline import Pipeline, Result
from runtimes.plan import Options

__all__ = ["Bundle", "Options", "Pipeline", "Result", "RunError", "UsageError", "open_bundle"]
