"""The C++ host makes the runtimes' pictures, and says what is wrong in one line."""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import manifests
import numpy as np
import pytest
from filelock import FileLock
from host_tools import EXAMPLES, command, required, reseal
from PIL import Image

from exporter.options import ExportOptions
from runtimes.bundle.manifest import GOLDEN_FILE, TOKENS_FILE
from runtimes.bundle.read import Bundle
from runtimes.noise import TorchNoise
from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from runtimes.schedule import even_timesteps, schedule, timestep_embedding
from runtimes.tokenizer import PromptTokenizer
from runtimes.tolerances import EMBEDDING, NOISE, SAME_SEED_LEVELS, SCHEDULE

pytestmark = pytest.mark.slow

SOURCE = EXAMPLES / "cpp"
# The folder that install_tools.sh was given.
TOOLS = Path(os.environ.get("HOST_CPP_TOOLS", SOURCE / "build/tools"))
INSTALL = f"examples/cpp/install_tools.sh {TOOLS}"
PROMPT, NEGATIVE = "a large red circle", "a blue square"


def built(folder: Path) -> Path:
    """The folder of the programs, with both engines and the warnings on."""
    openvino = find_spec("openvino")
    required(openvino, "openvino", "pip install openvino")
    headers = (TOOLS / "usr/include/onnxruntime", Path("/usr/include/onnxruntime"))
    required(any(map(Path.is_dir, headers)), "onnxruntime_cxx_api.h", INSTALL)
    for header in ("nlohmann/json.hpp", "stb/stb_image_write.h", "openssl/evp.h"):
        required((Path("/usr/include") / header).is_file(), header, INSTALL)
    found = Path(openvino.origin).parent / "cmake"
    return configured(SOURCE, folder, f"-DOpenVINO_DIR={found}")


def configured(source: Path, folder: Path, *flags: str) -> Path:
    """The folder of the programs, built with warnings as errors."""
    cmake, ninja = command("cmake", INSTALL), command("ninja", INSTALL)
    configure = [cmake, "-S", source, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    flags = (f"-DTOOLS={TOOLS}", "-DCMAKE_CXX_FLAGS=-Werror", *flags)
    for words in ([*configure, *flags], [cmake, "--build", folder]):
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def programs(shared) -> Path:
    with FileLock(shared / "host-cpp.lock"):
        return built(shared / "host-cpp")


Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def host(programs) -> Run:
    """Runs the host; `memory` limits its address space."""
    import onnxruntime

    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1.*"))
    environment = os.environ | {"ONNXRUNTIME": str(library)}

    def run(*words: object, memory: int | None = None, **options) -> subprocess.CompletedProcess:
        def limit() -> None:
            if memory is not None:
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

        arguments = [word if isinstance(word, bytes) else str(word) for word in words]
        options = {"capture_output": True, "env": environment, "preexec_fn": limit} | options
        program = [programs / "wuerstchen", *arguments]
        done = subprocess.run(program, check=False, timeout=300, **options)
        for stream in ("stdout", "stderr"):
            setattr(done, stream, (getattr(done, stream) or b"").decode(errors="replace"))
        return done

    return run


@pytest.fixture(scope="session")
def answers(programs) -> Callable[..., object]:
    def ask(*words: object) -> object:
        done = subprocess.run(
            [programs / "answers", *map(str, words)], capture_output=True, check=True
        )
        return json.loads(done.stdout)

    return ask


@pytest.fixture
def bundle(bundles) -> Bundle:
    return bundles("one_level")


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))


def test_noise_is_that_of_pytorch(answers, bundle):
    sizes = (16, 20, 33, 1000)
    for seed in (0, 7, 2**32 + 7, -1):
        source = TorchNoise(seed)
        for size, drawn in zip(sizes, answers("noise", bundle.folder, seed, *sizes), strict=True):
            assert np.abs(np.array(drawn) - source.draw((size,))).max() <= NOISE


@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_schedules_of_other_steps_are_those_of_the_runtimes(answers, bundle, steps):
    for stage in ("stage_c", "stage_b"):
        denoiser = getattr(bundle.manifest.sampling, stage)
        rows = schedule(even_timesteps(steps), denoiser.s, denoiser.scaler)
        answer = answers("schedule", bundle.folder, stage, steps)
        expected = np.array([(row.t, row.a, row.b, row.c) for row in rows])
        assert np.abs(np.array(answer["rows"]) - expected).max() <= SCHEDULE
        embeddings = np.concatenate([timestep_embedding(row.t, denoiser) for row in rows])
        assert np.abs(np.array(answer["embeddings"]) - embeddings).max() <= EMBEDDING


