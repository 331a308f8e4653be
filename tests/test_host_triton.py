"""A bundle on Triton itself: the server of nvidia-pytriton's wheel, asked by tritonclient."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from host_tools import required

from runtimes import Options, Pipeline

ROOT = Path(__file__).parents[1]
TOOLS = Path(os.environ.get("HOST_TRITON_TOOLS", ROOT / "examples/triton/build/tools"))
PROMPTS = ["a large red circle on the left", "a small blue star in the middle", "ein großer Kreis"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(bundles, tmp_path_factory):
    """A server's host and port; the model is called 'demo'."""
    required(
        (TOOLS / ".installed").exists(),
        f"Triton's server in {TOOLS}",
        "examples/triton/install_tools.sh examples/triton/build/tools",
    )
    folder = tmp_path_factory.mktemp("triton")
    words = ["exporter", "triton", bundles("one_level").folder, folder / "models", "--name", "demo"]
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True, cwd=ROOT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = TOOLS.resolve() / "environment/bin"
    base = subprocess.run(
        [python / "python", "-c", "import sys; print(sys.base_prefix)"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{TOOLS.resolve() / 'libs'}:{base}/lib",
        "PATH": f"{python}:{os.environ['PATH']}",  # the backend's stub embeds the Python it finds
        "PYTHONPATH": "",
    }
    words = [
        "server/bin/tritonserver",
        f"--model-repository={folder / 'models'}",
        "--backend-directory=server/backends",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        f"--backend-config=python,shm-region-prefix-name={folder.name}",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(words, cwd=TOOLS, env=environment, stdout=log, stderr=log)
    try:
        _wait_until_ready(server, port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def _wait_until_ready(server, port, log):
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def ask(address, output, prompt, *words):
    """What the client that a repository brings says; the picture is at `output`."""
    client = ROOT / "exporter/triton/client.py"
    return subprocess.run(
        [TOOLS / "environment/bin/python", client, prompt, "-o", output, "--server", address,
         "--model", "demo", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def read(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_pictures_are_those_of_the_pipeline(address, bundles, tmp_path):
    """Asked one by one and at once, when Triton makes them in one batch."""
    words = [["--seed", str(seed), "--steps", "3", "--guidance", "2"] for seed in range(3)]
    with Pipeline.open(bundles("one_level").folder) as pipeline:
        for number, prompt in enumerate(PROMPTS):
            done = ask(address, tmp_path / "alone.png", prompt, *words[number])
            assert done.returncode == 0, done.stderr
            assert done.stdout.endswith(f"(seed {number})\n")
            own = pipeline([prompt], options=Options(seed=number, steps=3, guidance=2.0)).pictures[
                0
            ]
            assert np.abs(read(tmp_path / "alone.png").astype(int) - own).max() <= 1
    threads = [
        threading.Thread(target=ask, args=(address, tmp_path / f"{n}.png", PROMPTS[2], *words[2]))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        together = read(tmp_path / f"{number}.png").astype(int)
        assert np.abs(together - own).max() <= 1


def test_what_is_wrong_is_said_and_the_model_goes_on(address, tmp_path):
    for words, said in (
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--guidance", "-1"], "--guidance is -1.0; it must be 0 or more"),
    ):
        done = ask(address, tmp_path / "none.png", "a circle", *words)
        assert done.returncode != 0
        assert said in done.stderr
    assert not (tmp_path / "none.png").exists()
    assert ask(address, tmp_path / "one.png", "a circle", "--steps", "1").returncode == 0


def test_a_repository_is_whole_by_itself(bundles, tmp_path):
    """The model runs when the bundle that it was made of is gone."""
    source = tmp_path / "bundle"
    shutil.copytree(bundles("one_level").folder, source)
    words = ["exporter", "triton", source, tmp_path / "models"]
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True, cwd=ROOT)
    shutil.rmtree(source)
    with Pipeline.open(tmp_path / "models/wuerstchen/1/bundle") as pipeline:
        assert pipeline(["a circle"], options=Options(steps=1, decoder_steps=1)).pictures.size
