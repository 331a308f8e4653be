"""`optimum-cli export wuerstchen`: installed as optimum.commands.register.register_wuerstchen.

optimum-cli imports every module of that namespace at each start; nothing else imports this one, so
it may import optimum. It is no part of the `exporter` package: see pyproject.toml.
"""

import argparse
import sys

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class WuerstchenExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum is untyped
    """`python -m exporter` by another name: same options, same code, same exit codes."""

    COMMAND = CommandInfo(name="wuerstchen", help="Export a Wuerstchen checkpoint to a bundle")

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Give optimum's parser of this command the exporter's options."""
        from exporter.cli import add_arguments
        from runtimes.arguments import add_version

        add_version(parser)
        add_arguments(parser)

    def run(self) -> None:
        """Export; the process ends with the exporter's exit code when that is not 0."""
        from exporter.cli import run

        if code := run(self.args):
            sys.exit(code)


REGISTER_COMMANDS = [(WuerstchenExportCommand, ExportCommand)]
