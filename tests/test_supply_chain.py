"""SECURITY.md's table of versions is what an installation takes."""

import itertools
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def bounds() -> dict[str, list[Requirement]]:
    """Every requirement of pyproject.toml, by the package's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, list[Requirement]] = {}
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    for text in (*project["dependencies"], *extras):
        requirement = Requirement(text)
        found.setdefault(requirement.name, []).append(requirement)
    return found


def test_no_version_with_a_known_hole_is_taken():
    table = re.findall(
        r"^\| (\w+) \| ([\d.]+) \|", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.M
    )
    assert {"onnx", "pillow", "protobuf"} <= dict(table).keys()
    for name, oldest in table:
        for requirement in bounds()[name]:
            assert requirement.specifier.contains(oldest), requirement
            assert not requirement.specifier.contains(str(_before(oldest))), requirement


def test_the_pins_are_versions_that_pyproject_takes():
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    for name, requirements in bounds().items():
        for requirement in requirements if name in pins else ():
            assert requirement.specifier.contains(pins[name]), requirement


def _before(version: str) -> Version:
    """A version that is older by its last number."""
    *first, last = map(int, version.split("."))
    return Version(".".join(map(str, [*first, last - 1])))