def test_hard_prompts_have_the_ids_of_the_tokenizers_library(answers, host, bundle):
    """All but those whose characters are newer than the tables of Unicode it was built with."""
    done = host(bundle.folder, "--replay")
    left_out = [line for line in done.stderr.splitlines() if "left out" in line]
    different = 0
    for entry in json.loads(bundle.path(TOKENS_FILE).read_text("utf-8")):
        for graph, ids in entry["input_ids"].items():
            if "\0" not in entry["prompt"]:  # no argument can hold it; --replay has it, too
                answer = answers("tokens", bundle.folder, graph, entry["prompt"])
                assert sum(answer["mask"]) == entry["length"][graph] or left_out
                different += answer["ids"] != ids
    assert different == 0 or (left_out and different <= 2)


@pytest.mark.parametrize("words", ["word " * 90, "<|endoftext|> " * 80, "x" * 3000])
def test_what_is_cut_off_a_prompt_is_what_the_runtimes_say(answers, bundle, words):
    spec = bundle.manifest.tokenizers["text_encoder"]
    expected = PromptTokenizer(bundle.path(spec.folder), spec)([words]).truncated[0]
    assert answers("tokens", bundle.folder, "text_encoder", words)["truncated"] == expected


BUNDLES = {
    "two text encoders": ("one_level", ExportOptions()),
    "text-free": ("public", ExportOptions(text=False)),
    "fixed shapes": ("public", ExportOptions(static=True, height=128, width=256)),
}
ENGINES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("kind", BUNDLES)
def test_a_bundle_of_any_wiring_replays_and_checks(host, bundles, kind):
    folder = bundles(*BUNDLES[kind]).folder
    done = host(folder, "--replay")
    assert (done.returncode, done.stdout.count("error 0 ")) == (0, 10), done.stdout + done.stderr
    for engine in ENGINES:
        done = host(folder, "--check", "--engine", engine, "--json", "--low-memory")
        assert done.returncode == 0, done.stderr
        checks = json.loads(done.stdout)
        assert all(check["passed"] for check in checks)
        assert {"free run: latents", "free run: picture"} <= {check["what"] for check in checks}


# Options of the host, and the same for the runtimes.
CASES = {
    "as it comes": ([], Options()),
    "another size and seed": (
        ["--size", "48x96", "--seed", "4294967299"],
        Options(height=48, width=96, seed=2**32 + 3),
    ),
    "other steps": (
        ["--steps", "5", "--decoder-steps=3"],
        Options(steps=5, decoder_steps=3),
    ),
    "no guidance": (
        ["--guidance", "1", "--steps", "3", "--decoder-steps", "2"],
        Options(guidance=1, steps=3, decoder_steps=2),
    ),
    "guidance of both stages": (
        ["--guidance", "2.5", "--decoder-guidance", "1.5", "--steps", "4", "--decoder-steps", "3"],
        Options(guidance=2.5, decoder_guidance=1.5, steps=4, decoder_steps=3),
    ),
}


