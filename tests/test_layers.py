"""Who may import whom: what the linter refuses, and what the modules really import."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("runtimes", "quantization", "exporter", "validation")
# What no module of a layer imports, not even inside a function.
BANNED = {
    "runtimes": (
        *("torch", "transformers", "diffusers", "onnx"),
        *("exporter", "quantization", "validation"),
    ),
    "quantization": ("torch", "transformers", "diffusers", "exporter", "validation"),
    "exporter": ("transformers", "diffusers", "quantization", "validation"),
    "validation": (),
}
# Circles that only an import inside a function or for the type checker closes. Such an import is
# no error at run time, but it says that two modules belong together: each has its reason here.
CLOSED_LATE = [
    # The table of engines opens each adapter when it is asked for, and the adapters take its types.
    {f"runtimes.engines.{name}" for name in ("base", "coreml", "onnxruntime", "openvino")}
    | {f"runtimes.engines.{name}" for name in ("executorch", "litert", "onnxruntime_buffers")},
    # The checks take the manifest that runs them, for the type checker only.
    {"runtimes.bundle.manifest", "runtimes.bundle.manifest_check"},
    {"exporter.job", "exporter.manifest"},
]


@dataclass(frozen=True)
class Import:
    """One imported module; late: inside a function, or for the type checker alone."""

    module: str
    late: bool


def module_name(path: Path) -> str:
    """As Python calls the module of a file, `__init__` being its package."""
    *parts, last = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if last == "__init__" else [*parts, last])


# optimum_register is a module of optimum's namespace, not of the exporter's.
FILES = {
    module_name(path): path
    for layer in LAYERS
    for path in sorted((ROOT / layer).rglob("*.py"))
    if "optimum_register" not in path.parts
}


def statements(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every import below a node, and whether it runs later than the module or never."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, late
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from statements(child, late or function or typing)


def imports(text: str) -> Iterator[Import]:
    """What a module's text imports; of `from package import module` the module."""
    for statement, late in statements(ast.parse(text)):
        if isinstance(statement, ast.Import):
            yield from (Import(alias.name, late) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "relative imports are not used here"
            for alias in statement.names:
                name = f"{statement.module}.{alias.name}"
                yield Import(name if name in FILES else str(statement.module), late)


@pytest.fixture(scope="module")
def imported() -> dict[str, list[Import]]:
    """What each module of the project imports."""
    return {name: list(imports(path.read_text("utf-8"))) for name, path in FILES.items()}


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Every set of modules that reach each other, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    components: list[set[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in edges.get(module, set()):
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            start = stack.index(module)
            components.append(set(stack[start:]))
            del stack[start:]

    for module in edges:
        if module not in order:
            visit(module)
    return [component for component in components if len(component) > 1]


def edges_of(imported: dict[str, list[Import]], *, late: bool) -> dict[str, set[str]]:
    """The project's own imports; with the late ones or without."""
    return {
        name: {i.module for i in modules if i.module in FILES and (late or not i.late)}
        for name, modules in imported.items()
    }


def test_circles_are_found():
    edges = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(map(sorted, circles(edges))) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_late_imports_are_told_apart():
    text = (
        "import json\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\n"
        "try:\n    import b\nexcept ImportError:\n    pass\n"
        "def f():\n    from runtimes import errors\n"
    )
    late = {each.module for each in imports(text) if each.late}
    assert late == {"a", "runtimes.errors"}
    assert {each.module for each in imports(text)} - late == {"json", "typing", "b"}


def test_no_circle_of_imports(imported):
    assert circles(edges_of(imported, late=False)) == []


def test_circles_closed_late_are_known(imported):
    """A new one is either a design fault or needs its reason in CLOSED_LATE."""
    unknown = [
        sorted(circle)
        for circle in circles(edges_of(imported, late=True))
        if not any(circle <= known for known in CLOSED_LATE)
    ]
    assert unknown == []


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_downwards(imported, layer):
    faults = [
        f"{name}: {each.module}"
        for name, modules in imported.items()
        if name.partition(".")[0] == layer
        for each in modules
        if each.module.partition(".")[0] in BANNED[layer]
    ]
    assert faults == []


def refused(path: str, lines: Iterable[str]) -> list[str]:
    """The names that the linter bans in a file of these lines."""
    command = [sys.executable, "-m", "ruff", "check", "-", "--select", "TID251"]
    done = subprocess.run(
        [*command, "--output-format", "concise", "--stdin-filename", str(ROOT / path)],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode in (0, 1), done.stderr
    return [line.split("`")[1] for line in done.stdout.splitlines() if "TID251" in line]


@pytest.mark.parametrize("folder", ["", "sub/"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_linter_refuses_what_points_upwards(layer, folder):
    """As a whole, a part of it, and inside a function; below a folder too."""
    names = sorted({*LAYERS, "torch", "transformers", "diffusers", "onnx", "numpy"})
    expected = [name for name in names if name in BANNED[layer]]
    path = f"{layer}/{folder}new.py"
    assert refused(path, (f"import {name}" for name in names)) == expected
    assert refused(path, (f"from {name}.a import b" for name in names)) == expected
    deferred = ["def f():", *(f"    import {name}.c" for name in names)]
    assert refused(path, deferred) == expected


def test_tests_and_recipes_may_import_everything():
    lines = [f"import {name}" for name in (*LAYERS, "torch", "transformers", "diffusers")]
    for path in ("tests/new.py", "examples/new.py"):
        assert refused(path, lines) == []
