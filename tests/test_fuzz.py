"""Every reader of a stranger's file, given files that are nearly right: a value, or one line.

Drawn by Hypothesis: the same few hundred in every run, and as many new ones as one likes with
WUERSTCHEN_FUZZ=EXAMPLES (tests/README.md).
"""

import dataclasses
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters
import hostile_graphs
import manifests
import mutations
import numpy as np
import peak
import pytest
import tiny
import tokenizers_found
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from exporter.checkpoint.embeddings import EmbeddingFile, open_embedding
from exporter.checkpoint.find import find_pair
from exporter.checkpoint.lora import open_lora
from exporter.checkpoint.lora_file import LoraFile
from exporter.checkpoint.open import open_checkpoint
from exporter.checkpoint.vocabulary import read_vocabulary
from exporter.checkpoint.weights import Weights
from exporter.formats.clip_bpe import build
from exporter.formats.tokenizer import check_tokenizer
from exporter.graphs import lora_shapes
from exporter.job import check_job
from exporter.options import ExportOptions
from quantization.plan_file import read_plan, write_plan
from quantization.recipes import INT8_WEIGHTS, Int8
from runtimes import codes
from runtimes.bundle.manifest import GOLDEN_FILE, TOKENS_FILE, File
from runtimes.bundle.manifest_json import read_manifest
from runtimes.bundle.onnx_header import read_header
from runtimes.bundle.ort_format import read_ort_header
from runtimes.bundle.read import sha256
from runtimes.bundle.tokenizer_rules import read_rules
from runtimes.errors import RunError, UsageError
from runtimes.pictures import FITS, FORMATS, fit, read_picture
from runtimes.prompts import read_prompts
from runtimes.replay import replay
from runtimes.tokenizer import PromptTokenizer

