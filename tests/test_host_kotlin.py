"""The Kotlin host makes Python's pictures on a Java machine, and says in a line what failed.

Its core is what an Android app runs; below it is ONNX Runtime by the same Java interface.
"""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from host_tools import EXAMPLES, SPOILED_FILES, command, required
from js_hosts import copied, pixels, with_golden_value
from tokenizers import AddedToken, Tokenizer

from runtimes.bundle.host import NOISE, PICTURE, SCHEDULE
from runtimes.cli import main as runtimes
from runtimes.errors import RunError, UsageError
from runtimes.images import to_uint8
from runtimes.schedule import even_timesteps, schedule, timestep_embedding
from runtimes.sizes import sizes
from runtimes.tolerances import NOISE as NOISE_LIMIT
from runtimes.tolerances import SAME_SEED_LEVELS, STEP

pytestmark = pytest.mark.slow

SOURCE = EXAMPLES / "android"
# The folder that install_tools.sh was given.
TOOLS = Path(os.environ.get("HOST_KOTLIN_TOOLS", SOURCE / "build/tools"))
INSTALL = f"examples/android/install_tools.sh {TOOLS}"
SHORT = ("--steps", 3, "--decoder-steps", 2)
STYLE = "<My-Style>"
Run = Callable[..., subprocess.CompletedProcess[str]]


