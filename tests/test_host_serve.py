"""The server's page in headless Chromium: real clicks and keys, against a real server process."""

import base64
import hashlib
import http.client
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from js_hosts import browsed, node, pixels
from serve_process import serving

from runtimes import Options, Pipeline
from runtimes.images import read_parameters
from runtimes.serve.page import SCRIPTS, STYLES, WEB, page
from runtimes.tolerances import SAME_SEED_LEVELS

SCRIPT = Path(__file__).with_name("serve_page.mjs")
EVENTS = Path(__file__).with_name("serve_events.mjs")
PHONE, DESKTOP = {"width": 360, "height": 800}, {"width": 1280, "height": 900}
ENDLESS = 10_000  # steps of a run that nobody waits for
PROMPT = "a large red circle on the left"
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server with these words; gives its address."""
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(serving(*words, "--port", 0))


def browse(tmp_path: Path, address: str, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the steps gave after a visit; nothing was asked of anyone but the server."""
    visit = {"does": "goto", "url": f"{address}/"}
    made = browsed(SCRIPT, tmp_path, [visit, *steps, {"does": "asked"}], timeout=120_000)
    assert made[-1]["origins"] == [address]
    return made[1:-1]


def python_picture(folder: Path, prompt: str, options: Options) -> np.ndarray:
    with Pipeline.open(folder) as pipeline:
        return pipeline(prompt, options=options).pictures[0].astype(np.int16)


