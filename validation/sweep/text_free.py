"""The bundle of the same checkpoint whose Stage B gets no text: the paper's Appendix J."""

from pathlib import Path
from typing import TYPE_CHECKING

from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.console import require
from runtimes.errors import UsageError
from runtimes.progress import Progress

if TYPE_CHECKING:  # the command line is read where the exporter's packages may be missing
    from exporter.checkpoint.find import Source

FOLDER = "text-free"


def sources(
    bundle: Bundle, folder: Path, reference: str | None, prior: str | None
) -> "tuple[Source, Source] | None":
    """The checkpoint to export to `folder`, decoder and prior; None when that was done before.

    UsageError unless the bundle has text in Stage B and is as the exporter made it.
    """
    manifest = bundle.manifest
    if manifest.text_graphs["stage_b"] is None:
        raise UsageError(f"{bundle.folder} is text-free already; give one with text")
    if manifest.quantization:
        raise UsageError(
            f"{bundle.folder} is quantised: quantise a bundle exported with --stage-b-text drop "
            "the same way, and give it as --against"
        )
    note = ", which --preset text-free needs to export a bundle"
    require(("torch", "onnx", "safetensors"), "export", note=note)
    if (folder / MANIFEST_NAME).is_file():
        return None
    from validation.parity.checkpoints import reference_pair

    return reference_pair(manifest.model, reference, prior)


def text_free(
    bundle: Bundle,
    folder: Path,
    pair: "tuple[Source, Source] | None",
    progress: Progress,
) -> Bundle:
    """The bundle in `folder`; exported first from `pair`, as `bundle` was, if there is one."""
    if pair is None:
        return open_bundle(folder)
    from exporter.export import export
    from exporter.options import ExportOptions

    manifest = bundle.manifest
    sizes = manifest.sizes
    options = ExportOptions(
        backend=manifest.backend,
        precision=manifest.precision,
        text=False,
        height=manifest.sampling.height,
        width=manifest.sampling.width,
        static=bool(sizes),
        sizes=sizes if manifest.backend == "coreml" and len(sizes) > 1 else (),
        golden=False,
        variant=manifest.model.variant or None,
    )
    progress.line(f"exporting the text-free bundle to {folder}")
    export(*pair, folder, options, progress)
    return open_bundle(folder)
