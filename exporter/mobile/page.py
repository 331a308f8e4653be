"""`mobile.md` and `mobile.json` of a bundle: memory, and what accelerators take."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.mobile.memory import Choice
from exporter.mobile.usability import Support, as_json
from runtimes.bundle.manifest import Manifest, Mobile
from runtimes.memory import in_bytes

PAGE, REPORT = "mobile.md", "mobile.json"
OPERATORS = "required_operators.config"
_PAGE = """# {model} on a phone

{form}, for pictures of {picture} pixels (height x width), {batch} at a time.
Precision: {precision}.

## Memory

Estimates of weights and activations in bytes on ONNX Runtime's CPU kernels; the app and the system
come on top.{budget}

| weights and graphs | memory |
|---|--:|
{memory}

**{chosen}.** `bundle.json` has it as `mobile.keep`: 'all' keeps every session open, 'one' opens a
graph, runs all its steps and closes it before the next. `python -m runtimes` follows it.
{operators}
## Accelerators

What ONNX Runtime's checker says (`onnxruntime.tools.check_onnx_model_mobile_usability`), by its
lists of operators, fixed shapes and ranks: nodes taken, in so many parts. Each further part costs
copies to the accelerator and back. No driver was asked.{level}

| graph | accelerator | open shapes | these | left to the CPU |
|---|---|--:|--:|---|
{rows}
"""
_OPERATORS = """
## A smaller ONNX Runtime

`required_operators.config` has every operator of these files with the types it is used for. A build
of ONNX Runtime with nothing else, which reads `.ort` files only:

    ./build.sh --config MinSizeRel --android --android_abi arm64-v8a --minimal_build \\
      --include_ops_by_config required_operators.config --enable_reduced_operator_type_support

`--minimal_build extended` instead, with `--use_nnapi`, `--use_coreml` or `--use_xnnpack`, keeps
what accelerators need.
"""
_EXTENDED = """ They take nodes of ONNX's own operators; the `.ort` files here have
operators fused for the CPU: make a bundle with `--level basic` to hand its nodes over."""


@dataclass(frozen=True)
class Made:
    """A phone bundle for `batch` pictures at a time: what else was possible, and what was chosen.

    What accelerators take, by graph and accelerator: `before` the shapes were fixed, and `after`.
    """

    manifest: Manifest
    tried: tuple[Choice, ...]
    chosen: Choice
    batch: int
    before: dict[str, dict[str, Support]]
    after: dict[str, dict[str, Support]]

    @property
    def mobile(self) -> Mobile:
        """What the manifest says of it."""
        assert self.manifest.mobile is not None
        return self.manifest.mobile


def page(made: Made) -> str:
    """Markdown."""
    manifest, mobile = made.manifest, made.mobile
    own = _source_precision(made)
    ort = mobile.level != "none"
    return _PAGE.format(
        model=manifest.model.id,
        form=f"ORT files at the level '{mobile.level}'" if ort else "ONNX files",
        picture="{} x {}".format(*manifest.sizes[0]),
        batch=made.batch,
        precision=manifest.precision,
        budget=f" Budget: {in_bytes(mobile.budget)}." if mobile.budget is not None else "",
        memory="\n".join(f"| {c.named(own)} | {in_bytes(c.memory)} |" for c in made.tried),
        chosen=f"Chosen: {made.chosen.named(own)}, {in_bytes(mobile.memory)} as it came out",
        operators=_OPERATORS if ort else "",
        level=_EXTENDED if mobile.level == "extended" else "",
        rows="\n".join(_rows(made)),
    )


def report(made: Made) -> dict[str, Any]:
    """The same for programs."""
    own = _source_precision(made)
    return {
        "mobile": dataclasses.asdict(made.mobile),
        "precision": made.manifest.precision,
        "choices": [
            {"precision": c.precision or own, "keep": c.keep, "memory": c.memory}
            for c in made.tried
        ],
        "graphs": {
            name: {
                "file": graph.file,
                "bytes": made.manifest.files[graph.file].size,
                "open_shapes": as_json(made.before[name]),
                "fixed_shapes": as_json(made.after[name]),
            }
            for name, graph in made.manifest.graphs.items()
        },
    }


def summary(made: Made) -> Iterator[str]:
    """A line a graph."""
    for name, graph in made.manifest.graphs.items():
        parts = ", ".join(
            f"{accelerator} {_taken(found)}" for accelerator, found in made.after[name].items()
        )
        yield f"{name}: {in_bytes(made.manifest.files[graph.file].size)}; {parts}"


def _source_precision(made: Made) -> str:
    return "fp32" if made.chosen.precision else made.manifest.precision


def _rows(made: Made) -> Iterator[str]:
    for name in made.manifest.graphs:
        for accelerator, found in made.after[name].items():
            before = _taken(made.before[name][accelerator])
            yield f"| {name} | {accelerator} | {before} | {_taken(found)} | {_left(found)} |"


def _taken(found: Support) -> str:
    return f"{found.supported} of {found.nodes} in {found.partitions}"


def _left(found: Support) -> str:
    """Why nodes stay: operators by name, others by number."""
    reasons = [operator.removeprefix("ai.onnx:") for operator in found.operators]
    if found.open_shapes:
        reasons.append(f"{found.open_shapes} nodes of unknown shapes")
    if found.ranks:
        reasons.append(f"{found.ranks} nodes of too many axes")
    return ", ".join(reasons)