LONG = int(os.environ.get("WUERSTCHEN_FUZZ", "0"))  # examples of each test
SOON, MEMORY = 10, 200 << 20
fuzzed = settings(
    max_examples=LONG or 25,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
Call = Callable[[], Any]


def holds(call: Call) -> None:
    """A value or an error of one line, soon and within bounds."""
    start = time.monotonic()
    with peak.measured() as taken:
        try:
            call()
        except (RunError, UsageError) as error:
            message = str(error)
            assert message.isprintable() and message
    assert time.monotonic() - start < SOON
    assert taken() < MEMORY


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles("one_level")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for the file of the moment."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def pair(folders, place):
    return [Path(shutil.copytree(folder, place / folder.name)) for folder in folders("one_level")]


def either(data: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file with values or bytes changed."""
    return mutations.changed(data) | mutations.damaged(data)


@fuzzed
@given(st.data())
def test_manifests(bundle, place, data):
    path = place / "bundle.json"
    # Without the manifest's own hash, which would refuse every one of them alike.
    path.write_bytes(data.draw(either(json.dumps(manifests.read(bundle.folder)).encode())))
    holds(lambda: read_manifest(place))


CONFIGS = [
    "wuerstchen/decoder/config.json", "wuerstchen/vqgan/config.json",
    "wuerstchen/text_encoder/config.json", "wuerstchen-prior/prior/config.json",
    "wuerstchen-prior/scheduler/scheduler_config.json", "wuerstchen/model_index.json",
    "wuerstchen-prior/model_index.json", "wuerstchen-prior/generation_config.json",
    "wuerstchen/tokenizer/tokenizer_config.json", "wuerstchen/tokenizer/vocab.json",
    "wuerstchen/tokenizer/special_tokens_map.json", "wuerstchen/tokenizer/merges.txt",
    "wuerstchen/decoder/diffusion_pytorch_model.safetensors",
]  # fmt: skip


@pytest.fixture(scope="module")
def contents(pair, place):
    return {name: (place / name).read_bytes() for name in CONFIGS}


@fuzzed
@given(st.data())
def test_checkpoints(contents, pair, place, data):
    name = data.draw(st.sampled_from(CONFIGS))
    whole = contents[name]
    (place / name).write_bytes(data.draw(_changed(name, whole)))
    try:
        holds(lambda: _opened(pair))
    finally:
        (place / name).write_bytes(whole)


def _changed(name: str, whole: bytes) -> st.SearchStrategy[bytes]:
    if name.endswith(".safetensors"):
        return headers(whole) | mutations.damaged(whole)
    return either(whole) if name.endswith(".json") else mutations.damaged(whole)


def _opened(pair) -> object:
    return check_job(open_checkpoint(*find_pair(*map(str, pair)), None), ExportOptions())


def headers(whole: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file with values of its header changed."""
    end = 8 + int.from_bytes(whole[:8], "little")
    texts = mutations.changed(whole[8:end])
    return texts.map(lambda text: len(text).to_bytes(8, "little") + text + whole[end:])


@fuzzed
@given(st.data())
def test_weights(place, data):
    whole = save({"a": tiny.torch.ones(2, 3), "b": tiny.torch.ones(4)}, {"format": "pt"})
    path = place / "weights.safetensors"
    path.write_bytes(data.draw(headers(whole) | mutations.damaged(whole)))

    def read() -> None:
        with Weights((path,), {"a": (2, 3), "b": (4,)}, ()) as weights:
            assert weights["a"].shape == (2, 3) and weights["b"].isfinite().all()

    holds(read)


@fuzzed
@given(st.data())
def test_codes(place, data):
    about = codes.About("maker/model@abc", 128, 128, "crop", "0" * 64)
    values = np.arange(16 * 12, dtype=np.float32).reshape(16, 3, 4)
    precision = data.draw(st.sampled_from(codes.PRECISIONS))
    path = place / "code.safetensors"
    codes.write_code(codes.make_code(values, precision, about), path)
    whole = path.read_bytes()
    path.write_bytes(data.draw(headers(whole) | mutations.damaged(whole)))

    def read() -> None:
        code = codes.read_code(path)
        assert code.image_embedding.ndim == 4 and np.isfinite(code.image_embedding).all()

    holds(read)


@pytest.fixture(scope="module")
def shapes(folders):
    return lora_shapes(open_checkpoint(*find_pair(*map(str, folders("one_level"))), None))


CONFIG = {"r": 3, "lora_alpha": 2.0, "peft_type": "LORA", "bias": "none", "use_dora": False,
          "rank_pattern": {"to_q": 3, ".*to_k": 3}, "alpha_pattern": {"to_v": 4.0},
          "use_rslora": False, "target_modules": ["to_q"], "modules_to_save": None}  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    updates = adapters.trained(tiny.reference("one_level").stage_c)
    some = dict(list(updates.items())[:6])
    header = {"lora_adapter_metadata": json.dumps(CONFIG)}
    return save(adapters.dotted(some, "unet."), header), save(adapters.comfy(some, "prior."))


@fuzzed
@given(st.data())
def test_adapters(shapes, trained, place, data):
    path = place / data.draw(st.sampled_from(["a.safetensors", "adapter_model.safetensors"]))
    whole = data.draw(st.sampled_from(trained))
    changed = headers(whole) | mutations.damaged(whole) | st.just(whole)
    path.write_bytes(data.draw(changed))
    config = data.draw(either(json.dumps(CONFIG).encode()))
    (place / "adapter_config.json").write_bytes(config)
    holds(lambda: [p.delta(n) for p in _parts(path, shapes) for n in p.layers])


def _parts(path: Path, shapes: Any) -> list[Any]:
    return list(open_lora(LoraFile(path), shapes).parts.values())


@fuzzed
@given(st.data())
def test_embeddings(place, data):
    whole = save({"emb_params": tiny.torch.ones(2, 8)}, {"name": "<style>"})
    path = place / "embedding.safetensors"
    path.write_bytes(data.draw(headers(whole) | mutations.damaged(whole)))
    holds(lambda: open_embedding(EmbeddingFile(path), {"text_encoder": 8}).vectors())


@pytest.fixture(scope="module")
def serialized():
    return build(read_vocabulary(tiny.TOKENIZER)).to_str().encode()


@fuzzed
@given(st.data())
def test_serialized_tokenizers(bundle, serialized, place, data):
    """As a bundle's, used; and as a checkpoint's."""
    source = place / "tokenizer"
    shutil.copytree(tiny.TOKENIZER, source, dirs_exist_ok=True)
    (source / "tokenizer.json").write_bytes(data.draw(either(serialized)))
    spec = bundle.manifest.tokenizers["text_encoder"]
    prompts = [data.draw(st.text(max_size=60)), "a red <|endoftext|> circle's " * 30]
    holds(lambda: PromptTokenizer(source, spec)(prompts))
    holds(lambda: read_vocabulary(source))
    holds(lambda: read_rules(source / "tokenizer.json", spec))


TOKENIZER_FILES = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                   "vocab.json", "merges.txt"]  # fmt: skip


@fuzzed
@given(st.data())
def test_tokenizer_folders(place, data):
    """Of before transformers wrote added tokens into the config, and of after that."""
    source = place / "folder"
    shutil.copytree(tiny.TOKENIZER, source, dirs_exist_ok=True)
    config = data.draw(st.sampled_from([tokenizers_found.CONFIG, tokenizers_found.OLD_CONFIG]))
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "added_tokens.json").write_text(json.dumps({"<a>": 616} if len(config) < 9 else {}))
    name = data.draw(st.sampled_from(TOKENIZER_FILES))
    whole = (source / name).read_bytes()
    changed = either(whole) if name.endswith(".json") else mutations.damaged(whole)
    (source / name).write_bytes(data.draw(changed))
    holds(lambda: check_tokenizer(source, 77, 700))