def same_picture(path: Path, bundle: Bundle, engine: str, options: Options) -> int:
    """The largest difference of a picture from that of the runtimes, of 255."""
    precision = "f32" if engine == "openvino" else None
    with Pipeline.open(bundle, engine=engine, precision=precision) as pipeline:
        expected = pipeline(PROMPT, NEGATIVE, options).pictures[0].astype(int)
    with Image.open(path) as image:
        made = np.array(image).astype(int)
    assert made.shape == expected.shape
    return int(np.abs(made - expected).max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_that_of_the_runtimes(host, bundle, tmp_path, engine, case):
    words, options = CASES[case]
    words = [*words, "--engine", engine, "--negative-prompt", NEGATIVE, "--threads", "2"]
    if engine == "openvino":
        words += ["--execution-precision", "f32"]
    done = host(bundle.folder, PROMPT, "-o", tmp_path / "p.png", "--json", *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["graphs"].keys() == bundle.manifest.graphs.keys() and result["peak_bytes"] > 0
    assert re.search(r"^stage_b: (\d+) of \1$", done.stderr, re.MULTILINE)
    assert same_picture(tmp_path / "p.png", bundle, engine, options) <= SAME_SEED_LEVELS


@pytest.mark.parametrize("kind", [kind for kind in BUNDLES if kind != "two text encoders"])
def test_pictures_of_other_bundles_are_those_of_the_runtimes(host, bundles, tmp_path, kind):
    bundle = bundles(*BUNDLES[kind])
    options = Options(
        steps=3,
        decoder_steps=2,
        height=128 if kind == "fixed shapes" else None,
        width=256 if kind == "fixed shapes" else None,
    )
    words = ["--steps", 3, "--decoder-steps", 2, "--negative-prompt", NEGATIVE, "--low-memory"]
    if kind == "fixed shapes":
        words += ["--size", "128x256"]
    done = host(bundle.folder, PROMPT, "-o", tmp_path / "p.png", *words)
    assert done.returncode == 0, done.stderr
    assert same_picture(tmp_path / "p.png", bundle, "onnxruntime", options) <= SAME_SEED_LEVELS


def test_fixed_shapes_are_said(host, bundles, tmp_path):
    folder = bundles(*BUNDLES["fixed shapes"]).folder
    for words, message in (
        (["--guidance", "1"], "stage_c_condition was exported for a batch of 2, this run needs 1"),
        (["--height", "256"], "pictures of 128x256 pixels (height x width) only"),
    ):
        done = host(folder, "a", "-o", tmp_path / "p.png", *words)
        assert done.returncode == 2 and message in done.stderr


# A tensor of the golden run that is changed, and the one that is then the first to differ.
CHANGED = {
    "stage_c/1.noise": "stage_c: noise: 'stage_c/1.noise'",
    "stage_c/1.epsilon": "stage_c: latents after every step: 'stage_c/1.latents'",
    "stage_b/start.latents": "stage_b: noise: 'stage_b/start.latents'",
    "stage_c_condition.text_kv": "stage_c_condition on recorded inputs, in f32: '",
}


@pytest.mark.parametrize("tensor", CHANGED)
def test_the_first_tensor_that_differs_is_named(host, copy, tensor):
    path = copy / GOLDEN_FILE
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[tensor]["data_offsets"]
    values = np.frombuffer(data, np.float32, (end - begin) // 4, 8 + length + begin)
    values[len(values) // 2] = 1e3
    path.write_bytes(data)
    reseal(copy, GOLDEN_FILE)
    done = host(copy, "--check")
    assert done.returncode == 1 and CHANGED[tensor] in done.stderr
    assert done.stderr.count("error: ") == 1


def test_a_changed_weight_is_named_by_the_graph_it_changes(host, copy):
    graph = manifests.read(copy)["graphs"]["stage_a"]
    files = [entry["file"] for entry in graph["data"]] or [graph["file"]]
    path = copy / files[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 3] ^= 0x40  # the exponent of one weight
    path.write_bytes(data)
    assert "SHA-256 differs" in host(copy, "--check").stderr
    reseal(copy, files[0])
    done = host(copy, "--check")
    assert done.returncode == 1 and "'stage_a.image' is " in done.stderr


def one_error(done: subprocess.CompletedProcess, code: int, message: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr and len(done.stderr) < 1000


USAGE = [
    ([], "there is no prompt"),
    (["a", "b"], "one prompt at a time"),
    (["a", "--negative"], "there is no --negative"),
    (["a", "--steps"], "--steps needs a value"),
    (["a", "--steps", "0"], "--steps is 0"),
    (["a", "--steps", "3.5"], "'3.5' is no whole number"),
    (["a", "--steps", "99999999999999999999"], "is no whole number"),
    (["a", "--decoder-steps", "-3"], "--decoder-steps is -3"),
    (["a", "--guidance", "-1"], "--guidance is -1; it must be 0 or more"),
    (["a", "--decoder-guidance", "nan"], "--decoder-guidance is nan"),
    (["a", "--height", "0"], "--height is 0"),
    (["a", "--width", "-9223372036854775808"], "--width is -9223372036854775808"),
    (["a", "--size", "48"], "'48' is no size such as 512x768"),
    (["a", "--width", "48", "--size", "48x48"], "exclude each other"),
    (["a", "--engine", "tpu"], "--engine tpu: there are onnxruntime and openvino"),
    (["a", "--onnxruntime", "nowhere.so"], "ONNX Runtime does not load"),
    (["a", "--execution-precision", "f32"], "--execution-precision is for OpenVINO"),
    (["a", "--threads", "0"], "--threads is 0"),
    (["a", "-o", "p.jpg"], "pictures are PNG files"),
    (["a", "-o", "nowhere/p.png"], "does not exist"),
    ([b"\xff\xfe"], "no UTF-8 at character 1"),
    (["a", "--negative-prompt", b"caf\xe9"], "no UTF-8 at character 4"),
    (["a", "--check"], "leave the prompt out"),
    (["--check", "--replay"], "leave --replay out"),
    (["a", "--size", "1000008x1000008"], "of memory at the least"),
]


@pytest.mark.parametrize(("words", "message"), USAGE)
def test_bad_usage_is_one_line_and_code_2(host, bundle, tmp_path, words, message):
    one_error(host(bundle.folder, *words, "--quiet", cwd=tmp_path), 2, message)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_does_not_close_names_the_nearest(host, bundles, tmp_path):
    folder = bundles("public", ExportOptions(text=False)).folder
    done = host(folder, "a", "--height", "1100", cwd=tmp_path)
    one_error(done, 2, "the nearest valid are 1024 and 1152")


def edited(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = manifests.read(folder)
    change(manifest)
    manifests.write(folder, manifest)


def data_of(manifest: dict, graph: str = "text_encoder") -> dict:
    return manifest["graphs"][graph]


MANIFESTS = {
    "a version of the future": (lambda m: m.update(format_version=3), "has format version 3"),
    "a version of the past": (lambda m: m.update(format_version=1), "has format version 1"),
    "another format": (lambda m: m.update(format="x"), "is not a wuerstchen-bundle manifest"),
    "unknown noise": (lambda m: m["host"]["noise"].update(algorithm="philox"), "philox"),
    "an unknown schedule": (lambda m: m["host"]["schedule"].update(kind="linear"), "linear"),
    "no host": (lambda m: m.pop("host"), "'host' not found"),
    "a text for a number": (lambda m: m["sampling"].update(height="x"), "type must be number"),
    "a side of zero cells": (
        lambda m: m["sampling"].update(stage_b_multiple=0),
        "stage_b_multiple is 0; it must be 1.0 to",
    ),
    "an unknown source": (
        lambda m: m["host"]["run"][0]["feeds"][0].update(source="stage_a"),
        "nothing before it makes stage_a.input_ids",
    ),
    "an unknown graph": (lambda m: m["host"]["run"][0].update(graph="x"), "not among the graphs"),
    "a path to above": (
        lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}),
        "'../x', a path outside the bundle",
    ),
    "an absolute path": (
        lambda m: m["files"].update({"/etc/passwd": {"size": 1, "sha256": ""}}),
        "a path outside the bundle",
    ),
    "a graph outside": (lambda m: data_of(m).update(file="../x.onnx"), "names no ../x.onnx"),
    "data outside": (
        lambda m: data_of(m).update(
            data=[{"file": data_of(m)["file"], "location": "../../secret"}]
        ),
        "'../../secret', a path outside the bundle",
    ),
    "a tokenizer outside": (
        lambda m: m["tokenizers"]["text_encoder"].update(folder=".."),
        "names no ../vocab.json",
    ),
    "words of another kind": (
        lambda m: m["tokenizers"]["text_encoder"]["rules"].update(words="(a|b)*"),
        "does not know the regular expression",
    ),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_cannot_be_followed_is_one_line_and_code_1(host, copy, tmp_path, kind):
    change, message = MANIFESTS[kind]
    edited(copy, change)
    one_error(host(copy, "a", "-o", tmp_path / "p.png", "--quiet"), 1, message)


def damages(folder: Path) -> Iterator[tuple[Callable[[], object], str]]:
    """What may happen to a bundle's files, and the message; each undone by the next copy."""
    manifest = folder / "bundle.json"
    weights = folder / "stage_c/model.onnx"
    golden = folder / GOLDEN_FILE
    yield manifest.unlink, "is no bundle"
    yield lambda: manifest.write_text("[" * 100_000), "bundle.json"
    yield lambda: manifest.write_bytes(manifest.read_bytes()[:-9]), "bundle.json"
    yield lambda: manifest.write_text("[]"), "is not a wuerstchen-bundle manifest"
    yield weights.unlink, "stage_c/model.onnx is missing"
    yield lambda: weights.write_bytes(b"x"), "has 1 bytes, the manifest says"
    yield (
        lambda: weights.write_bytes(bytes(weights.stat().st_size)),
        "model.onnx is not the file the manifest names (SHA-256 differs)",
    )
    yield lambda: (weights.unlink(), weights.symlink_to("/etc/passwd")), "outside the bundle"
    yield lambda: (weights.write_bytes(b"x"), reseal(folder, "stage_c/model.onnx")), "cannot load"
    yield golden.unlink, "run.safetensors is missing"
    for content in (b"", b"\xff" * 8, b"\xff" * 100, (2).to_bytes(8, "little") + b"{}"):
        yield (
            lambda content=content: (golden.write_bytes(content), reseal(folder, GOLDEN_FILE)),
            "golden",
        )
    header = json.dumps(
        {"__metadata__": {}, "a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 4]}}
    ).encode()
    body = len(header).to_bytes(8, "little") + header + bytes(4)
    yield lambda: (golden.write_bytes(body), reseal(folder, GOLDEN_FILE)), "a shape is impossible"
    tokens = folder / TOKENS_FILE
    yield lambda: (tokens.write_text("{}x"), reseal(folder, TOKENS_FILE)), "tokens.json is damaged"
    vocabulary = folder / "tokenizer/vocab.json"
    yield (
        lambda: (vocabulary.write_text("[1]"), reseal(folder, "tokenizer/vocab.json")),
        "vocab.json is damaged",
    )


def test_damage_is_one_line_and_code_1(host, bundle, tmp_path):
    count = sum(1 for _ in damages(tmp_path))
    for index in range(count):
        folder = tmp_path / str(index)
        shutil.copytree(bundle.folder, folder)
        damage, message = list(damages(folder))[index]
        damage()
        one_error(host(folder, "--check", "--quiet"), 1, message)
        shutil.rmtree(folder)


def test_values_that_are_not_finite_name_graph_and_step(host, bundle, tmp_path):
    words = ["a", "-o", tmp_path / "p.png", "--quiet", "--guidance", "1e38"]
    for engine in ENGINES:
        done = host(bundle.folder, *words, "--engine", engine)
        one_error(done, 1, "values that are NaN or infinite; lower --guidance")
        assert re.match(r"error: stage_[cb], step \d+ of \d+ \(t = ", done.stderr)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("megabytes", [60, 150, 350, 2000])
def test_memory_that_runs_out_is_one_line(host, bundle, tmp_path, engine, megabytes):
    words = [bundle.folder, "a", "-o", tmp_path / "p.png", "--quiet", "--no-memory-check"]
    words += ["--size", "24000x24000", "--engine", engine]
    done = host(*words, memory=megabytes * 10**6)
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and not (tmp_path / "p.png").exists()


def test_a_full_disk_is_one_line(host, bundle, tmp_path):
    with open("/dev/full", "wb") as full:
        done = host(bundle.folder, "--replay", capture_output=False, stdout=full, stderr=-1)
    one_error(done, 1, "cannot write to standard output")


def test_a_long_prompt_is_cut_and_said(host, bundle, tmp_path):
    prompt = "a red circle and " * 40
    words = ["--steps", 1, "--decoder-steps", 1, "--json", "-o", tmp_path / "p.png"]
    done = host(bundle.folder, prompt, *words)
    assert done.returncode == 0 and "too long, cut off before '" in done.stderr
    assert prompt in json.loads(done.stdout)["truncated"]
    (tmp_path / "p.png").unlink()


def test_low_memory_makes_the_same_picture(host, bundle, tmp_path):
    pictures = []
    words = [bundle.folder, "a", "--steps", 2, "--decoder-steps", 2, "--quiet"]
    for name, more in (("a.png", []), ("b.png", ["--low-memory"])):
        assert host(*words, *more, "-o", tmp_path / name).returncode == 0
        pictures.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert pictures[0] == pictures[1]
