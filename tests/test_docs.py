"""What the documentation says about commands and files is true."""

import re
from functools import partial
from pathlib import Path

import pytest

from exporter.cli import parser as exporter_parser
from exporter.inspect_cli import parser as inspect_parser
from exporter.mobile.cli import parser as mobile_parser
from exporter.signing import sign_parser, verify_parser
from exporter.triton.cli import parser as triton_parser
from quantization.cli import parser as quantization_parser
from quantization.ranges_cli import parser as ranges_parser
from quantization.sensitivity_cli import parser as sensitivity_parser
from runtimes.cli import parser as runtimes_parser
from runtimes.decode_cli import parser as decode_parser
from runtimes.encode_cli import parser as encode_parser
from runtimes.serve.cli import parser as serve_parser
from validation.cli import COMMANDS, JUDGE
from validation.cli import parser as validation_parser

ROOT = Path(__file__).parents[1]
PARSERS = {
    "exporter": exporter_parser,
    "exporter inspect": inspect_parser,
    "exporter mobile": mobile_parser,
    "exporter sign": sign_parser,
    "exporter triton": triton_parser,
    "exporter verify": verify_parser,
    "runtimes": runtimes_parser,
    "runtimes decode": decode_parser,
    "runtimes encode": encode_parser,
    "runtimes serve": serve_parser,
    "quantization": quantization_parser,
    "quantization ranges": ranges_parser,
    "quantization sensitivity": sensitivity_parser,
    "validation": validation_parser,
    **{
        f"validation {name}": partial(validation_parser, name) for name in COMMANDS if name != JUDGE
    },
}


def commands():
    """Every `python -m ...` line of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = "|".join(sorted(PARSERS, key=len, reverse=True))
    return re.findall(rf"^    python -m ({programs})(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize(("program", "words"), commands())
def test_every_flag_of_the_readme_exists(program, words):
    given = {a for action in PARSERS[program]()._actions for a in action.option_strings}
    used = re.findall(r"(?<!\S)--?[a-z][\w-]*", words.split("#")[0])
    assert set(used) <= given


@pytest.mark.parametrize("name", list(PARSERS))
def test_every_option_has_help(name):
    for action in PARSERS[name]()._actions:
        assert action.help, action.dest


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "exporter/demo_checkpoint/README.md",
        "docs/architecture.md",
        "docs/hosting.md",
        "docs/mobile.md",
        "docs/performance.md",
        "docs/quality.md",
        "docs/quantization.md",
        "docs/scale.md",
        "docs/serving.md",
        "docs/triton.md",
        "examples/android/README.md",
        "examples/cpp/README.md",
        "examples/ios/README.md",
    ],
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_everything_the_architecture_names_is_there():
    """Paths from the root of the project, and the tables by their names in capitals."""
    quoted = re.findall(r"`([^`\n]+)`", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
    paths = [text for text in quoted if "/" in text or text.endswith(".py")]
    assert len(paths) > 50 and [path for path in paths if not (ROOT / path).exists()] == []
    tables = {text for text in quoted if re.fullmatch(r"[A-Z]{2,}[A-Z_]*", text)}
    layers = ("runtimes", "exporter", "quantization", "validation")
    code = "\n".join(p.read_text("utf-8") for layer in layers for p in (ROOT / layer).rglob("*.py"))
    assert {name for name in tables if not re.search(rf"^{name}\b", code, re.MULTILINE)} == set()
    assert {"ENGINES", "BACKENDS", "PRESETS", "GRAPHS"} <= tables


def test_both_commands_are_in_the_readme_and_the_makefile():
    readme, makefile = (ROOT / name for name in ("README.md", "Makefile"))
    for command in ("demo", "test"):
        assert f"make {command}" in readme.read_text(encoding="utf-8")
        assert re.search(rf"^{command}:", makefile.read_text(), re.MULTILINE)
