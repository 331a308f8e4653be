"""A bundle as a model in a Triton repository: model, configuration, environment, client."""

import importlib.metadata
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtimes.arguments import PACKAGE, package_version
from runtimes.bundle.manifest import MANIFEST_NAME, Manifest
from runtimes.bundle.read import Bundle
from runtimes.bundle.write import atomic_folder, check_new, check_space
from runtimes.errors import UsageError
from runtimes.plan import fixed_batch

VERSION = "1"
_MODEL, _CLIENT = (Path(__file__).with_name(name) for name in ("model.py", "client.py"))
_ENGINES = {"onnx": "cpu", "openvino": "openvino"}
# What each input is of: Triton's type; all but the prompt may be left out.
INPUTS = {
    "PROMPT": "TYPE_STRING",
    "NEGATIVE_PROMPT": "TYPE_STRING",
    "SEED": "TYPE_INT64",
    "STEPS": "TYPE_INT32",
    "GUIDANCE": "TYPE_FP32",
    "DECODER_STEPS": "TYPE_INT32",
    "HEIGHT": "TYPE_INT32",
    "WIDTH": "TYPE_INT32",
}


@dataclass(frozen=True)
class Request:
    """How a bundle is served: the model's name, and what Triton does with its requests.

    `batch` pictures at a time at most, which wait `delay` microseconds for one another. `gpus`: an
    instance on each GPU instead of one on the CPU, whose `threads` it takes (None: all).
    """

    name: str
    batch: int
    delay: int
    gpus: bool
    engine: str | None
    threads: int | None
    low_memory: bool


def write_repository(bundle: Bundle, repository: Path, request: Request) -> Path:
    """Write the folder of the model into `repository`, all or nothing, and return it.

    Other models there stay as they are. UsageError for a bundle that no Python backend on Linux
    runs, a model of that name that is there, a batch that the bundle's graphs do not take.
    """
    _check(bundle, request)
    model = repository / request.name
    check_new(model, "REPOSITORY")
    if model.resolve().is_relative_to(bundle.folder):
        raise UsageError(f"{model} is inside the bundle {bundle.folder}; give another repository")
    manifest = bundle.manifest
    check_space(model, sum(file.size for file in manifest.files.values()))
    with atomic_folder(model, overwrite=False) as folder:
        version = folder / VERSION
        for key in (MANIFEST_NAME, *manifest.files):
            target = version / "bundle" / key
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(
                bundle.folder / key if key == MANIFEST_NAME else bundle.path(key), target
            )
        shutil.copyfile(_MODEL, version / "model.py")
        for name, text in _texts(manifest, request).items():
            (folder / name).write_text(text, encoding="utf-8")
    return model


def _check(bundle: Bundle, request: Request) -> None:
    backend = bundle.manifest.backend
    if backend not in _ENGINES:
        raise UsageError(
            f"{bundle.folder} is of {backend}, which Triton's servers do not run; give a bundle of "
            f"{' or '.join(_ENGINES)}"
        )
    fixed = fixed_batch(bundle.manifest)
    if fixed not in (None, request.batch):
        raise UsageError(
            f"--max-batch-size {request.batch}: this bundle was exported for a batch of {fixed}; "
            "export without --static"
        )


def _texts(manifest: Manifest, request: Request) -> dict[str, str]:
    return {
        "config.pbtxt": config(request),
        "requirements.txt": requirements(manifest, request),
        "client.py": _CLIENT.read_text(encoding="utf-8"),
        "README.md": _readme(manifest, request),
    }


def config(request: Request) -> str:
    """The model's configuration, in protobuf's text format."""
    inputs = ",\n".join(_input(name, kind) for name, kind in INPUTS.items())
    parameters = {
        "engine": request.engine or "",
        "threads": "" if request.threads is None else str(request.threads),
        "low_memory": "true" if request.low_memory else "false",
    }
    return (
        f'name: "{request.name}"\n'
        'backend: "python"\n'
        f"max_batch_size: {request.batch}\n"
        f"input [\n{inputs}\n]\n"
        "output [\n"
        '  { name: "IMAGE" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] },\n'
        '  { name: "SEED" data_type: TYPE_INT64 dims: [ 1 ] }\n'
        "]\n"
        "# Pictures of one request after the other wait this long to be made together.\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {request.delay} }}\n"
        "# One pipeline a device: it takes all of its cores, or the whole GPU.\n"
        f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if request.gpus else 'KIND_CPU'} }} ]\n"
        + "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
            for key, value in parameters.items()
        )
    )


def _input(name: str, kind: str) -> str:
    optional = "" if name == "PROMPT" else " optional: true"
    return f'  {{ name: "{name}" data_type: {kind} dims: [ 1 ]{optional} }}'


def requirements(manifest: Manifest, request: Request) -> str:
    """What the model's Python needs, in the versions that wrote it where they are installed."""
    extra = "cuda" if request.gpus else _ENGINES[manifest.backend]
    lines = [f"{PACKAGE}[{extra}]=={package_version()}"]
    engine = {"cpu": "onnxruntime", "openvino": "openvino"}.get(extra)
    for name in filter(None, ("tokenizers", "pillow", engine)):
        with suppress(importlib.metadata.PackageNotFoundError):
            lines.append(f"{name}=={importlib.metadata.version(name)}")
    # Backends of Triton 2.51 (and of 24.10's image) read arrays as NumPy 1 lays them out.
    return "\n".join([*lines, "numpy<2"]) + "\n"


def _readme(manifest: Manifest, request: Request) -> str:
    size = f"{manifest.sampling.height} x {manifest.sampling.width}"
    return f"""# {request.name}: {manifest.model.id} on Triton

A model of Triton's Python backend that makes pictures with the bundle in `{VERSION}/bundle`
({manifest.backend}, {manifest.precision}), of {size} pixels unless asked otherwise.

| input | type | |
|---|---|---|
| `PROMPT` | string | what to draw |
| `NEGATIVE_PROMPT` | string | optional |
| `SEED` | int64 | optional; without it one is drawn, and `SEED` of the response says which |
| `STEPS`, `DECODER_STEPS` | int32 | optional: even steps of Stage C and Stage B |
| `GUIDANCE` | fp32 | optional |
| `HEIGHT`, `WIDTH` | int32 | optional, in pixels |

All have the shape (B, 1): a value a picture. Outputs: `IMAGE` (B, height, width, 3) uint8, and
`SEED`. Up to {request.batch} pictures of the same options are made together, of one request or of
several that come within {request.delay / 1000:g} ms; each is the picture that it would be alone.

## Environment

The model imports `runtimes`, which needs NumPy, tokenizers, Pillow and one engine: what
`requirements.txt` names. Install it into the Python of Triton's image,

    pip install -r requirements.txt

or put a packed environment beside it (`conda-pack`, of the Python version that the image's backend
was built for) and add to `config.pbtxt`:

    parameters {{
      key: "EXECUTION_ENV_PATH"
      value {{ string_value: "$$TRITON_MODEL_DIRECTORY/environment.tar.gz" }}
    }}

## Start, and ask

    tritonserver --model-repository REPOSITORY      # the folder that this one is in
    pip install 'tritonclient[http]' numpy pillow
    python client.py "a red circle" -o picture.png --seed 7
"""
