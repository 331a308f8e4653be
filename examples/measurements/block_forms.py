"""Time the denoisers' blocks in other forms: what a layout or an operator brings.

    python examples/measurements/block_forms.py --repeats 7 --without compile autocast --markdown

Every form computes the same function of the same weights. Blocks have the public widths and stand
in stacks, between which and the feeds a form that keeps channels last moves them once.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from exporter.cost import GraphCost
from exporter.formats.onnx import FUSED_OPSET, OPSET
from exporter.modules.blocks import AttnBlock, GlobalResponseNorm, ResBlock, fuse_attention
from exporter.modules.layout import (
    Layout,
    Pointwise,
    channel_axis,
    spatial_axes,
    to_layout,
    to_nchw,
)
from runtimes.arguments import Parser
from runtimes.bundle.manifest import Graph
from runtimes.bundle.manifest import Tensor as Named
from runtimes.console import run_cli
from runtimes.engines.base import GraphFile, Tensors
from validation.bench.cases import Case, count_flops
from validation.bench.cli import (
    add_timing_options,
    check_timing,
    print_findings,
    quieten_libraries,
    settings_of,
)
from validation.bench.conditioning import Conditioning
from validation.bench.contenders import Source
from validation.bench.public import RandomWeights
from validation.bench.run import bench_cases
from validation.bench.settings import Report

REMARK = (
    "PyTorch runs the first form of each block, which is the exported one: speed-ups and relative "
    "errors are against its fp32. OpenVINO compiles every form for the sizes it is fed."
)
DEPTH = 3  # blocks in a stack
TEXT = 77  # tokens


@dataclass(frozen=True)
class Place:
    """Where blocks stand in the public denoisers at 1024 x 1024 pixels."""

    name: str
    rows: int
    width: int
    heads: int
    side: int


PLACES = (
    Place("stage_c", 2, 1536, 24, 24),
    Place("stage_b, level 2", 1, 640, 10, 64),
)


class ReduceL2(GlobalResponseNorm):
    """GlobalResponseNorm with its norm as one operator."""

    def __init__(self, plain: GlobalResponseNorm) -> None:
        super().__init__(plain.gamma.numel(), plain.layout)
        self.gamma = plain.gamma

    def forward(self, x: Tensor) -> Tensor:
        channels = channel_axis(self.layout)
        norm = torch.linalg.vector_norm(x, dim=spatial_axes(self.layout), keepdim=True)
        share = norm / (norm.mean(dim=channels, keepdim=True) + 1e-6)
        shape = [-1 if axis == channels else 1 for axis in range(4)]
        return x * (self.gamma.view(shape) * share + 1)


class OneProjection(AttnBlock):
    """Queries, keys and values by one product; each is then a slice of what it gave."""

    def __init__(self, block: AttnBlock) -> None:
        width, parts = block.to_out.bias.numel(), (block.to_q, block.to_k, block.to_v)
        super().__init__(width, block.heads, block.layout)
        del self.to_q, self.to_k, self.to_v
        self.to_qkv = Pointwise(width, 3 * width, block.layout)
        self.to_qkv.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.to_qkv.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        self.to_out = block.to_out

    def project(self, normed: Tensor) -> tuple[Tensor, ...]:
        return self.to_qkv(normed).chunk(3, dim=channel_axis(self.layout))


class Stack(nn.Module):
    """Blocks of one kind between tensors (B, C, H, W); attention also takes text_kv."""

    def __init__(self, blocks: Sequence[nn.Module], layout: Layout) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.layout = layout

    def forward(self, x: Tensor, text_kv: Tensor | None = None) -> Tensor:
        x = to_layout(x, self.layout)
        for block in self.blocks:
            x = block(x, []) if text_kv is None else block(x, text_kv)
        return to_nchw(x, self.layout)


def _res(place: Place, layout: Layout) -> nn.Module:
    return ResBlock(place.width, 0, 3, layout)


def _attention(place: Place, layout: Layout) -> nn.Module:
    return AttnBlock(place.width, place.heads, layout)


def _as_it_is(block: nn.Module) -> nn.Module:
    return block


def _reduce_l2(block: nn.Module) -> nn.Module:
    assert isinstance(block, ResBlock)
    block.grn = ReduceL2(block.grn)
    return block


def _one_projection(block: nn.Module) -> nn.Module:
    assert isinstance(block, AttnBlock)
    return OneProjection(block)


def _one_operator(block: nn.Module) -> nn.Module:
    fuse_attention(block)
    return block


@dataclass(frozen=True)
class BlockForm:
    """A way to write a kind of block: its layout, and what is changed once its weights are in."""

    name: str
    kind: str
    layout: Layout = "nchw"
    change: Callable[[nn.Module], nn.Module] = _as_it_is
    opset: int = OPSET
    static: bool = False


KINDS = {"res": _res, "attention": _attention}
# The first of a kind is what the exporter writes.
FORMS = (
    BlockForm("1x1 convolutions", "res"),
    BlockForm("fixed sizes", "res", static=True),
    BlockForm("channels last", "res", "nhwc"),
    BlockForm("ReduceL2 in GRN", "res", change=_reduce_l2),
    BlockForm("1x1 convolutions", "attention"),
    BlockForm("fixed sizes", "attention", static=True),
    BlockForm("channels last", "attention", "nhwc"),
    BlockForm("q, k and v in one", "attention", change=_one_projection),
    BlockForm("one Attention operator", "attention", change=_one_operator, opset=FUSED_OPSET),
)


class Forms:
    """Cases of the blocks, and the files of their forms, which are written with each case."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._folder = folder
        self._report = report
        self._files: dict[str, dict[str, GraphFile]] = {}

    def sources(self) -> list[Source]:
        """One per form, in the order of FORMS."""
        return [self._source(name) for name in dict.fromkeys(form.name for form in FORMS)]

    def _source(self, name: str) -> Source:
        return Source(f"{name}: ", "onnx", lambda case: self._files[case.name].get(name))

    def cases(self) -> Iterator[Case]:
        """Per place and kind of block, in every form; PyTorch runs the first."""
        for place in PLACES:
            for kind in KINDS:
                yield self._case(place, kind)
                shutil.rmtree(self._folder / kind)

    def _case(self, place: Place, kind: str) -> Case:
        name = f"{place.name}, {DEPTH} x {kind}"
        self._report(f"exporting {name}")
        drawn = _drawn(place, kind)
        inputs = tuple(drawn.values())
        forms = [form for form in FORMS if form.kind == kind]
        stacks = {form.name: _stack(place, form) for form in forms}
        self._files[name] = {
            form.name: _write(stacks[form.name], drawn, form, self._folder / kind) for form in forms
        }
        first = stacks[forms[0].name]
        with torch.inference_mode():
            expected: Tensors = {"out": first(*inputs).numpy()}
        cost = _cost(name, place, kind, first, inputs)
        return Case(
            name=name,
            module=_stack(place, forms[0]),
            inputs=inputs,
            public=False,
            file=self._files[name][forms[0].name],
            feeds={key: value.numpy() for key, value in drawn.items()},
            expected=expected,
            cost=cost,
            module_flops=cost.flops,
            conditioning=Conditioning(),
            folder=self._folder / kind,
        )


