"""What is killed: the writing of every kind of output, by the commands themselves.

Each is as short as its command can be, so that moments fall into the writing: an export takes its
graphs over from the bundle it replaces, a comparison was made before. What a command would import
in the middle of its work is imported before it is forked.
"""

import dataclasses
import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.part import NEW as MOVED
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.bundle.write import atomic_folder, check_output, seal
from runtimes.console import guarded
from runtimes.errors import RunError
from runtimes.images import read_parameters
from validation.quality.folder import read_json
from validation.report.collect import Comparison
from validation.trust.case import MOVING, NEW, OLD, Case

SHORT = ("--steps", "1", "--decoder-steps", "1")


def export(bundle: Bundle, sources: Sequence[str], folder: Path) -> Case:
    """`python -m exporter --resume` over a bundle with a golden run, to one without.

    `sources`: the words that name the bundle's checkpoint.
    """
    from exporter.cli import main

    _import("exporter.export")
    output = folder / "export"
    words = [str(output), *sources, "--resume", "--no-golden", "--quiet"]
    return _replacing("export", bundle, output, lambda: main(words))


def quantise(bundle: Bundle, folder: Path) -> Case:
    """`python -m quantization --overwrite` over a bundle."""
    from quantization.cli import main

    _import("quantization.onnx_weights", "quantization.onnx_kernels", "onnxruntime")
    output = folder / "quantised"
    words = [str(bundle.folder), str(output), "--overwrite", "--quiet"]
    words += ["--precision", "int8-weights", "--target-db", "0"]
    return _replacing("quantisation", bundle, output, lambda: main(words))


def cache(bundle: Bundle, folder: Path) -> Case:
    """OpenVINO's compiled graphs of a picture, and the picture over an old one."""
    from runtimes.cli import main

    _import("runtimes.engines.openvino", "openvino")
    home = folder / "cache"
    picture, compiled = home / "picture.png", home / "compiled"
    words = [str(bundle.folder), "a circle", *SHORT, "-o", str(picture), "--quiet"]
    words += ["--engine", "openvino", "--cache-dir", str(compiled)]

    def prepare() -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()

    def state() -> str:
        if not picture.exists():
            return OLD
        read_parameters(picture)  # decodes it, too
        return NEW

    def left() -> list[str]:
        known = {picture, compiled, *compiled.glob("*.blob")}
        return [str(path) for path in home.rglob("*") if path not in known]

    return Case("compiled graphs", prepare, lambda: main(words), state, left)


def report(comparison: Comparison, folder: Path) -> Case:
    """The files of a comparison, into a folder that is new."""
    from runtimes.bundle.write import atomic_folder, check_new
    from validation.report.command import write_report

    _import("jinja2")
    home = folder / "report"
    output, names = home / "new" / "report", ["report.html", "report.json"]

    def prepare() -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()

    def write() -> None:
        if state() == OLD:  # a second run is refused
            check_new(output, "--report")
            with atomic_folder(output, overwrite=False) as part:
                write_report(comparison, part)

    def state() -> str:
        if not output.exists():
            return OLD
        found = sorted(path.name for path in output.iterdir())
        whole = found == names and read_json(output / names[1]) is not None
        return NEW if whole else f"half a report: {found}"

    def left() -> list[str]:
        known = {output.parent, output, *output.iterdir()} if output.exists() else set()
        return [str(path) for path in home.rglob("*") if path not in known]

    def work() -> int:
        return guarded(write, debug=False, interrupted="nothing was written")

    return Case("report", prepare, work, state, left)


def sweep(bundle: Bundle, against: Path, folder: Path) -> Case:
    """`python -m validation sweep` of one cell: its pictures, latents, figures, table and plot.

    `against` is another bundle of the same checkpoint.
    """
    from validation.cli import main

    _import("onnxruntime", "skimage.metrics", "transformers.models.clip.modeling_clip")
    output, prompts = folder / "sweep", folder / "prompts.txt"
    prompts.write_text("a circle\n", encoding="utf-8")
    words = ["sweep", str(bundle.folder), "-o", str(output), *SHORT, "--quiet"]
    words += ["--prompts", str(prompts), "--against", str(against)]

    def state() -> str:
        wrong = [path.name for path in output.rglob("*.json") if read_json(path) is None]
        for path in output.rglob("*.png"):
            read_parameters(path)
        done = (output / "sweep.json").exists() and (output / "sweep.svg").exists()
        return f"half of {wrong}" if wrong else NEW if done else OLD

    def left() -> list[str]:
        return [str(path) for path in output.rglob(".*")]

    return Case(
        "sweep",
        lambda: shutil.rmtree(output, ignore_errors=True),
        lambda: main(words),
        state,
        left,
    )


def replace(bundle: Bundle, folder: Path) -> Case:
    """A bundle over itself, with another word in its manifest, as every command replaces one."""
    output = folder / "replaced"
    changed = dataclasses.replace(
        bundle.manifest, tools=bundle.manifest.tools | {"copied": "by validation"}
    )

    def write() -> None:
        check_output(output, overwrite=True)
        with atomic_folder(output, overwrite=True) as part:
            for name in bundle.manifest.files:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path(name), part / name)
            seal(part, changed)

    def work() -> int:
        return guarded(write, debug=False, interrupted="nothing was written")

    return _replacing("replacement", bundle, output, work)


def _import(*modules: str) -> None:
    for module in modules:
        importlib.import_module(module)


def _replacing(name: str, old: Bundle, output: Path, work: Callable[[], int]) -> Case:
    """Work that replaces a copy of the bundle `old`; the new one's manifest is another."""
    before = (old.folder / MANIFEST_NAME).read_bytes()

    def prepare() -> None:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(old.folder, output)

    def state() -> str:
        if (output / MOVED / MANIFEST_NAME).is_file() and not (output / MANIFEST_NAME).exists():
            return MOVING
        try:
            found = open_bundle(output, hashes="fresh", verify_rest=True)
        except RunError as error:
            return str(error)
        return OLD if (found.folder / MANIFEST_NAME).read_bytes() == before else NEW

    def left() -> list[str]:
        beside = [path.name for path in output.parent.glob(f".{output.name}*")]
        return [*beside, *open_bundle(output, hashes="none").strangers()]

    return Case(name, prepare, work, state, left)
