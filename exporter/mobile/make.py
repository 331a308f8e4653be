"""Bundle to bundle for phones: fixed shapes, ORT format, what it needs and where it runs."""

import dataclasses
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from exporter.mobile.memory import Choice, choices, fitting, memory_of
from exporter.mobile.operators import write_operators
from exporter.mobile.optimised import write_ort
from exporter.mobile.page import OPERATORS, PAGE, REPORT, Made, page, report
from exporter.mobile.request import Fixed, Request, check_request, check_sizes, too_large
from exporter.mobile.static import closed, write_static
from exporter.mobile.usability import Support, support
from runtimes.bundle.graph_files import engine_reads
from runtimes.bundle.manifest import DENOISERS, GOLDEN_FILE, ORT_SUFFIX, Graph, Manifest, Mobile
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.bundle.readme import bundle_readme
from runtimes.bundle.write import atomic_folder, check_output, check_space, seal
from runtimes.console import require
from runtimes.dimensions import sizes_at
from runtimes.errors import RunError, UsageError
from runtimes.memory import in_bytes
from runtimes.progress import Progress

README = "README.md"
_OWN = (README, PAGE, REPORT, OPERATORS)  # written anew
_TOOLS = ("onnx", "onnxruntime")


def make(folder: Path, output: Path, request: Request, progress: Progress) -> Made:
    """Write the phone bundle of the bundle in `folder` to `output`, all or nothing.

    UsageError, before anything is computed, for what cannot be made or does not fit into
    `request.budget`; RunError where nothing that was tried came out as small as estimated.
    """
    check_output(output, overwrite=request.overwrite)
    bundle = open_bundle(folder)
    if output.resolve().is_relative_to(bundle.folder):
        raise UsageError(f"{output} is inside the bundle {bundle.folder}; give another output")
    fixed = check_request(bundle, request)
    tried = _choices(bundle, fixed, request)
    fit = fitting(tried, request.budget, bundle)
    if request.budget is not None:  # what may be chosen is left to us
        fit = [each for each in fit if not too_large(each.sizes, request.form)] or fit
    if fit[0].precision:
        note = ", which makes weights smaller"
        require(("onnx_ir", "onnxruntime"), "quantization,cpu", note=note)
    check_sizes(bundle, fit[0].sizes, request.form)
    check_space(output, int(2.2 * sum(file.size for file in bundle.manifest.files.values())))
    with atomic_folder(output, overwrite=request.overwrite) as part:
        with _scratch(part) as scratch:  # gone before the files of the bundle are listed
            source, chosen = _settled(bundle, fixed, request, fit, scratch, progress)
            progress.line(f"{chosen.named(bundle.manifest.precision)}: {in_bytes(chosen.memory)}")
            work = _Work(source, check_request(source, request), request, part, scratch, progress)
            manifest = work.write()
        made = Made(manifest, tuple(tried), chosen, fixed.batch, work.before, work.after)
        made = _finish(part, made, request, progress)
    open_bundle(output, hashes="none")  # each file was hashed a moment ago
    return made


def _choices(bundle: Bundle, fixed: Fixed, request: Request) -> list[Choice]:
    """Every form of a bundle, at the size that is asked for."""
    suffix = ORT_SUFFIX if request.form == "ort" else ".onnx"
    manifest = dataclasses.replace(bundle.manifest, sampling=fixed.manifest.sampling)
    return choices(Bundle(bundle.folder, manifest), suffix, fixed.batch)


def _settled(
    bundle: Bundle,
    fixed: Fixed,
    request: Request,
    fit: Sequence[Choice],
    scratch: Path,
    progress: Progress,
) -> tuple[Bundle, Choice]:
    """The first of what fits by the estimates that also does when its weights are made.

    Weights that would cost too much stay larger, which nobody knows before.
    """
    made: dict[str, Bundle] = {"": bundle}
    least = fit[0]
    for choice in fit:
        if choice.precision not in made:
            made[choice.precision] = _quantised(
                bundle, choice.precision, scratch / choice.precision, progress
            )
        source = made[choice.precision]
        real = next(c for c in _choices(source, fixed, request) if c.keep == choice.keep)
        settled = dataclasses.replace(choice, memory=real.memory, sizes=real.sizes)
        if request.budget is None or real.memory <= request.budget:
            return source, settled
        least = min(least, settled, key=lambda each: each.memory)
        named = choice.named(bundle.manifest.precision)
        progress.line(f"{named}: takes {in_bytes(real.memory)}, more than estimated")
    raise RunError(
        f"--memory-budget {in_bytes(request.budget or 0)}: nothing came out as small as estimated; "
        f"the least is {in_bytes(least.memory)} ({least.named(bundle.manifest.precision)})"
    )


