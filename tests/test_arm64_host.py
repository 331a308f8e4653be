"""The C++ host on a 64-bit ARM CPU, under emulation: its kernels' results pass their limits."""

import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock
from host_tools import EXAMPLES, command, required
from test_host_cpp import SOURCE, TOOLS, built, configured

from quantization.quantize import Request, quantize
from quantization.recipes import PRESETS
from runtimes.bundle.read import Bundle, open_bundle

pytestmark = pytest.mark.slow

ARM64 = EXAMPLES / "cpp/arm64"
INSTALL = f"examples/cpp/install_tools.sh {TOOLS} arm64"
FREE_RUN = {"free run: latents", "free run: picture"}
# Two builds of one engine add up in other orders; of activations that are rounded to integers some
# fall on the other side.
KERNELS, ROUNDING = 0.1, 1e-5


@pytest.fixture(scope="session")
def library() -> Path:
    """ONNX Runtime for ARM64, of the version that the runtimes have here."""
    name = f"libonnxruntime.so.{importlib.metadata.version('onnxruntime')}"
    found = TOOLS / "arm64/wheel/onnxruntime/capi" / name
    required(found.is_file(), f"{name} for ARM64", INSTALL)
    return found


@pytest.fixture(scope="session")
def program(shared) -> Path:
    command("aarch64-linux-gnu-g++", INSTALL), command("qemu-aarch64", INSTALL)
    required((TOOLS / "arm64/usr").is_dir(), "ARM64's libraries", INSTALL)
    folder = shared / "host-arm64"
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ARM64 / 'toolchain.cmake'}"
    with FileLock(shared / "host-arm64.lock"):
        return configured(SOURCE, folder, toolchain, "-DWITH_OPENVINO=OFF") / "wuerstchen"


@pytest.fixture(scope="session")
def emulated(program, library):
    """Runs the host on an emulated ARM64 CPU."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ARM64 / "emulate.sh", program, *map(str, words), "--onnxruntime", library],
            check=False, capture_output=True, text=True, timeout=900,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def native(shared):
    """Runs the host on this machine's CPU."""
    import onnxruntime

    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1.*"))
    with FileLock(shared / "host-cpp.lock"):
        host = built(shared / "host-cpp") / "wuerstchen"

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [host, *map(str, words), "--onnxruntime", library],
            check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def stored(bundles, tmp_path_factory):
    """The one-level bundle in a precision."""

    def get(precision: str) -> Bundle:
        source = bundles("one_level")
        if precision == "fp32":
            return source
        folder = tmp_path_factory.mktemp("arm64") / precision
        request = Request(precision, PRESETS[precision], ["a red circle"], 29, 0, target_db=0)
        quantize(source, folder, request)
        return open_bundle(folder)

    return get


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    """How far off each tensor is, by what was checked; also where one misses its limit."""
    return {check["what"]: check["error"] for check in json.loads(done.stdout)}


@pytest.mark.parametrize("precision", ["fp32", "fp16-weights"])
def test_a_bundle_passes_its_limits(emulated, stored, precision):
    done = emulated(stored(precision).folder, "--check", "--json")
    assert done.returncode == 0, done.stderr
    assert checks(done).keys() >= FREE_RUN


@pytest.mark.parametrize("precision", ["int8", "int8-weights", "int4-weights"])
def test_integer_kernels_round_as_those_of_x86(emulated, native, stored, precision):
    """Random weights miss limits on both: it is the integers that are off, not the CPU."""
    words = (stored(precision).folder, "--check", "--json")
    arm, x86 = checks(emulated(*words)), checks(native(*words))
    assert arm.keys() == x86.keys()
    for what, error in arm.items():
        assert abs(error - x86[what]) <= KERNELS * x86[what] + ROUNDING, what


def test_fp16_products_add_up_in_fp16(emulated, native, stored):
    """Why `fp16-weights` is there: x86 CPUs widen the same nodes."""
    words = (stored("fp16").folder, "--check", "--json")
    arm, x86 = checks(emulated(*words)), checks(native(*words))
    assert arm["stage_c on recorded inputs, in f16"] > x86["stage_c on recorded inputs, in f32"]
