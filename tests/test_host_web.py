"""The page in headless Chromium: Python's pictures, offline too; errors; WebGPU's graphs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_tools import EXAMPLES, required
from js_hosts import INSTALL, browsed, copied, pixels

from runtimes.cli import main as runtimes
from runtimes.tolerances import SAME_SEED_LEVELS

WEB = EXAMPLES / "web"
PAGE = Path(__file__).with_name("web_page.mjs")
# Steps and guidance as the page names them, and as Python does.
FIELDS = {"seed": 3, "steps": 3, "decoderSteps": 2, "decoderGuidance": 1.5}
FLAGS = ("--seed", 3, "--steps", 3, "--decoder-steps", 2, "--decoder-guidance", 1.5)
# WebGPU without a GPU.
SWIFTSHADER = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
]
PHONE, DESKTOP = 375, 1280
UNBUFFERED = os.environ | {"PYTHONUNBUFFERED": "1"}
Serve = Callable[..., tuple[str, "subprocess.Popen[str]"]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start serve.py with bundles by name; gives its address and its process, ended at last."""
    started: list[subprocess.Popen[str]] = []

    def start(**folders: Path) -> tuple[str, subprocess.Popen[str]]:
        words = [f"--bundle={name}={folder}" for name, folder in folders.items()]
        line = [sys.executable, str(WEB / "serve.py"), "--port", "0", *words]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip(), process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def browse(tmp_path: Path, steps: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """What each step gave; fails where the page threw an error of its own."""
    required((WEB / "vendor").is_dir(), "examples/web/vendor", INSTALL)
    return browsed(PAGE, tmp_path, steps, **options)


def python_picture(folder: Path, prompt: str, path: Path, *flags: object) -> np.ndarray:
    words = [folder, prompt, *flags, "--quiet", "-o", path]
    assert runtimes([str(word) for word in words]) == 0
    return pixels(path)


def page_picture(path: Path, result: dict[str, Any]) -> np.ndarray:
    assert (result["alert"], result["note"]) == ("", "")
    values = np.fromfile(path, np.uint8).reshape(result["height"], result["width"], 3)
    return values.astype(np.int16)


def test_the_service_worker_keeps_every_file_of_the_page():
    text = (WEB / "service-worker.js").read_text(encoding="utf-8")
    kept = set(re.findall(r'"([\w/.-]+)"', text))
    hosts = {f"host/{path.name}" for path in (WEB / "host").iterdir()}
    shown = {path.name for path in WEB.iterdir() if path.suffix in (".js", ".css", ".html")}
    named = kept | {f"host/{name}.js" for name in kept}
    assert (hosts | shown) - named == {"service-worker.js", "vendor.js"}
    vendored = set(re.findall(r'"dist/([\w.-]+)"', (WEB / "vendor.js").read_text(encoding="utf-8")))
    assert {f"vendor/{name}" for name in vendored} <= kept


def test_no_address_of_another_server_is_in_the_page():
    for path in (*WEB.glob("*.*"), *(WEB / "host").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!localhost)[\w.]", text) or path.name == "README.md", path


@pytest.mark.slow
@pytest.mark.parametrize("dropped", [False, True], ids=["picked", "dropped"])
def test_the_page_makes_pythons_picture_and_works_offline(bundles, tmp_path, serve, dropped):
    folder, prompt = bundles("one_level").folder, "a small blue star"
    url, server = serve()
    first, second = tmp_path / "first.rgb", tmp_path / "second.rgb"
    make = {"does": "make", "prompt": prompt, "fields": FIELDS}
    made = browse(
        tmp_path,
        [
            {"does": "goto", "url": url},
            {"does": "installed"},
            {"does": "drop" if dropped else "pick", "folder": str(folder)},
            make | {"pixels": str(first)},
        ],
    )
    assert made[0] == {"isolated": True}
    assert made[2] == {"alert": "", "bundle": made[2]["bundle"]} and "fp32" in made[2]["bundle"]
    assert re.search(rf"WebAssembly, {os.cpu_count()} thread", made[3]["caption"])
    # Both stages were seen at work before the picture was.
    assert made[3]["shown"] == ["latents of stage_c", "latents of stage_b", f"picture of: {prompt}"]
    wanted = python_picture(folder, prompt, tmp_path / "python.png", *FLAGS)
    assert np.abs(page_picture(first, made[3]) - wanted).max() <= SAME_SEED_LEVELS

    server.kill()
    server.wait()
    again = browse(
        tmp_path,
        [
            {"does": "goto", "url": url},
            {"does": "reopened"},
            make | {"pixels": str(second), "keyboard": True},
        ],
    )
    assert again[0] == {"isolated": True}
    assert second.read_bytes() == first.read_bytes()


@pytest.mark.slow
def test_other_sizes_negative_prompts_and_the_check(bundles, tmp_path, serve):
    folder, prompt = bundles("public").folder, "a star"
    url, _ = serve(tiny=folder)
    fields = FIELDS | {"height": 256, "width": 128, "negative": "blue", "guidance": 6}
    flags = ("--size", "256x128", "--negative-prompt", "blue", "--guidance", 6)
    made = browse(
        tmp_path,
        [
            {"does": "goto", "url": url},
            {"does": "fetch", "address": f"{url}tiny/bundle.json"},
            {"does": "make", "prompt": prompt, "fields": fields, "pixels": str(tmp_path / "x.rgb")},
            {"does": "check"},
        ],
    )
    wanted = python_picture(folder, prompt, tmp_path / "python.png", *FLAGS, *flags)
    difference = page_picture(tmp_path / "x.rgb", made[2]) - wanted
    assert np.abs(difference).max() <= SAME_SEED_LEVELS
    assert made[3]["alert"] == ""
    assert [line for line in made[3]["compared"] if "decoder_text_encoder" in line]


@pytest.mark.slow
def test_bad_input_is_one_line_of_the_alert(bundles, tmp_path, serve):
    source = bundles("public").folder
    changes: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
        "version": (lambda m: m.update(format_version=3), "format version 3, this host reads 2"),
        "noise": (lambda m: m["host"]["noise"].update(algorithm="x"), 'noise.algorithm is "x"'),
        "outside": (lambda m: m["files"].update({"../x": {}}), "a path outside the bundle"),
        "hash": (lambda m: m["files"]["stage_a/model.onnx"].update(sha256="0"), "SHA-256 differs"),
    }
    folders = {name: copied(source, tmp_path / name, change[0]) for name, change in changes.items()}
    folders["gone"] = copied(source, tmp_path / "gone", lambda m: None)
    (folders["gone"] / "stage_b/model.onnx").unlink()
    folders["bare"] = copied(source, tmp_path / "bare", lambda m: m["golden"].update(seed=1))
    shutil.rmtree(folders["bare"] / "golden")  # which no picture needs
    url, _ = serve(**folders, good=source)
    messages = [(name, change[1]) for name, change in changes.items()]
    messages += [
        ("gone", "stage_b/model.onnx is missing"),
        ("nowhere", "is no bundle"),
        ("bare", ""),
    ]
    fetches = [{"does": "fetch", "address": f"{url}{name}/"} for name, _ in messages]
    runs = [
        ({"height": 60}, "height 60 gives Stage B a latent side of"),
        ({"height": "", "guidance": "1e30"}, "NaN or infinite; lower guidance, which is 1e+30"),
        ({"guidance": "", "height": 1024038, "width": 1024038}, "out of memory"),
        ({"height": "", "width": ""}, ""),
    ]
    made = browse(
        tmp_path,
        [
            {"does": "goto", "url": url},
            *fetches,
            {"does": "fetch", "address": f"{url}good/bundle.json"},
            *({"does": "make", "prompt": "a", "fields": FIELDS | fields} for fields, _ in runs),
            {"does": "make", "prompt": "red circle, blue star " * 30, "fields": FIELDS},
        ],
    )
    told = [result["alert"] for result in made[1:]]
    wanted = [message for _, message in messages] + [""] + [message for _, message in runs] + [""]
    for alert, message in zip(told, wanted, strict=True):
        assert message in alert and bool(alert) == bool(message) and "\n" not in alert
    assert "too long: it was cut off before 'red circle" in made[-1]["note"]


