"""python -m validation placement BUNDLE: what keeps its Core ML programs off the Neural Engine."""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from runtimes.arguments import a_path
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.console import require
from runtimes.errors import UsageError

if TYPE_CHECKING:
    from validation.mil.placement import Program, Wide

_COLUMNS = ("operations", "fp16", "fp32", "casts", "runs", "gathers", "axes > 5")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=a_path, help="a Core ML bundle's folder, of 'exporter --backend coreml'")
    add("--operations", action="store_true", help="list every operation in fp32 with its block")


def run(args: argparse.Namespace) -> None:
    bundle = open_bundle(args.bundle)
    if bundle.manifest.backend != "coreml":
        raise UsageError(
            f"{args.bundle} is a bundle for {bundle.manifest.backend}: placement is for those of "
            "'python -m exporter --backend coreml'"
        )
    programs = _programs(bundle)
    if args.json:
        print(json.dumps([_record(program) for program in programs]))
        return
    print("\n".join(_table(programs)))
    for program in programs:
        print("\n".join(["", *_reasons(program, every=args.operations)]))


def _programs(bundle: Bundle) -> "list[Program]":
    note = ", which reading Core ML programs needs"
    require(("torch", "coremltools"), "export,coreml", note=note)
    from validation.mil.placement import placement

    return [
        program
        for name, graph in bundle.manifest.graphs.items()
        for program in placement(bundle.path(graph.file), name)
    ]


def _record(program: "Program") -> dict[str, object]:
    return {**dataclasses.asdict(program), "why": program.why}


def _table(programs: "Iterable[Program]") -> list[str]:
    lines = [f"{'graph':24}" + "".join(f"{name:>12}" for name in _COLUMNS)]
    for program in programs:
        counts = (
            *(program.operations, program.half, len(program.wide) - program.casts),
            *(program.casts, program.runs, program.gathers, program.beyond_axes),
        )
        lines.append(f"{_name(program):24}" + "".join(f"{count:>12}" for count in counts))
    return lines


def _reasons(program: "Program", *, every: bool) -> list[str]:
    """A line per reason: how many operations, of which kinds, in which blocks; or one per each."""
    lines = [f"{_name(program)}: in fp32" + ("" if program.wide else ": nothing")]
    for why, count in program.why.items():
        chosen = [operation for operation in program.wide if operation.why == why]
        kinds = Counter(operation.kind for operation in chosen)
        listed = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
        lines.append(f"  {why:12} {count:4}  {_span(chosen)}: {listed}")
        if every:
            lines += [f"{'':19}{o.block:16} {o.kind:16} {o.name} {list(o.shape)}" for o in chosen]
    return lines


def _span(operations: "list[Wide]") -> str:
    blocks = list(dict.fromkeys(operation.block for operation in operations))
    if len(blocks) == 1:
        return blocks[0]
    return f"{blocks[0]} to {blocks[-1]} ({len(blocks)} blocks)"


def _name(program: "Program") -> str:
    return program.graph if program.function == "main" else f"{program.graph} {program.function}"
