"""Runs a module where only what some extras install can be imported.

    python tests/parts.py EXTRA[,EXTRA…] MODULE [ARGUMENT…]        ('' for no extra)

What an extra installs is read from the metadata of what is installed here, as pip reads it, so one
environment with everything shows what each part alone would do.
"""

import importlib.metadata
import runpy
import sys
from collections.abc import Iterable
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "wuerstchen-export"
# Modules that a distribution has a copy of inside, which it uses where nobody else brings one.
COPIES = {"psutil": "ray"}


def installed_by(extras: Iterable[str]) -> set[str]:
    """The names of the distributions that `pip install "wuerstchen-export[extras]"` brings."""
    names: set[str] = set()
    waiting = [(PROJECT, frozenset(extras))]
    seen = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            requires = importlib.metadata.distribution(name).requires or []
        except importlib.metadata.PackageNotFoundError:
            continue  # what another platform or an older Python needs
        names.add(name)
        for requirement in map(Requirement, requires):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (*wanted, "")):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return names


class Only:
    """An import finder that does not see the modules and metadata of other distributions."""

    def __init__(self, finder: Any, names: set[str], owners: dict[str, list[str]]) -> None:
        self._finder, self._names, self._owners = finder, names, owners

    def hides(self, module: str) -> bool:
        name = module.partition(".")[0]
        owners = self._owners.get(name)
        if COPIES.get(name) in self._names:
            return False
        return bool(owners) and not self._names & set(map(canonicalize_name, owners or ()))

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if self.hides(name) else self._finder.find_spec(name, path, target)

    def find_distributions(self, *context: Any) -> Any:
        found = getattr(self._finder, "find_distributions", lambda *_: ())(*context)
        return (one for one in found if canonicalize_name(one.name) in self._names)

    def invalidate_caches(self) -> None:
        getattr(self._finder, "invalidate_caches", lambda: None)()


def main(extras: str, module: str, *arguments: str) -> None:
    names = installed_by(filter(None, extras.split(",")))
    owners = dict(importlib.metadata.packages_distributions())
    sys.meta_path[:] = [Only(finder, names, owners) for finder in sys.meta_path]
    for loaded in [name for name in sys.modules if sys.meta_path[0].hides(name)]:
        del sys.modules[loaded]
    sys.path[0] = ""  # as `python -m` has it
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