@pytest.mark.slow
def test_the_page_in_light_and_dark_at_the_width_of_a_phone(bundles, tmp_path, serve):
    url, _ = serve(demo=bundles("demo").folder)
    looks = [
        {"does": "look", "file": f"{tmp_path}/{width}-{scheme}.png", "scheme": scheme}
        | {"viewport": {"width": width, "height": 800}}
        for width in (PHONE, DESKTOP)
        for scheme in ("light", "dark")
    ]
    prompt = "a large red circle on the left"
    made = browse(
        tmp_path,
        [
            {"does": "goto", "url": url},
            {"does": "fetch", "address": f"{url}demo/"},
            {"does": "make", "prompt": prompt, "pixels": str(tmp_path / "x.rgb")},
            *looks,
            # More than a WebAssembly memory holds; the next picture is made all the same.
            {"does": "make", "prompt": "a", "fields": FIELDS | {"height": 2048, "width": 2048}},
            {"does": "make", "prompt": "a", "fields": FIELDS | {"height": "", "width": ""}},
        ],
    )
    wanted = python_picture(bundles("demo").folder, prompt, tmp_path / "python.png")
    difference = page_picture(tmp_path / "x.rgb", made[2]) - wanted
    assert np.abs(difference).max() <= SAME_SEED_LEVELS
    assert made[3:7] == [{"sideways": 0, "unlabelled": []}] * 4
    assert "out of memory" in made[7]["alert"] and made[8]["alert"] == ""
    # The page follows the scheme: its own colour is light, or dark.
    for look in looks:
        corner = pixels(Path(look["file"]))[2, 2].mean()
        assert (corner > 128) == (look["scheme"] == "light")