def compiled(folder: Path) -> Path:
    """The classes of library, command line and units, with no warning."""
    java = command("java", INSTALL)
    kotlin = TOOLS / "kotlin/lib"
    required((kotlin / "kotlin-compiler.jar").is_file(), "the Kotlin compiler", INSTALL)
    required((TOOLS / "onnxruntime/ai").is_dir(), "ONNX Runtime's Java interface", INSTALL)
    compiler = [java, "-cp", kotlin / "kotlin-compiler.jar"]
    compiler += ["org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    options = ["-no-stdlib", "-no-reflect", "-jvm-target", "11", "-Werror", "-d", folder]
    libraries = ["-cp", f"{kotlin / 'kotlin-stdlib.jar'}:{TOOLS / 'onnxruntime'}"]
    sources = [SOURCE / f"{module}/src/main/kotlin" for module in ("wuerstchen", "cli")]
    sources += [Path(__file__).with_name("kotlin_units.kt")]
    words = [*compiler, *options, *libraries, *sources]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def classes(shared) -> Path:
    with FileLock(shared / "host-kotlin.lock"):
        folder = shared / "host-kotlin"
        return folder if folder.is_dir() else compiled(folder)


@pytest.fixture(scope="session")
def java(classes) -> Run:
    """A main class with its arguments; on the wheel's library, or the classes' own."""
    import onnxruntime

    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1.*"))
    environment = os.environ | {"ONNXRUNTIME": str(library), "ORT_DISABLE_TELEMETRY": "1"}
    path = f"{classes}:{TOOLS / 'kotlin/lib/kotlin-stdlib.jar'}:{TOOLS / 'onnxruntime'}"

    def run(name: str, *words: object, forward: bool = True) -> subprocess.CompletedProcess[str]:
        options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"]
        if forward:
            options += [f"-Donnxruntime.native.onnxruntime.path={TOOLS / 'libonnxruntime.so'}"]
        line = ["java", *options, "-cp", path, name, *map(str, words)]
        return subprocess.run(
            line, check=False, capture_output=True, encoding="utf-8", env=environment
        )

    return run


@pytest.fixture(scope="session")
def host(java) -> Run:
    return lambda *words, **options: java("wuerstchen.cli.MainKt", *words, **options)


@pytest.fixture(scope="session")
def units(java) -> Callable[..., list[str]]:
    """What parts of the host make of plain values, a line each (kotlin_units.kt says of which)."""

    def made(**asked: Any) -> list[str]:
        done = java("wuerstchen.Kotlin_unitsKt", json.dumps(asked))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return made


@pytest.mark.parametrize("seed", [0, 7, -1, 2**32 + 7, 2**70 + 3])
def test_noise_is_torch_randn(units, seed):
    draws = [16, 20, 4096, 1001]
    made = units(noise={"rules": asdict(NOISE), "seed": str(seed), "draws": draws})
    generator = torch.Generator().manual_seed(seed % 2**32)
    for values, size in zip(made, draws, strict=True):
        wanted = torch.randn(size, generator=generator).numpy()
        assert np.abs(np.array(values.split(), np.float32) - wanted).max() <= NOISE_LIMIT


@pytest.mark.parametrize("steps", [1, 7, 29, 60])
@pytest.mark.parametrize("scaler", [1.0, 2.0, 0.5])
def test_schedules_of_any_steps_are_pythons(bundles, units, steps, scaler):
    denoiser = bundles("one_level").manifest.sampling.stage_c
    asked = {"denoiser": asdict(denoiser) | {"scaler": scaler}, "rules": asdict(SCHEDULE)}
    made = units(schedule=asked | {"steps": steps})
    wanted = schedule(even_timesteps(steps), denoiser.s, scaler)
    for line, row in zip(made, wanted, strict=True):
        t, *step = np.array(line.split(), np.float32).tolist()
        assert t == row.t
        assert step[3:] == timestep_embedding(row.t, denoiser)[0].tolist()
        for value, name in zip(step[:3], "abc", strict=True):
            # Powers differ by a unit in the last place from one library to the next.
            limit = 0 if scaler == 1 else STEP[scaler]
            assert value == pytest.approx(getattr(row, name), rel=limit, abs=0)


@pytest.mark.parametrize(
    "flags",
    [{}, {"single_word": True}, {"lstrip": True}, {"rstrip": True}, {"normalized": False}],
    ids=str,
)
def test_added_tokens_are_found_as_the_tokenizers_library_finds_them(
    bundles, units, tmp_path, flags
):
    bundle = bundles("one_level")
    folder = bundle.path(bundle.manifest.tokenizers["text_encoder"].folder)
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.add_tokens([AddedToken(STYLE, **flags)])
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    token |= {"normalized": True, "content": STYLE, "id": library.token_to_id(STYLE)} | flags
    added = copied(
        bundle.folder,
        tmp_path / "bundle",
        lambda m: m["tokenizers"]["text_encoder"]["rules"]["added"].append(token),
    )
    prompts = [
        f"a {STYLE} dog", f"a{STYLE}b", f"{STYLE.lower()}  {STYLE.upper()}", f"x  {STYLE}  y",
        STYLE, f"<|ENDOFTEXT|>{STYLE},", f"é{STYLE}_", "ΑΣ İstanbul", "a\u0085b\ufeffc",
    ]  # fmt: skip
    made = units(ids={"bundle": str(added), "prompts": prompts})
    ids = [[int(word) for word in line.split()] for line in made]
    assert ids == [library.encode(text, add_special_tokens=False).ids for text in prompts]


def test_sizes_and_what_does_not_close_are_pythons(bundles, units):
    bundle = bundles("public")
    asked = [(side, 128) for side in (1, 20, 64, 100, 128, 129, 256, 300, 1024)]
    made = units(sizes={"bundle": str(bundle.folder), "sizes": asked})
    for (height, width), mine in zip(asked, made, strict=True):
        try:
            wanted = sizes(height, width, bundle.manifest.sampling)
        except UsageError as error:
            assert mine == f"error {UsageError.exit_code}: {error}"
        else:
            sides = [*wanted.stage_c, *wanted.stage_b, *wanted.picture]
            assert mine == " ".join(map(str, sides))


def test_bytes_are_rounded_as_python_rounds(units):
    halves = (np.arange(1, 511, 2, dtype=np.float32) / np.float32(510)).tolist()
    values = np.array([-0.5, 1.5, *halves, 0.25], np.float32)
    values = values[: len(values) // 3 * 3]
    assert PICTURE.scale == 255
    made = units(bytes={"values": values.tolist()})
    image = np.clip(values, 0, 1).reshape(1, 3, 1, -1)
    assert [int(value) for value in made] == to_uint8(image)[0].reshape(-1).tolist()


def test_paths_that_lead_out_of_the_folder(units):
    paths = ["a/b.json", "../x", "a/../x", "/etc/x", "a\\..\\x", "c:/x", "a//b", "./a", ""]
    made = units(inside={"paths": paths})
    assert made[0] == "inside"
    assert all("a path outside the bundle" in refused for refused in made[1:])


def test_patterns_are_those_of_tokenizers_and_no_others(units):
    patterns = [r"'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", r"(a+)+b", r"\d", "[a", r"a{9}"]
    made = units(words={"text": "it's 12 €", "patterns": patterns})
    assert made[0] == "it/'s/1/2/€"
    assert all("does not know the regular expression" in refused for refused in made[1:])


def test_json_that_is_none_is_refused(units):
    texts = ["[1, 2.5]", '{"a": 1, "a": 2}', "[1,]", "01", '"\\x"', "[" * 70, "1e999", '"a\nb"', ""]
    made = units(json={"texts": texts})
    assert made[0] == "[1, 2.5]"
    assert all("it is not valid JSON" in refused for refused in made[1:])


@pytest.mark.parametrize("name", ["one_level", "public"])
def test_the_golden_run_is_replayed_and_run(bundles, host, name):
    folder = bundles(name).folder
    replayed = host(folder, "--replay", "--json", "--quiet")
    assert (replayed.returncode, replayed.stderr) == (0, "")
    compared = json.loads(replayed.stdout)
    assert len(compared) > 50 and {one["error"] for one in compared} == {0}
    checked = host(folder, "--check")
    assert checked.returncode == 0, checked.stderr
    told = [line.split(":")[0] for line in checked.stdout.splitlines()]
    graphs = [f"graph {call.graph}" for call in bundles(name).manifest.host.run]
    assert [*dict.fromkeys(told)] == ["replay", "tokens", *graphs, "own run"]


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", 3, "--decoder-guidance", 1.7, "--size", "192x120"),
        ("--seed", -7, "--negative-prompt", "blue, ugly", "--guidance", 6, "--low-memory"),
        ("--seed", 2**40 + 1, "--guidance", 0.5, "--threads", 1),
    ],
    ids=["size and guidance of both", "negative prompt", "no guidance"],
)
def test_pictures_are_pythons(bundles, host, tmp_path, options):
    folder = bundles("one_level").folder
    mine, theirs = tmp_path / "kotlin.png", tmp_path / "python.png"
    words = [folder, "a small blue star", *SHORT, *options]
    done = host(*words, "-o", mine, "--json")
    assert done.returncode == 0, done.stderr
    assert runtimes([str(word) for word in (*words, "-o", theirs, "--quiet")]) == 0
    assert np.abs(pixels(mine) - pixels(theirs)).max() <= SAME_SEED_LEVELS
    told = json.loads(done.stdout)
    assert (told["height"], told["width"]) == pixels(mine).shape[:2]
    assert told["peak_bytes"] > 0
    assert told["seconds"]["graphs"].keys() == bundles("one_level").manifest.graphs.keys()


