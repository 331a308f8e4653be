"""Entry point of `python -m runtimes`."""

from runtimes.entry import enter

enter("runtimes.cli")
