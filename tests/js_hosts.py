"""The hosts in JavaScript, run by node, and bundles that are changed for them."""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import manifests
import numpy as np
from host_tools import EXAMPLES, command, required, reseal
from numpy.typing import NDArray
from PIL import Image

from runtimes.bundle.manifest import GOLDEN_FILE

INSTALL = "examples/web/install_tools.sh"
UNITS = Path(__file__).with_name("js_units.mjs")


def node(*words: object) -> subprocess.CompletedProcess[str]:
    """A script with its arguments; skips without node."""
    line = [command("node", INSTALL), *map(str, words)]
    return subprocess.run(line, check=False, capture_output=True, encoding="utf-8")


def units(**asked: Any) -> Any:
    """What the modules of the hosts make of plain values (js_units.mjs says of which)."""
    done = node(UNITS, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def node_host(*words: object) -> subprocess.CompletedProcess[str]:
    """examples/node/main.js; skips without its engine."""
    has(EXAMPLES / "node", "onnxruntime-node")
    return node(EXAMPLES / "node/main.js", *words)


def browsed(
    script: Path, tmp_path: Path, steps: list[dict[str, Any]], **options: Any
) -> list[dict[str, Any]]:
    """What each step of a script on browser.mjs gave; fails where its page threw an error."""
    has(EXAMPLES / "web", "playwright-core")
    asked = {
        "steps": steps,
        "profile": str(tmp_path / "profile"),
        "chromium": command("chromium", INSTALL),
        **options,
    }
    file = tmp_path / "steps.json"
    file.write_text(json.dumps(asked), encoding="utf-8")
    done = node(script, file)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    # The browser's own word for what the page puts into a line.
    errors = [text for text in said["errors"] if "Failed to load resource" not in text]
    assert errors == []
    results: list[dict[str, Any]] = said["results"]
    return results


def has(folder: Path, package: str) -> None:
    """Skip without a package of npm's in a folder."""
    required((folder / "node_modules" / package).is_dir(), package, INSTALL)


def pixels(path: Path) -> NDArray[np.int16]:
    """A PNG's (H,W,3), for differences."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)


def copied(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a bundle whose manifest `change` has changed."""
    shutil.copytree(bundle, folder)
    value = manifests.read(folder)
    change(value)
    manifests.write(folder, value)
    return folder


def with_golden_value(bundle: Path, folder: Path, tensor: str) -> Path:
    """A copy whose golden run has one byte of a tensor changed, and a manifest that agrees."""
    shutil.copytree(bundle, folder)
    data = bytearray((folder / GOLDEN_FILE).read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    start = json.loads(data[8 : 8 + length])[tensor]["data_offsets"][0]
    data[8 + length + start + 3] ^= 0x40  # of an fp32's exponent: 2^128 or 2^-128 times
    (folder / GOLDEN_FILE).write_bytes(data)
    reseal(folder, GOLDEN_FILE)
    return folder
