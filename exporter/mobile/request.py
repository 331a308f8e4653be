"""What is asked for, and whether a bundle can be made into that: before anything is written."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtimes.bundle.manifest import Manifest
from runtimes.bundle.ort_format import MOST_BYTES
from runtimes.bundle.read import Bundle
from runtimes.errors import UsageError
from runtimes.memory import in_bytes
from runtimes.plan import batch_rows, fixed_batch
from runtimes.sizes import Sizes, sizes

Form = Literal["ort", "onnx"]
# Precisions that a CPU without their kernels widens to fp32, for good where a file is written.
_WIDENED = ("fp16", "fp16-weights")
# Precisions whose products are fused by ONNX Runtime at the level 'extended'.
_FUSED = ("int8", "int8-dynamic")


@dataclass(frozen=True)
class Request:
    """What to make of a bundle. None takes the bundle's own; `budget` is in bytes."""

    form: Form = "ort"
    level: Literal["basic", "extended"] | None = None
    height: int | None = None
    width: int | None = None
    batch_size: int | None = None
    budget: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Fixed:
    """The one size that graphs get, and the manifest with it as its default."""

    manifest: Manifest
    size: Sizes
    batch: int

    def rows(self, name: str) -> int:
        """Rows of a graph's batch, guidance as by default."""
        sampling = self.manifest.sampling
        scales = sampling.stage_c.guidance, sampling.stage_b.guidance
        return batch_rows(name, self.batch, *scales)


def check_request(bundle: Bundle, request: Request) -> Fixed:
    """UsageError for what cannot be made of a bundle; else the size that its graphs get."""
    _check_form(bundle, request)
    manifest = bundle.manifest
    sampling = dataclasses.replace(
        manifest.sampling,
        height=manifest.sampling.height if request.height is None else request.height,
        width=manifest.sampling.width if request.width is None else request.width,
    )
    size = sizes(sampling.height, sampling.width, sampling)
    batch = 1 if request.batch_size is None else request.batch_size
    if batch < 1:
        raise UsageError(f"--batch-size is {batch}; it must be at least 1")
    held = fixed_batch(manifest)
    if manifest.sizes or held is not None:
        asked = (size.picture, held if request.batch_size is None else batch)
        own = " or ".join("{} x {}".format(*each) for each in manifest.sizes)
        if asked != (manifest.sizes[0] if len(manifest.sizes) == 1 else None, held):
            raise UsageError(
                f"{bundle.folder} makes pictures of {own} pixels, {held} at a time, and nothing "
                f"else; for {size.picture[0]} x {size.picture[1]}, {asked[1]} at a time, give a "
                "bundle of open shapes"
            )
        batch = held or batch
    fixed = dataclasses.replace(manifest, sampling=sampling, sizes=(size.picture,))
    return Fixed(fixed, size, batch)


def too_large(stored: Mapping[str, int], form: Form) -> str:
    """The first graph that is larger than an ORT file can be, by its bytes; '' for none."""
    sizes = stored.items() if form == "ort" else ()
    return next((name for name, size in sizes if size > MOST_BYTES), "")


def check_sizes(bundle: Bundle, stored: Mapping[str, int], form: Form) -> None:
    """UsageError for a graph that is larger than an ORT file can be."""
    if name := too_large(stored, form):
        raise UsageError(
            f"{name} of {bundle.folder} has {in_bytes(stored[name])}, and an ORT file holds 2 GB "
            "at most: quantise the bundle (python -m quantization BUNDLE OUTPUT --precision "
            "int8-weights), or give --form onnx"
        )


def _check_form(bundle: Bundle, request: Request) -> None:
    manifest, form = bundle.manifest, request.form
    if manifest.backend != "onnx":
        own = {"coreml": "Core ML", "openvino": "OpenVINO"}.get(manifest.backend, manifest.backend)
        also = "; Core ML's packages run on Apple's phones as they are"
        raise UsageError(
            f"{bundle.folder} is a bundle of {own}: ONNX Runtime Mobile takes ONNX ones (python -m "
            f"exporter --backend onnx){also if manifest.backend == 'coreml' else ''}"
        )
    if any(graph.is_ort for graph in manifest.graphs.values()):
        raise UsageError(f"{bundle.folder} has graphs in ORT format already; give its source")
    if form == "onnx" and request.level is not None:
        raise UsageError("--level is for --form ort: ONNX files are optimised where they run")
    used = {graph.precision for graph in manifest.graphs.values()}
    if form == "ort" and (widened := used & set(_WIDENED)):
        raise UsageError(
            f"{bundle.folder} is {min(widened)}: in ORT format its weights would be as large as in "
            "fp32, for a CPU that writes it widens them; give --form onnx, or an int8-weights "
            "bundle"
        )
    fused = used & set(_FUSED)
    if fused and (form == "onnx" or request.level == "basic"):
        flag = "--form onnx" if form == "onnx" else "--level basic"
        raise UsageError(
            f"{flag}: with fixed shapes ONNX Runtime would compute the products of {min(fused)} in "
            "fp32; they are fused in ORT format at the level extended (the default)"
        )