def test_the_java_interfaces_own_engine_makes_the_same_picture(bundles, host, tmp_path):
    words = [bundles("one_level").folder, "a star", *SHORT, "--quiet", "-o"]
    done = host(*words, tmp_path / "own.png", forward=False)
    assert done.returncode == 0, done.stderr
    assert runtimes([str(word) for word in (*words, tmp_path / "python.png")]) == 0
    mine, theirs = pixels(tmp_path / "own.png"), pixels(tmp_path / "python.png")
    assert np.abs(mine - theirs).max() <= SAME_SEED_LEVELS


@pytest.mark.parametrize(
    ("tensor", "stage"),
    [
        ("stage_c/1.noise", "replay: stage_c: noise"),
        ("stage_b/0.latents", "replay: stage_b: latents"),
        ("stage_c_condition.text_kv", "graph stage_c_condition"),
        ("stage_a.image", "graph stage_a"),
    ],
)
def test_a_changed_byte_of_the_golden_run_is_named(bundles, host, tmp_path, tensor, stage):
    folder = with_golden_value(bundles("one_level").folder, tmp_path / "bundle", tensor)
    done = host(folder, "--check", "--quiet")
    assert done.returncode == RunError.exit_code
    assert stage in done.stderr and f"'{tensor}' is the first tensor" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_prompt_that_is_too_long_is_cut_as_python_cuts_it(bundles, host, tmp_path, capsys):
    words = [bundles("one_level").folder, "red circle, blue star " * 30, *SHORT, "--quiet", "-o"]
    done = host(*words, tmp_path / "kotlin.png")
    assert done.returncode == 0
    assert runtimes([str(word) for word in (*words, tmp_path / "python.png")]) == 0
    assert done.stderr == capsys.readouterr().err
    assert np.array_equal(pixels(tmp_path / "kotlin.png"), pixels(tmp_path / "python.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is no prompt"),
        (["a", "b"], "'b' is one too many"),
        (["a", "--cfg", "3"], "--cfg"),
        (["a", "--steps", "0"], "--steps is 0"),
        (["a", "--steps", "many"], "'many'; it must be a whole number"),
        (["a", "--guidance", "nan"], "it must be a number"),
        (["a", "--seed", "1.5"], "--seed is '1.5'"),
        (["a", "--size", "200"], "height x width"),
        (["a", "--size", "128x128", "--height", "64"], "exclude each other"),
        (["a", "--size", "60x128"], "the nearest valid height is 128"),
        (["a", "--size", "1000008x1000008"], "it must be 1 to 65536 pixels"),
        (["a", "-o", "x.jpg"], "end the name in .png"),
        (["a", "-o", "/no such folder/x.png"], "does not exist"),
        (["a", "--check"], "leave the prompt out"),
        (["a", "--provider", "gpu"], "there are cpu, xnnpack, nnapi"),
        (["a", "--provider", "xnnpack"], "this build of ONNX Runtime has no XNNPACK"),
        (["a", "--provider", "nnapi"], "this build of ONNX Runtime has no NNAPI"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(bundles, host, tmp_path, options, message):
    output = [] if "-o" in options or "--check" in options else ["-o", tmp_path / "x.png"]
    said_in_one_line(host(bundles("public").folder, *options, *output), UsageError, message)


def golden_hash(value):
    value["files"]["golden/run.safetensors"]["sha256"] = "0" * 64


HOSTILE = [
    (lambda m: m.update(format_version=3), "format version 3, this host reads 2"),
    (lambda m: m.update(backend="coreml"), 'backend is "coreml", this host knows onnx'),
    (lambda m: m["host"]["noise"].update(algorithm="philox"), 'algorithm is "philox"'),
    (lambda m: m["host"]["noise"].update(block=0), "host.noise.block is 0; it must be 2 to"),
    (lambda m: m["host"]["schedule"].update(kind="linear"), "host.schedule.kind"),
    (lambda m: m.pop("host"), "host is missing"),
    (lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}), "outside the bundle"),
    (lambda m: m["graphs"]["stage_a"].update(file="stage_a/../../x"), "names no stage_a/../"),
    (
        lambda m: m["graphs"]["stage_a"]["data"].append(
            {"file": "tokenizer/vocab.json", "location": "../../etc/x"}
        ),
        "a path outside the bundle",
    ),
    (lambda m: m["host"]["run"][1]["feeds"][0].update(output="x"), "reads 'text_encoder.x'"),
    (lambda m: m["host"]["run"][1].update(when="sometimes"), "runs 'sometimes'"),
    (lambda m: m["host"]["run"].pop(), "which makes no picture"),
    (lambda m: m["sampling"].update(stage_a_scale=10**9), "it must be 1 to 65536"),
    (
        lambda m: m["sampling"]["stage_c"].update(channels="four"),
        'channels is "four"; it must be a whole number',
    ),
    (golden_hash, "SHA-256 differs"),
    (lambda m: m["files"]["tokenizer/vocab.json"].update(size=1), "the manifest says 1"),
    (lambda m: m["sampling"].update(latent_mean=1.0), "stage_b_condition.image_embedding"),
    (lambda m: m["sampling"]["stage_b"].update(s=0.01), "sampling.stage_b.schedule"),
    (lambda m: m["tokenizers"]["text_encoder"].update(pad_id=0), "text_encoder.input_ids"),
    (
        lambda m: m["tokenizers"]["text_encoder"]["rules"].update(words="(a+)+"),
        "does not know the regular expression '(a+)+'",
    ),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_bad_manifests(bundles, host, tmp_path, change, message):
    tokenizer = next(iter(bundles("one_level").manifest.tokenizers.values())).folder

    def changed(value):
        if "tokenizer/vocab.json" not in value["files"]:
            value["files"]["tokenizer/vocab.json"] = value["files"][f"{tokenizer}/vocab.json"]
        change(value)

    folder = copied(bundles("one_level").folder, tmp_path / "bundle", changed)
    said_in_one_line(host(folder, "--replay", "--quiet"), RunError, message)


@pytest.mark.parametrize("fault", SPOILED_FILES)
def test_files_that_are_not_what_they_should_be(bundles, host, tmp_path, fault):
    spoil, message = SPOILED_FILES[fault]
    folder = copied(bundles("one_level").folder, tmp_path / "bundle", lambda value: None)
    spoil(folder)
    done = host(folder, "a", *SHORT, "-o", tmp_path / "x.png", "--quiet")
    said_in_one_line(done, RunError, message)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--guidance", "1e30"), RunError, "NaN or infinite; lower --guidance, which is 1.0E30"),
        (("--size", "65520x65520"), UsageError, "out of memory"),
    ],
)
def test_what_fails_while_it_runs(bundles, host, tmp_path, options, error, message):
    words = (bundles("one_level").folder, "a", *SHORT, *options, "-o", tmp_path / "x.png")
    said_in_one_line(host(*words, "--quiet"), error, message)


def said_in_one_line(done, error: type[UsageError | RunError], message: str) -> None:
    """The exit code, one line on standard error, nothing beside it."""
    assert done.returncode == error.exit_code, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
