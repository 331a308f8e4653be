"""A Dockerfile's instructions, and its stages carried out where there is no container engine."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "Dockerfile"
IGNORED = ROOT / ".dockerignore"


@dataclass
class Stage:
    """Instructions between one FROM and the next, as (name, text)."""

    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """The texts of every instruction of a name, in order."""
        return [text for each, text in self.steps if each == name]

    def words(self, name: str) -> list[str]:
        """The last one's, which has to be in the form of a JSON list."""
        found: list[str] = json.loads(self.all(name)[-1])
        return found


def stages() -> list[Stage]:
    """Every stage of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append(Stage())
        elif name and found:
            found[-1].steps.append((name, rest.strip()))
    return found


def copied_names(stage: Stage) -> list[str]:
    """What a stage copies out of the folder that is built in."""
    lines = [shlex.split(text) for text in stage.all("COPY")]
    return [name for words in lines if not words[0].startswith("--") for name in words[:-1]]


def context(folder: Path, names: list[str]) -> None:
    """The files that a build sees: those names, without what .dockerignore takes out again."""
    folder.mkdir()
    lines = IGNORED.read_text(encoding="utf-8").split()
    out = {ROOT / line for line in lines if "/" in line and "*" not in line}
    anywhere = shutil.ignore_patterns(*(x.removeprefix("**/") for x in lines if x[:3] == "**/"))

    def left_out(at: str, found: list[str]) -> set[str]:
        return anywhere(at, found) | {each for each in found if Path(at, each) in out}

    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, folder / name)


def fresh_environment(folder: Path) -> dict[str, str]:
    """The variables that a virtual environment's own Python is found by, with nothing installed."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    kept = {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
    return kept | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)}


def carry_out(stage: Stage, cwd: Path, env: Mapping[str, str], places: Mapping[str, Path]) -> None:
    """Every RUN of a stage as it is written, but for `places`: a path of the image, and ours."""
    for text in stage.all("RUN"):
        line = re.sub(r"^(--\S+ +)+", "", text)
        for path, place in places.items():
            line = re.sub(rf"(?<=\s){path}(?=\s|$)", shlex.quote(str(place)), line)
        done = subprocess.run(
            ["sh", "-ec", line], cwd=cwd, env=env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