@pytest.mark.slow
def test_a_server_without_headers_then_stopping_and_forgetting(bundles, tmp_path):
    line = [sys.executable, "-m", "http.server", "0", "--bind", "localhost", "--directory", WEB]
    with subprocess.Popen(
        [str(word) for word in line], stdout=subprocess.PIPE, env=UNBUFFERED
    ) as server:
        try:
            assert server.stdout is not None
            port = re.search(rb"port (\d+)", server.stdout.readline())
            assert port is not None
            make = {"does": "make", "prompt": "a star", "fields": FIELDS}
            visit = {"does": "goto", "url": f"http://localhost:{int(port[1])}/"}
            made = browse(
                tmp_path,
                [
                    visit,
                    {"does": "pick", "folder": str(bundles("one_level").folder)},
                    make,
                    {"does": "installed"},
                    visit,
                    {"does": "reopened"},
                    make | {"fields": FIELDS | {"steps": 500}, "engine": "wasm"},
                    {"does": "stop"},
                    make,
                    {"does": "forget"},
                ],
            )
        finally:
            server.kill()
    assert made[0] == {"isolated": False} and "WebAssembly, 1 thread)" in made[2]["caption"]
    # The service worker has sent the headers.
    assert made[4] == {"isolated": True}
    assert made[7] == {"alert": "", "stages": False}
    assert made[8]["alert"] == "" and "WebAssembly" in made[8]["caption"]
    assert made[9] == {"left": 0}


@pytest.mark.slow
def test_graphs_on_webgpu(bundles, tmp_path, serve):
    url, _ = serve(tiny=bundles("public").folder)
    check = {"kind": "check", "engine": "webgpu", "parts": ["graphs"], "steps": "ends"}
    messages = [{"kind": "fetch", "address": f"{url}tiny/"}, check]
    made = browse(
        tmp_path,
        [{"does": "goto", "url": url}, {"does": "work", "messages": messages}],
        flags=SWIFTSHADER,
    )
    kinds = [answer["kind"] for answer in made[1]]
    assert kinds[-1] == "checked", made[1][-1]
    assert "note" not in kinds  # every graph was WebGPU's
    (compared,) = (answer["compared"] for answer in made[1] if answer["kind"] == "compared")
    assert {one["what"] for one in compared} == {
        f"graph {name}" for name in bundles("public").manifest.graphs
    }