def _drawn(place: Place, kind: str) -> dict[str, Tensor]:
    """Seeded noise for a stack's inputs: latents (B,C,H,W), and text_kv (B,2,T,C) of attention."""
    generator = torch.Generator().manual_seed(0)
    shape = (place.rows, place.width, place.side, place.side)
    drawn = {"latents": torch.randn(shape, generator=generator)}
    if kind == "attention":
        text = (place.rows, 2, TEXT, place.width)
        drawn["text_kv"] = torch.randn(text, generator=generator)
    return drawn


def _cost(
    name: str, place: Place, kind: str, stack: Stack, inputs: tuple[Tensor, ...]
) -> GraphCost:
    """What a case needs: FLOPs, and the bytes by which `--memory` groups contenders.

    The stack is of no use after: its weights are gone.
    """
    parameters = sum(parameter.numel() for parameter in stack.parameters())
    flops = count_flops(stack.to("meta"), inputs)
    # The largest tensors alive at once: a block's four-fold hidden layer, or attention's scores.
    hidden = 4 * 4 * place.rows * place.width * place.side**2
    scores = 4 * place.rows * place.heads * place.side**2 * (place.side**2 + TEXT)
    alive = max(hidden, scores if kind == "attention" else 0)
    return GraphCost(name, 1, parameters, flops, 4 * parameters + 2 * alive)


def _stack(place: Place, form: BlockForm) -> Stack:
    """A form's blocks with the weights that all forms of this kind have."""
    make = KINDS[form.kind]
    with torch.device("meta"):
        state = Stack([make(place, "nhwc") for _ in range(DEPTH)], "nhwc").state_dict()
    weights = RandomWeights({key: tuple(value.shape) for key, value in state.items()})
    stack = Stack([make(place, form.layout) for _ in range(DEPTH)], form.layout)
    stack.load_state_dict({key: weights[key] for key in state})
    stack.blocks = nn.ModuleList(map(form.change, stack.blocks))
    return stack.requires_grad_(False).eval()


def _write(stack: Stack, drawn: dict[str, Tensor], form: BlockForm, folder: Path) -> GraphFile:
    path = folder / form.name.replace(" ", "-") / "model.onnx"
    path.parent.mkdir(parents=True)
    every = {0: "batch", 2: "h", 3: "w"}
    sides = {name: torch.export.Dim(name) for name in every.values()}
    free = {key: every if key == "latents" else {0: "batch"} for key in drawn if not form.static}
    dynamic = [{axis: sides[name] for axis, name in axes.items()} for axes in free.values()]
    torch.onnx.export(
        stack,
        tuple(drawn.values()),
        str(path),
        dynamo=True,
        dynamic_shapes=tuple(dynamic) or None,
        input_names=list(drawn),
        output_names=["out"],
        opset_version=form.opset,
        verbose=False,
    )
    inputs = tuple(
        Named(key, "float32", tuple(free.get(key, {}).get(i, n) for i, n in enumerate(value.shape)))
        for key, value in drawn.items()
    )
    graph = Graph(path.name, "fp32", inputs, (Named("out", "float32", inputs[0].shape),))
    return GraphFile(path, graph, f"{form.kind}, {form.name}")


def parser() -> Parser:
    """The script's command line."""
    words = Parser(
        prog="python examples/measurements/block_forms.py",
        description="Time single blocks of the public widths on the CPU in several layouts and "
        "operators, interleaved in one run, with their errors against PyTorch fp32.",
    )
    add_timing_options(words)
    words.add_argument("--json", action="store_true", help="print every measurement as JSON")
    words.add_argument("--debug", action="store_true", help="show the traceback of an error")
    words.set_defaults(device="cpu")
    return words


def run(args: argparse.Namespace) -> None:
    """Export and time every form of every block, and print the table."""
    check_timing(args)
    quieten_libraries()
    settings = settings_of(args, graphs=())
    with tempfile.TemporaryDirectory() as folder:
        forms = Forms(Path(folder), settings.report)
        findings = bench_cases(forms.cases(), forms.sources(), settings)
    findings.remarks.append(REMARK)
    print_findings(findings, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), run, argv, interrupted="only the times above were measured")


if __name__ == "__main__":
    sys.exit(main())
