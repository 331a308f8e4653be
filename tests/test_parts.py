"""Each extra installs what its part imports: README's table of parts, command by command."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from exporter.options import ExportOptions

ROOT = Path(__file__).parents[1]


def run_with(extras, *words) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tests/parts.py"), extras, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def assert_runs(extras, *words) -> None:
    done = run_with(extras, *words)
    assert done.returncode == 0, f"[{extras}] {' '.join(map(str, words))}\n{done.stderr}"


@pytest.fixture
def checkpoint_words(folders):
    decoder, prior = folders("one_level")
    return ["-m", decoder, "--prior", prior, "--quiet"]


PICTURE = ["a red circle", "--steps", "1", "--decoder-steps", "1", "--quiet", "-o"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extras", "backend"),
    [("export", "onnx"), ("export,openvino", "openvino"), ("export,coreml", "coreml")],
)
def test_exporting(checkpoint_words, tmp_path, extras, backend):
    assert_runs(extras, "exporter", tmp_path / "b", *checkpoint_words, "--backend", backend)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extras", "backend", "engine"),
    [
        ("cpu", "onnx", "onnxruntime"),
        ("openvino", "onnx", "openvino"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_running(bundles, tmp_path, extras, backend, engine):
    folder = bundles("one_level", ExportOptions(backend=backend)).folder
    words = [folder, *PICTURE, tmp_path / "p.png", "--engine", engine]
    assert_runs(extras, "runtimes", *words)


@pytest.mark.slow
def test_serving(bundles):
    """With the engine and `serve` alone it says that it serves, and stops at a signal."""
    words = ["cpu,serve", "runtimes", "serve", bundles("one_level").folder, "--port", "0"]
    command = [sys.executable, str(ROOT / "tests/parts.py"), *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    line = process.stderr.readline()
    process.terminate()
    _, rest = process.communicate(timeout=60)
    assert line.startswith("serving ") and process.returncode == 0, line + rest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extras", "backend", "precision"),
    [
        ("quantization,cpu", "onnx", "int8-weights"),
        ("quantization,openvino", "openvino", "int8"),
        ("quantization,coreml", "coreml", "int8-weights"),
    ],
)
def test_quantising(bundles, tmp_path, extras, backend, precision):
    folder = bundles("one_level", ExportOptions(backend=backend)).folder
    words = [folder, tmp_path / "b", "--precision", precision, "--quiet"]
    words += ["--samples", "29"] if precision == "int8" else []
    words += ["--target-db", "0"] if backend == "onnx" else []
    assert_runs(extras, "quantization", *words)


@pytest.mark.slow
def test_making_a_phone_bundle(bundles, tmp_path):
    assert_runs("mobile", "exporter", "mobile", bundles("one_level").folder, tmp_path / "b")


@pytest.mark.slow
def test_validating(bundles, tmp_path):
    """Against diffusers, and against the golden run without it."""
    words = [bundles("demo").folder, "--steps", "1", "--decoder-steps", "1", "--repeats", "1"]
    words += ["--pictures", "0", "--quiet"]
    assert_runs("validation,cpu", "validation", *words, "--report", tmp_path / "one")


@pytest.mark.slow
def test_making_pictures_on_ray(bundles, tmp_path, monkeypatch):
    sessions = tempfile.mkdtemp(prefix="ray-")  # short, for Ray's sockets
    monkeypatch.setenv("RAY_TMPDIR", sessions)
    words = [bundles("one_level").folder, *PICTURE, tmp_path / "p.png", "--ray", "--workers", "1"]
    assert_runs("ray,cpu", "runtimes", *words)
    done = run_with("cpu", "runtimes", *words)
    assert done.returncode == 2 and "pip install 'wuerstchen-export[ray]'" in done.stderr
    shutil.rmtree(sessions, ignore_errors=True)


@pytest.mark.slow
def test_exporting_by_optimum(checkpoint_words, tmp_path):
    words = ["export", "wuerstchen", tmp_path / "b", *checkpoint_words]
    assert_runs("optimum", "optimum.commands.optimum_cli", *words)


@pytest.mark.parametrize(
    ("module", "extra"),
    [("exporter", "export"), ("runtimes", "cpu"), ("quantization", "quantization")],
)
def test_a_missing_part_is_named(bundles, tmp_path, module, extra):
    """Nothing but numpy, tokenizers and pillow: one line says what to install."""
    words = {
        "exporter": [tmp_path / "b"],
        "runtimes": [bundles("one_level").folder, *PICTURE, tmp_path / "p.png"],
        "quantization": [bundles("one_level").folder, tmp_path / "b", "--precision", "int8"],
    }
    done = run_with("", module, *words[module])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert extra in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("extras", "missing"), [("cpu", "serve"), ("serve", "cpu")])
def test_a_missing_part_of_serving_is_named(bundles, extras, missing):
    words = ["serve", bundles("one_level").folder, "--port", "0"]
    done = run_with(extras, "runtimes", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"wuerstchen-export[{missing}]" in done.stderr
