"""Entry point of `python -m validation`."""

from runtimes.entry import enter

enter("validation.cli")
