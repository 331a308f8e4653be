"""Entry point of `python -m quantization`."""

from runtimes.entry import enter

enter("quantization.cli")