@fuzzed
@given(st.data())
def test_golden_runs(bundle, place, data):
    """As a bundle's whose manifest names them."""
    copy = place / "golden-bundle"
    if not copy.exists():
        shutil.copytree(bundle.folder, copy)
    golden, tokens = ((bundle.folder / n).read_bytes() for n in (GOLDEN_FILE, TOKENS_FILE))
    name = data.draw(st.sampled_from([GOLDEN_FILE, GOLDEN_FILE, TOKENS_FILE]))
    strategy = either(tokens) if name == TOKENS_FILE else headers(golden)
    drawn = data.draw(strategy | mutations.damaged(tokens if name == TOKENS_FILE else golden))
    whole = golden if name == GOLDEN_FILE else tokens
    (copy / name).write_bytes(drawn)
    files = bundle.manifest.files | {name: File(len(drawn), sha256(copy / name))}
    hostile = dataclasses.replace(bundle.manifest, files=files)
    try:
        holds(lambda: replay(dataclasses.replace(bundle, folder=copy, manifest=hostile)))
    finally:
        (copy / name).write_bytes(whole)


@fuzzed
@given(st.data())
def test_plans(place, data):
    path = place / "plan.toml"
    recipe = dataclasses.replace(INT8_WEIGHTS, keep=("a.weight", "b.weight"))
    write_plan(path, "int8", {"stage_b": Int8(smoothing=0.5, skip=("c",)), "stage_c": recipe})
    value = st.sampled_from(['"int8"', "[" * 9_999, "nan", "1e999", "[1]", "{a=1}", "9" * 5_000])
    lines = path.read_text().splitlines()
    replaced = st.tuples(st.integers(0, len(lines) - 1), value).map(
        lambda drawn: "\n".join(
            line.split("=")[0] + f"= {drawn[1]}" if index == drawn[0] else line
            for index, line in enumerate(lines)
        )
    )
    drawn = data.draw(replaced.map(str.encode) | mutations.damaged(path.read_bytes()))
    path.write_bytes(drawn)
    holds(lambda: read_plan(path))


@fuzzed
@given(st.data())
def test_prompts(place, data):
    whole = "# a list\na red circle\r\n\\#1 of two\n\na blue stär \U0001f7e6\n".encode()
    path = place / "prompts.txt"
    path.write_bytes(data.draw(mutations.damaged(whole, 6) | st.binary(max_size=200)))
    holds(lambda: read_prompts(path, "--prompts", distinct=True))


def _pictures() -> list[bytes]:
    """A small picture in every format that is read, with what its readers parse beside pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = Image.linear_gradient("L").resize((9, 7)).convert("RGB")
    files = []
    for name in FORMATS:
        image = rgb.convert("P") if name == "GIF" else rgb
        options = {} if name in ("GIF", "BMP") else {"exif": exif}
        files.append(io.BytesIO())
        image.save(files[-1], name, **options)
    grey = Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 1_000)
    files.append(io.BytesIO())
    grey.save(files[-1], "PNG")
    return [file.getvalue() for file in files]


PICTURES = _pictures()


@fuzzed
@given(st.data())
def test_pictures(place, data):
    path = place / "picture"
    path.write_bytes(data.draw(mutations.damaged(data.draw(st.sampled_from(PICTURES)))))

    def call():
        picture = read_picture(path, "--image")
        for how in FITS:
            assert fit(picture, how, 32, 48).shape == (3, 32, 48)

    holds(call)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    """A sound graph of each format, in a folder of its own."""
    saves = hostile_graphs.SAVE.items()
    return {backend: save(tmp_path_factory.mktemp(backend)) for backend, save in saves}


@fuzzed
@given(st.data())
def test_graphs(bundle, place, sound, data):
    backend = data.draw(st.sampled_from(sorted(sound)))
    folder = sound[backend].parent
    name = data.draw(st.sampled_from(sorted(hostile_graphs.sizes(folder))))
    whole = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(data.draw(mutations.damaged(whole)))
        holds(lambda: hostile_graphs.check(backend, sound[backend]))
        if backend == "onnx":
            holds(lambda: read_header(sound[backend]))
    finally:
        (folder / name).write_bytes(whole)


@fuzzed
@given(st.data())
def test_flatbuffers(sound, place, data):
    """Whose offsets lead elsewhere, and whose lists have another length."""
    backend = data.draw(st.sampled_from(["ort", "executorch", "litert"]))
    path = place / sound[backend].name
    path.write_bytes(data.draw(mutations.misled(sound[backend].read_bytes())))
    try:
        holds(lambda: hostile_graphs.check(backend, path))
        if backend == "ort":
            holds(lambda: read_ort_header(path))
    finally:
        path.unlink()