@dataclass
class _Work:
    """A bundle that is being made of `source`, whose shapes become those of `fixed`."""

    source: Bundle
    fixed: Fixed
    request: Request
    folder: Path
    scratch: Path
    progress: Progress

    def __post_init__(self) -> None:
        self.before: dict[str, dict[str, Support]] = {}
        self.after: dict[str, dict[str, Support]] = {}

    def write(self) -> Manifest:
        """Graphs and everything beside them; the manifest, not sealed yet."""
        manifest = self.source.manifest
        graphs = {}
        for number, name in enumerate(manifest.graphs, 1):
            self.progress.line(f"[{number}/{len(manifest.graphs)}] {name}")
            graphs[name] = self._graph(name)
        golden = self._copy_rest()
        made = dataclasses.replace(
            self.fixed.manifest,
            graphs=graphs,
            golden=manifest.golden if golden else None,
            tools=manifest.tools | {name: importlib.metadata.version(name) for name in _TOOLS},
        )
        if self.request.form == "ort":
            files = [self.folder / graph.file for graph in graphs.values()]
            write_operators(files, self.folder / OPERATORS, self.scratch)
        return made

    def _graph(self, name: str) -> Graph:
        graph = self.source.graph(name)
        done = self.source.manifest.quantization.get(name)
        named = sizes_at(name, self.fixed.rows(name), self.fixed.size)
        path = self.source.path(graph.file)
        ort = self.request.form == "ort"
        # In the form of ORT, the ONNX graph is on its way only.
        home = self.scratch / name if ort else (self.folder / graph.file).parent
        static = home / PurePosixPath(graph.file).name
        write_static(path, graph, named, static)
        with _scratch(self.scratch) as scratch:
            self.before[name] = support(path, done, scratch)
            self.after[name] = support(static, done, scratch)
        made = dataclasses.replace(closed(graph, named), origin="")
        if not ort:
            return made
        file = str(PurePosixPath(graph.file).with_suffix(ORT_SUFFIX))
        target = self.folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        write_ort(static, target, self.request.level or "extended", done)
        shutil.rmtree(home)
        return dataclasses.replace(made, file=file)

    def _copy_rest(self) -> bool:
        """Tokenizers and all else but graphs; whether the golden run is of these shapes still."""
        manifest = self.source.manifest
        read = {
            key for name in manifest.graphs for key in self.source.files_of(name)
            if engine_reads(manifest, key) or self.request.form == "ort"
        }  # fmt: skip
        kept = [key for key in manifest.files if key not in read and key not in _OWN]
        same = self.fixed.manifest.sampling == manifest.sampling and self.fixed.batch == 1
        golden = GOLDEN_FILE in kept and manifest.golden is not None
        if golden and not same:
            self.progress.line("without the golden run, which is of another size or batch")
            golden = False
        if golden:
            try:
                self.source.verified(GOLDEN_FILE)
            except RunError as error:
                self.progress.line(f"without the golden run: {error}")
                golden = False
        for key in kept:
            if key != GOLDEN_FILE or golden:
                (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.source.verified(key), self.folder / key)
        return golden


def _finish(part: Path, made: Made, request: Request, progress: Progress) -> Made:
    """The pages beside the graphs, and the manifest."""
    level = request.level or "extended" if request.form == "ort" else "none"
    sealed = seal(part, made.manifest)  # whose files are what memory is estimated from
    memory = memory_of(sealed, made.batch, made.chosen.keep)
    mobile = Mobile(level, made.chosen.keep, memory, request.budget)
    manifest = dataclasses.replace(sealed, mobile=mobile)
    made = dataclasses.replace(made, manifest=manifest)
    (part / PAGE).write_text(page(made), encoding="utf-8")
    (part / REPORT).write_text(json.dumps(report(made), indent=1) + "\n", encoding="utf-8")
    (part / README).write_text(bundle_readme(manifest), encoding="utf-8")
    size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    return dataclasses.replace(made, manifest=seal(part, manifest, progress.graph("hashing", size)))


def _quantised(bundle: Bundle, precision: str, output: Path, progress: Progress) -> Bundle:
    """The bundle with integer weights, made by the command of the layer that does that.

    As a process: the exporter knows nothing of it. Whole runs judge it, unless there are none
    because a denoiser is missing.
    """
    progress.line(f"python -m quantization --precision {precision}")
    words = [str(bundle.folder), str(output), "--precision", precision, "--quiet"]
    if not set(DENOISERS) <= bundle.manifest.graphs.keys():
        words += ["--target-db", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "quantization", *words],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"python -m quantization: {lines[-1].removeprefix('error: ')}")
    return open_bundle(output, hashes="none")


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
        yield Path(scratch)
