"""All command lines alike: flags, values, versions, errors, and streams that cannot be written."""

import argparse
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_docs import PARSERS

from exporter.cli import main as exporter_main
from quantization.cli import main as quantization_main
from runtimes import arguments
from runtimes.arguments import Parser, package_version, seeds, settle_size, size
from runtimes.bundle.manifest import FORMAT_VERSION, Graph
from runtimes.cli import main
from runtimes.console import BROKEN_PIPE, guarded, require
from runtimes.engines.base import Execution, no_threads
from runtimes.engines.onnxruntime_device import provider_options, split_device
from runtimes.engines.table import BundleGraphs
from runtimes.errors import RunError, UsageError
from runtimes.images import read_parameters
from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from runtimes.sampler import advice_for
from validation.cli import main as validation_main

MAINS = {
    "exporter": exporter_main,
    "quantization": quantization_main,
    "runtimes": main,
    "validation": validation_main,
}
SHORT = ["--steps", "2", "--decoder-steps", "2"]


def run(capsys, program: str, *words) -> tuple[int, str, str]:
    """A command such as 'validation bench' with more words."""
    first, *rest = program.split()
    code = MAINS[first]([*rest, *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


# Flags


@pytest.mark.parametrize("program", list(PARSERS))
def test_what_every_parser_is_made_of(program):
    made = PARSERS[program]()
    assert isinstance(made, Parser) and not made.allow_abbrev
    for action in made._actions:
        assert action.type not in (int, float), f"{action.dest}: its errors name a Python type"
        assert action.choices is None or action.type is str.lower, action.dest


@pytest.mark.parametrize("program", list(PARSERS))
def test_versions(capsys, program):
    code, out, err = run(capsys, program, "--version")
    line = f"wuerstchen-export {package_version()}, bundle format {FORMAT_VERSION}\n"
    assert (code, out, err) == (0, line, "")


@pytest.mark.parametrize("program", list(PARSERS))
def test_a_part_of_a_flag_is_no_flag_and_the_right_one_is_named(program):
    made = PARSERS[program]()
    flags = [name for name in made._option_string_actions if name.startswith("--")]
    for flag in flags:
        part = flag[:-1]
        if len(part) > 4 and part not in flags and part not in made._meant:
            with pytest.raises(UsageError, match=f"there is no {part}; did you mean .*{flag}"):
                made.parse_args([part])


@pytest.mark.parametrize("program", list(PARSERS))
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--colour=red", "b"], "there is no --colour"),
        (["--colour=light red", "b"], "there is no --colour"),
        (["-Z"], ""),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(capsys, program, words, message):
    code, out, err = run(capsys, program, *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert err.endswith(f"(see 'python -m {program} --help')\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "x"], "there is no --prompt: write the prompt without a flag, or a file"),
        (["--negative_prompt", "x"], "did you mean --negative-prompt?"),
        (["--guidance-scale", "3"], "did you mean --guidance?"),
        (["--num-inference-steps", "3"], "did you mean --steps?"),
        (["--seed", "seven"], "--seed: 'seven' is no seed; give a whole number such as 7"),
        (["--steps", "many"], "--steps: 'many' is no whole number"),
        (["--guidance", "much"], "--guidance: 'much' is no number"),
        (["--timesteps", "1,x"], "--timesteps: 'x' is no number"),
        (["--threads", "0"], "--threads: 0 is too small; it must be at least 1"),
        (["--batch-size", "-1"], "--batch-size: -1 is too small"),
        (["--num-images", "0"], "--num-images: 0 is too small"),
        (["--size", "512"], "--size: '512' is no size such as 512x768, height x width"),
        (["--size", "512x512", "--width", "512"], "--size and --width exclude each other"),
        (["--engine", "tensorrt"], "--engine: invalid choice: 'tensorrt'"),
        (["--negative-prompt", "a", "--negative-prompt", "b"], "2 negative prompts for 1 prompt;"),
    ],
)
def test_values_that_are_refused(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "runtimes", "bundle", "a ring", *words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1 and err.startswith("error: ")


@pytest.mark.parametrize(
    ("program", "words", "name", "value"),
    [
        ("exporter", ["b", "--backend", "ONNX", "--precision", "FP16"], "precision", "fp16"),
        ("quantization", ["b", "c", "--precision", "INT8-Weights"], "precision", "int8-weights"),
        ("runtimes", ["b", "--engine", "OpenVINO"], "engine", "openvino"),
        ("runtimes", ["b", "--device", "CUDA:0"], "device", "cuda:0"),
        ("validation", ["b", "--device", "GPU.0"], "device", "gpu.0"),
        ("validation bench", ["b", "--device", "CPU"], "device", "cpu"),
    ],
)
def test_case_is_ignored(program, words, name, value):
    assert getattr(PARSERS[program]().parse_args(words), name) == value


def test_seeds():
    assert seeds("7") == (7,) and seeds("1,-2,3") == (1, -2, 3)
    drawn = {seeds("random") for _ in range(9)} | {seeds("RANDOM")}
    assert len(drawn) > 5 and all(0 <= seed < 1 << 32 for (seed,) in drawn)


def test_both_sides_at_once():
    assert size("512X768") == (512, 768)
    sized = ("runtimes", "exporter", "exporter inspect", "validation", "quantization ranges")
    for made in (PARSERS[program]() for program in sized):
        bundle = [] if made.prog.endswith("inspect") else ["b"]
        args = made.parse_args([*bundle, "--size", "64x96"])
        settle_size(args)
        assert (args.height, args.width) == (64, 96)


def test_a_version_where_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(arguments, "PACKAGE", "no-such-package")
    assert package_version() == "(not installed)"


# Engines


def test_gpus_have_numbers():
    assert split_device("CUDA:1") == ("cuda", 1) and split_device("cpu") == ("cpu", 0)
    graph = Graph("g", "fp32", (), ())
    assert provider_options(graph, "cuda", 1)["device_id"] == "1"
    for text in ("cpu:0", "cuda:x", "cuda:", "cuda:-1"):
        with pytest.raises(UsageError, match=f"--device {text}: ONNX Runtime numbers GPUs only"):
            split_device(text)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_threads(bundles, engine):
    bundle = bundles("one_level")
    graphs = BundleGraphs(bundle, Execution("CPU", engine, threads=1))
    opened = graphs.open("stage_a")
    shape = [
        side if isinstance(side, int) else 8 for side in bundle.graph("stage_a").inputs[0].shape
    ]
    opened.run({"latents": np.zeros(shape, np.float32)})
    if engine == "onnxruntime":
        assert opened._session.get_session_options().intra_op_num_threads == 1
    else:
        assert opened._compiled.get_property("INFERENCE_NUM_THREADS") == 1
    opened.close()


def test_threads_where_there_are_none_to_choose():
    with pytest.raises(UsageError, match="--threads is for engines on the CPU: Core ML"):
        no_threads("Core ML", Execution(threads=2))


# Values that are not finite


def test_extreme_guidance_is_named(bundles):
    options = Options(steps=3, decoder_steps=2, guidance=1e30)
    warned = np.errstate(all="raise", under="ignore")
    named = pytest.raises(RunError, match=r"infinite; lower --guidance, which is 1e\+30")
    with Pipeline.open(bundles("one_level")) as pipeline, warned, named:
        pipeline("a ring", options=options)


def test_advice_depends_on_what_computed():
    assert "the weights themselves" in advice_for("fp32", "f32", {"--guidance": 4.0})
    assert "higher precision" in advice_for("fp16", "f32", {})
    assert "--execution-precision f32" in advice_for("fp32", "bf16", {})
    found = advice_for("fp16", "f16", {"--guidance": 4.0, "--decoder-guidance": 1e20})
    assert found == "lower --decoder-guidance, which is 1e+20"


# Streams


class Broken(io.RawIOBase):
    """A stream of bytes that cannot be written: its reader is gone, or its disk is full."""

    def __init__(self, number: int) -> None:
        self.number = number

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        raise OSError(self.number, os.strerror(self.number))


def broken(number: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(Broken(number)), encoding="utf-8")


STREAMS = {
    "the reader went away": (errno.EPIPE, BROKEN_PIPE, ""),
    "the disk is full": (
        errno.ENOSPC,
        1,
        "error: cannot write to standard output: No space left on device\n",
    ),
}


@pytest.mark.parametrize("case", list(STREAMS))
@pytest.mark.parametrize("program", list(PARSERS))
def test_output_that_cannot_be_written(capsys, monkeypatch, program, case):
    number, expected, message = STREAMS[case]
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", broken(number))
        code, _, err = run(capsys, program, "--help")
    assert (code, err) == (expected, message)


@pytest.mark.parametrize("program", list(PARSERS))
def test_a_closed_output_is_as_dev_null(capsys, monkeypatch, program):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        code, _, err = run(capsys, program, "--version")
    assert (code, err) == (0, "")


def test_an_error_that_the_system_raised_is_one_line(capsys):
    def fail() -> None:
        Path("/no/such/file").read_bytes()

    assert guarded(fail, debug=False, interrupted="") == 1
    assert capsys.readouterr().err == "error: /no/such/file: No such file or directory\n"


def in_shell(command: str, **environment: str) -> subprocess.CompletedProcess:
    """`command` of bash, in which $P is this Python."""
    variables = {**os.environ, "P": sys.executable, **environment}
    return subprocess.run(["bash", "-c", command], capture_output=True, env=variables, check=False)


def test_streams_of_a_real_run(bundles, tmp_path):
    """A picture comes out whole whatever becomes of the summary."""
    words = f"{bundles('one_level').folder} 'a réd ring' {' '.join(SHORT)} -o {tmp_path}"
    cases = {
        "full": (f"{words}/full.png >/dev/full", 1, b"standard output: No space left"),
        "closed": (f"{words}/closed.png >&- 2>&-", 0, b""),
        "gone": (f"{words}/gone.png --quiet --json > >(exit) ; exit 0", 0, b""),
    }
    for name, (command, code, message) in cases.items():
        done = in_shell(f"$P -m runtimes {command}")
        assert done.returncode == code and message in done.stderr, done.stderr
        assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
        with Image.open(tmp_path / f"{name}.png") as image:
            image.load()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_cannot_be_written(unbuffered):
    """argparse drops the error of printing its help, which an unbuffered stream meets at once."""
    done = in_shell("$P -m runtimes --help >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1 and b"standard output: No space left" in done.stderr


def test_terminals_that_show_ascii_only(bundles, tmp_path):
    path = f"{tmp_path}/réd.png"
    words = f"{bundles('one_level').folder} 'a réd ring' {' '.join(SHORT)} -o '{path}'"
    done = in_shell(f"$P -m runtimes {words}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"wrote " in done.stdout and rb"r\xe9d.png" in done.stdout
    done = in_shell(f"$P -m runtimes {words} --json", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0 and len(json.loads(done.stdout)["pictures"]) == 1
    assert read_parameters(Path(path))["prompt"] == "a réd ring"


def test_prompts_in_another_encoding(tmp_path):
    done = in_shell(f"$P -m runtimes bundle ok $'r\\xe9d' -o {tmp_path}/p.png")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert b"error: PROMPT 2 has bytes that are no UTF-8 at character 2" in done.stderr
    with pytest.raises(UsageError, match="bytes that are no UTF-8"):
        Pipeline.__call__(argparse.Namespace(), "r\udce9d")


@pytest.mark.parametrize("program", ["runtimes bundle ring -o", "quantization ranges bundle -o"])
def test_a_place_that_cannot_be_written_is_found_out_first(capsys, monkeypatch, tmp_path, program):
    opened = os.open

    def refuse(path, flags, *rest):
        if flags & os.O_CREAT and Path(path).parent == tmp_path:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    code, _, err = run(capsys, program, tmp_path / "p.png")  # there is no such bundle either
    assert code == 2
    assert err == (
        f"error: --output {tmp_path / 'p.png'}: {tmp_path} cannot be written to: "
        "Read-only file system\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_named_as_pip_names_it(monkeypatch):
    for module, name in (("sklearn", "scikit-learn"), ("onnx", "onnx")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError) as caught:
            require(("json", module), "quantization,cpu")
        hint = "pip install 'wuerstchen-export[quantization,cpu]'"
        assert str(caught.value) == f"{name} is not installed: {hint}"
