"""The server's Dockerfile: linted, and its own steps carried out without a container engine."""

import base64
import io
import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from dockerfile import FILE, IGNORED, carry_out, context, copied_names, fresh_environment, stages
from PIL import Image
from serve_process import serving

from runtimes import Options, Pipeline
from runtimes.serve.cli import parser
from runtimes.serve.page import page
from runtimes.tolerances import SAME_SEED_LEVELS


def test_hadolint_has_nothing_to_say():
    command = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    assert command is not None
    done = subprocess.run([command, str(FILE)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_nobody_and_the_server_understands_its_command():
    last = stages()[-1]
    user, group = last.all("USER")[-1].split(":")
    assert int(user) > 0 and int(group) > 0
    assert last.all("STOPSIGNAL") == ["SIGTERM"]
    line = [*last.words("ENTRYPOINT"), *last.words("CMD")]
    assert line[:4] == ["python", "-m", "runtimes", "serve"]
    args = parser().parse_args(line[4:])
    assert (args.host, str(args.api_key_file)) == ("0.0.0.0", "/run/secrets/api-keys")
    assert args.bundles == [Path("/bundle")]
    assert last.all("EXPOSE") == [str(args.port)]
    # The compilers and sources of the first stage stay there.
    assert not last.all("COPY") and all("--from=build" not in text for text in last.all("ADD"))


def test_the_build_is_sent_only_what_it_copies():
    lines = [line for line in IGNORED.read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert allowed == {name for stage in stages() for name in copied_names(stage)}


@pytest.mark.slow
def test_its_steps_make_a_server_that_makes_pictures(bundles, tmp_path):
    build, last = stages()
    context(tmp_path / "src", copied_names(build))
    places = {"/wheels": tmp_path / "wheels"}
    builder = fresh_environment(tmp_path / "builder")
    carry_out(build, tmp_path / "src", builder, places)
    image = fresh_environment(tmp_path / "image")
    carry_out(last, tmp_path, image, places)
    installed = {path.name.split("-")[0] for path in (tmp_path / "wheels").iterdir()}
    assert {"onnxruntime", "fastapi", "uvicorn"} <= installed
    assert not {"torch", "transformers", "onnx", "openvino"} & installed
    # What the bundle is read from may be mounted read-only, and the rest of the disk, too.
    folder, keys = bundles("one_level").folder, tmp_path / "keys"
    keys.write_text("of-a-test\n", encoding="utf-8")
    command = replaced(last.words("ENTRYPOINT"), {"/run/secrets/api-keys": str(keys), "8000": "0"})
    command[0] = str(tmp_path / "image/bin/python")
    nowhere = image | {"HOME": "/proc/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    with serving(folder, command=command, cwd=tmp_path, env=nowhere) as address:
        port = address.rpartition(":")[2]
        check = replaced(last.all("HEALTHCHECK")[-1].partition("CMD ")[2], {"8000": port})
        healthy = subprocess.run([command[0], *json.loads(check)[1:]], check=False, env=nowhere)
        assert healthy.returncode == 0
        with urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert answer.read() == page()[0]  # its files are in the wheel
        picture = made(f"http://127.0.0.1:{port}", prompt="a star", seed=3, steps=3)
    with Pipeline.open(folder) as pipeline:
        wanted = pipeline("a star", options=Options(seed=3, steps=3)).pictures[0]
    assert np.abs(picture - wanted.astype(np.int16)).max() <= SAME_SEED_LEVELS


def replaced(words, places):
    """Words, or a text, with some of them, or of its words, others."""
    if isinstance(words, str):
        for before, after in places.items():
            words = re.sub(rf"\b{before}\b", after, words)
        return words
    return [places.get(word, word) for word in words]


def made(address: str, **fields: object) -> np.ndarray:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer of-a-test"}
    data = json.dumps(fields).encode()
    with urlopen(Request(f"{address}/v1/images/generations", data, headers)) as answer:
        data = base64.b64decode(json.load(answer)["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int16)
