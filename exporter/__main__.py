"""Entry point of `python -m exporter`, and of the script `wuerstchen-export`."""

from runtimes.entry import enter


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    enter("exporter.cli")


if __name__ == "__main__":
    main()
