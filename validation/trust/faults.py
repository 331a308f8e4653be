"""python -m validation.trust.faults: kill what writes outputs, break its disk, and print figures.

A process of its own, for it forks: nothing here may start a thread.
"""

import argparse
import dataclasses
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

from runtimes.arguments import Parser, integer
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.console import run_cli
from runtimes.engines.base import Execution
from runtimes.errors import RunError, UsageError
from runtimes.progress import SILENT
from runtimes.recording import read_golden
from validation.report.collect import Comparison, compare
from validation.report.command import entries_of
from validation.trust import cases
from validation.trust.broken_disks import DiskFaults, fail_often
from validation.trust.case import Case
from validation.trust.forks import run
from validation.trust.kills import Kills, kill_often

# How many of 33 faults each kind of output gets: the longer its work, the fewer.
SHARES = {"export": 9, "report": 8, "quantise": 4, "cache": 2, "sweep": 1, "replace": 9}
_FLAGS = {"checkpoint": "-m", "prior": "--prior", "against": "--against"}
_NEEDS = {"export": ("checkpoint", "prior"), "sweep": ("against",)}


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m validation.trust.faults`."""
    command_line = Parser(prog="python -m validation.trust.faults", description=__doc__)
    add = command_line.add_argument
    add("bundle", type=Path, help="small ONNX bundle with a golden run")
    add("--against", type=Path, help="another bundle of the same checkpoint, which sweep needs")
    add("-m", dest="checkpoint", help="the checkpoint it was exported from, which export needs")
    add("--prior", help="that one's prior")
    add("-o", "--output", type=Path, required=True, help="folder to work in")
    add("--kills", type=integer, default=200, help="processes to kill in all (default: 200)")
    add("--disk-faults", type=integer, default=50, help="disks to break in all (default: 50)")
    add("--seed", type=integer, default=0, help="of moments and steps (default: 0)")
    add("--only", choices=list(SHARES), nargs="+", default=list(SHARES), help="what to write")
    add("--debug", action="store_true", help="show the traceback of an error")
    return command_line


def all_cases(
    bundle: Bundle, against: Path, sources: list[str], folder: Path
) -> Mapping[str, Callable[[], Case]]:
    """Each kind of output, by name; `sources` name the bundle's checkpoint to the exporter."""
    return {
        "export": lambda: cases.export(bundle, sources, folder),
        "quantise": lambda: cases.quantise(bundle, folder),
        "cache": lambda: cases.cache(bundle, folder),
        "report": lambda: cases.report(_comparison(bundle, folder), folder),
        "sweep": lambda: cases.sweep(bundle, against, folder),
        "replace": lambda: cases.replace(bundle, folder),
    }


def _comparison(bundle: Bundle, folder: Path) -> Comparison:
    """The bundle judged by its golden run, in a process that may start threads."""
    kept = folder / "comparison.pickle"

    def work() -> None:
        run_on = Execution()
        found = compare(entries_of([bundle], run_on), read_golden(bundle), run_on, 1, SILENT)
        kept.write_bytes(pickle.dumps(found))

    if run(work, folder / "log.txt")[0] != 0:
        raise RunError(f"{bundle.folder} is not judged: {(folder / 'log.txt').read_text()}")
    comparison: Comparison = pickle.loads(kept.read_bytes())
    return comparison


def faults(args: argparse.Namespace) -> list[Kills | DiskFaults]:
    """The figures of each kind of output that was asked for."""
    args.output.mkdir(parents=True, exist_ok=True)
    bundle, log = open_bundle(args.bundle), args.output / "log.txt"
    sources = ["-m", args.checkpoint, "--prior", args.prior]
    made = all_cases(bundle, args.against, sources, args.output)
    shares = sum(SHARES[name] for name in args.only)
    found: list[Kills | DiskFaults] = []
    for name in args.only:
        case, share = made[name](), SHARES[name] / shares
        if args.kills:
            found.append(kill_often(case, max(2, round(args.kills * share)), args.seed, log))
        if args.disk_faults:
            count = max(2, round(args.disk_faults * share))
            found.append(fail_often(case, count, args.seed, log))
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command line: 1 when a fault lost something, left something, or was not told."""
    return run_cli(parser(), _run, argv, interrupted="only some faults were made")


def _run(args: argparse.Namespace) -> int:
    for name in args.only:
        for option in _NEEDS.get(name, ()):
            if getattr(args, option) is None:
                raise UsageError(f"--only {name} needs {_FLAGS[option]}")
    found = faults(args)
    print(json.dumps([dataclasses.asdict(each) for each in found], indent=1))
    return int(any(_is_wrong(each) for each in found))


def _is_wrong(found: Kills | DiskFaults) -> bool:
    return bool(found.wrong if isinstance(found, DiskFaults) else found.lost or found.left)


if __name__ == "__main__":
    raise SystemExit(main())