class Elements(HTMLParser):
    """The text within style and script, every attribute, and the names of all elements."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.texts: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self._open in ("style", "script") and data.strip():
            self.texts.append((self._open, data))


def test_the_policy_names_what_is_in_the_document_and_nothing_else():
    document, policy = page()
    found = Elements(document.decode())
    assert [tag for tag, _ in found.texts] == ["style", "script"]
    for tag, text in found.texts:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    # What the policy would refuse: handlers and styles in attributes, files from elsewhere.
    for name, value in found.attributes:
        assert not name.startswith("on") and name != "style"
        assert name not in ("src", "href") or str(value).startswith("data:")


def test_every_file_of_the_page_is_in_the_document():
    document = page()[0].decode()
    assert {path.name for path in WEB.iterdir()} == {"page.html", *STYLES, *SCRIPTS}
    for name in (*STYLES, *SCRIPTS):
        assert (WEB / name).read_text(encoding="utf-8") in document


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_events_are_read_wherever_their_stream_is_cut(size, end):
    wanted = [{"type": "x", "text": "größer 星 🌟"}, {"type": "y", "text": "a\n\nb"}]
    texts = [json.dumps(event, ensure_ascii=False) for event in wanted]
    lines = [": alive", "", "event: x", f"data: {texts[0]}", "", f"data:{texts[1]}", "", "data: {"]
    done = node(EVENTS, WEB / "events.js", end.join(lines), size)
    assert json.loads(done.stdout) == wanted  # the last one never ended


@pytest.mark.slow
def test_the_page_makes_pythons_picture_with_progress_and_previews(bundles, tmp_path, serve):
    folder = bundles("demo").folder
    file = tmp_path / "made.png"
    made = browse(
        tmp_path,
        serve(folder),
        [
            {"does": "make", "prompt": PROMPT, "fields": {"seed": 7}},
            {"does": "download", "file": str(file)},
        ],
    )
    assert (made[0]["alert"], made[0]["tiles"]) == ("", ["Seed 7"])
    assert made[1]["name"] == "a-large-red-circle-on-the-left-seed-7.png"
    wanted = python_picture(folder, PROMPT, Options(seed=7))
    assert np.abs(pixels(file) - wanted).max() <= SAME_SEED_LEVELS
    parameters = read_parameters(file)
    assert (parameters["prompt"], parameters["seed"]) == (PROMPT, [7])
    seen = made[0]["seen"]
    assert len(seen["previews"]) > 1
    assert any(re.fullmatch(r"Composing, Stage C: step \d+ of 29", text) for text in seen["said"])
    assert seen["done"] == sorted(seen["done"]) and 0 < seen["done"][-1] <= 1
    # Who listens is told of stages, not of every step.
    assert "Composing, Stage C" in seen["announced"]
    assert seen["announced"][-1] == "The picture is there." and len(seen["announced"]) < 12


@pytest.mark.slow
def test_history_same_seeds_and_options_used_again(bundles, tmp_path, serve):
    folder, hostile = bundles("one_level").folder, "<img src=x onerror=alert(1)> ünï"
    presets = tmp_path / "presets.json"
    presets.write_text('{"quick": {"steps": 2, "decoder_steps": 2}}', encoding="utf-8")
    few = {"seed": "", "steps": 3, "decoder_steps": 2, "negative": "blue", "n": 2}
    made = browse(
        tmp_path,
        serve(folder, "--presets", presets),
        [
            {"does": "make", "prompt": hostile, "fields": few, "key": "Enter"},
            {"does": "download", "file": str(tmp_path / "first.png"), "from": "#history a"},
            {"does": "click", "on": "#history .again"},
            {"does": "fields"},
            {"does": "make", "key": "Control+Enter"},
            {"does": "download", "file": str(tmp_path / "again.png")},
            {"does": "make", "prompt": "a star " * 100, "fields": {"steps": "", "decoder_steps": "",
             "negative": "", "seed": "", "preset": "quick"}},
            {"does": "click", "on": "#same-seed"},
            {"does": "fields"},
            {"does": "click", "on": "#history li:last-child .thumbnail"},
        ],
    )  # fmt: skip
    seeds = [int(text.split()[1]) for text in made[0]["tiles"]]
    assert seeds[1] == seeds[0] + 1
    newest = f"Seed {seeds[1]} · "
    assert made[0]["history"][0].startswith(newest) and len(made[0]["history"]) == 2
    assert made[1]["name"] == f"img-src-x-onerror-alert-1-ünï-seed-{seeds[1]}.png"
    wanted = {"prompt": hostile, "seed": str(seeds[1]), "steps": "3", "negative_prompt": "blue"}
    assert made[3].items() >= (wanted | {"n": "1", "decoder_steps": "2"}).items()
    difference = pixels(tmp_path / "again.png") - pixels(tmp_path / "first.png")
    assert np.abs(difference).max() <= SAME_SEED_LEVELS  # the first was one of a batch
    assert "was not read" in made[6]["note"] and "preset quick" in made[6]["history"][0]
    assert made[8]["seed"] == made[6]["tiles"][0].split()[1]
    assert made[9]["tiles"] == [f"Seed {seeds[0]}"]


@pytest.mark.slow
def test_stopping_ends_the_servers_work(bundles, tmp_path, serve):
    address = serve(bundles("one_level").folder, "--max-steps", ENDLESS)
    endless = {"prompt": "a star", "steps": ENDLESS, "decoder_steps": ENDLESS}
    short = {"steps": 2, "decoder_steps": 2}
    made = browse(
        tmp_path,
        address,
        [
            {"does": "stop", "fields": endless, "by": "Escape"},
            {"does": "stop", "fields": {}, "by": "click"},
            {"does": "make", "prompt": "a star", "fields": short},
        ],
    )
    for stopped in made[:2]:
        assert (stopped["alert"], stopped["tiles"], stopped["history"]) == ("", [], [])
        assert stopped["seen"]["announced"][-1] == "Stopped."
    assert made[1]["focused"] == "make"
    assert made[2]["alert"] == "" and len(made[2]["tiles"]) == 1
    with urlopen(f"{address}/metrics") as answer:
        counted = re.search(rb"^wuerstchen_pictures_total\S* (\S+)", answer.read(), re.MULTILINE)
    assert counted is not None and float(counted[1]) == 1  # what was stopped was not made


@pytest.mark.slow
def test_what_is_wrong_is_one_line_that_is_seen(bundles, tmp_path, serve):
    address = serve(bundles("one_level").folder, "--max-steps", ENDLESS, "--queue", 4)
    with ExitStack() as stack:
        fill_the_queue(address, stack)
        made = browse(
            tmp_path,
            address,
            [
                {"does": "make", "prompt": "a"},
                {"does": "make", "prompt": ""},
                {"does": "make", "prompt": "a", "fields": {"seed": "seven"}},
                {"does": "make", "prompt": "a", "fields": {"seed": "", "steps": ENDLESS + 1}},
                {"does": "make", "prompt": "a" * 5000, "fields": {"steps": 2}},
            ],
        )
    told = ["Try again", "Prompt: ", "Seed: a whole number", "Stage C steps: ", "5,000 characters"]
    for result, words in zip(made, told, strict=True):
        assert words in result["alert"] and "\n" not in result["alert"]
        assert result["tiles"] == []
    assert re.search(r"Try again in \d+ s, at \d+:\d\d", made[0]["alert"])


def fill_the_queue(address: str, stack: ExitStack) -> None:
    """Ask for endless runs, the first of which works, until one more is refused."""
    asked = {"prompt": "a", "steps": ENDLESS, "decoder_steps": ENDLESS, "n": 4, "stream": True}
    body, headers = json.dumps(asked), {"Content-Type": "application/json"}
    for number in range(10):
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        stack.callback(connection.close)
        connection.request("POST", "/v1/images/generations", body, headers)
        answer = connection.getresponse()
        if answer.status == 429:
            return
        while number == 0 and b"progress" not in answer.readline():
            pass
    raise AssertionError("ten requests were taken")


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_by_the_tab_alone(bundles, tmp_path, serve):
    keys = tmp_path / "keys"
    keys.write_text("correct-horse-battery-staple\n", encoding="utf-8")
    keys.chmod(0o600)
    made = browse(
        tmp_path,
        serve(bundles("one_level").folder, "--api-key-file", keys),
        [
            {"does": "key", "key": "wrong"},
            {"does": "key", "key": "ключ"},
            {"does": "key", "key": "correct-horse-battery-staple"},
            {"does": "make", "prompt": "a star", "fields": {"steps": 2}},
            {"does": "click", "on": "#forget"},
        ],
    )
    assert "API key" in made[0]["alert"] and made[0]["kept"] == [0, 0]
    assert "letters, digits" in made[1]["alert"]
    assert made[2] == {"alert": "", "kept": [1, 0], "focused": "prompt"}
    assert len(made[3]["tiles"]) == 1


@pytest.mark.slow
def test_a_picture_by_keyboard_alone_among_two_models(bundles, tmp_path, serve):
    folder = bundles("one_level").folder
    address = serve(folder, folder, "--name", "one", "--name", "two")
    (made,) = browse(tmp_path, address, [{"does": "keyboard", "prompt": "a star", "seed": 5}])
    assert (made["alert"], made["tiles"], made["unringed"]) == ("", ["Seed 5"], [])


@pytest.mark.slow
def test_the_page_in_light_and_dark_at_the_width_of_a_phone(bundles, tmp_path, serve):
    during = {"prompt": PROMPT, "steps": 100, "n": 2}
    looks: list[dict[str, Any]] = [
        {"does": "look", "file": f"{tmp_path}/{size['width']}-{scheme}-{when}.png"}
        | {"scheme": scheme, "viewport": size}
        | ({"during": during} if when == "during" else {})
        for size in (PHONE, DESKTOP)
        for scheme in ("light", "dark")
        for when in ("after", "during")
    ]
    first = {"does": "make", "prompt": PROMPT, "fields": {"seed": 7, "size": "other"}}
    wrong = {"does": "make", "prompt": ""}
    made = browse(tmp_path, serve(bundles("demo").folder), [first, wrong, *looks])
    for look, seen in zip(looks, made[2:], strict=True):
        assert (seen["sideways"], seen["unlabelled"]) == (0, [])
        assert seen["contrasts"][0][1] >= 4.5, seen["contrasts"]
        corner = pixels(Path(look["file"]))[2, 2].mean()
        assert (corner > 128) == (look["scheme"] == "light")
