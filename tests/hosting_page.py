"""The parts of docs/hosting.md that a manifest decides: `python tests/hosting_page.py BUNDLE`.

Each lies between `<!-- NAME: from a manifest -->` and `<!-- end -->`, and is written anew there.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from runtimes.bundle.host import Call, Host
from runtimes.bundle.manifest import Manifest
from runtimes.bundle.read import open_bundle
from runtimes.noise import TorchNoise

PAGE = Path(__file__).parents[1] / "docs/hosting.md"
BLOCK = re.compile(r"(<!-- (\w+): from a manifest -->).*?(<!-- end -->)", re.DOTALL)
# In words, what the second half of an input's rows is.
SECOND = {
    "negative_prompts": "",
    "repeat": ", twice",
    "zeros": ", then zeros",
    "included": "",
    "none": "",
}


def filled(page: str, manifest: Manifest) -> str:
    """The page with all of its parts as the manifest has them."""
    return BLOCK.sub(lambda m: f"{m[1]}\n\n{BLOCKS[m[2]](manifest)}\n\n{m[3]}", page)


def _run(manifest: Manifest) -> str:
    head = ("graph", "when", "rows", "inputs <- where they come from", "outputs")
    return _table(head, [_call(call, manifest) for call in _host(manifest).run])


def _call(call: Call, manifest: Manifest) -> tuple[str, ...]:
    graph = manifest.graphs[call.graph]
    shapes = {t.name: str(list(t.shape)).replace("'", "") for t in (*graph.inputs, *graph.outputs)}
    feeds = (
        f"`{f.input}` {shapes[f.input]} <- {f.source}.{f.output}{SECOND[f.unconditional]}"
        for f in call.feeds
    )
    outputs = (f"`{t.name}` {shapes[t.name]}" for t in graph.outputs)
    stage = f" of `{call.stage}`" if call.stage else ""
    return (
        f"`{call.graph}`",
        f"{call.when}{stage}",
        call.rows,
        "<br>".join(feeds),
        "<br>".join(outputs),
    )


def _rules(manifest: Manifest) -> str:
    host = _host(manifest)
    parts = ("noise", "schedule", "guidance", "picture")
    rows = [
        (f"`host.{part}.{key}`", f"`{_text(value)}`")
        for part in parts
        for key, value in asdict(getattr(host, part)).items()
    ]
    return _table(("where", "value"), rows)


def _tokenizer(manifest: Manifest) -> str:
    spec = manifest.tokenizers["text_encoder"]
    assert spec.rules is not None
    values = asdict(spec) | asdict(spec.rules)
    values["normalization"] = [
        " ".join(filter(None, step.values())) for step in values["normalization"]
    ]
    values["added"] = [f"{token['content']} = {token['id']}" for token in values["added"]]
    shown = {key: value for key, value in values.items() if key not in ("rules", "folder")}
    return _table(("rule", "value"), [(key, f"`` {_text(v)} ``") for key, v in shown.items()])


def _noise(manifest: Manifest) -> str:
    words = np.random.RandomState(0).randint(0, 1 << 32, size=4, dtype=np.uint32)
    source = TorchNoise(0)
    rows = [
        ("first four words of the generator", *words.tolist()),
        ("first four values of a draw of 16", *_digits(source.draw((16,))[:4])),
        ("then, of a draw of 20: the first four", *_digits((twenty := source.draw((20,)))[:4])),
        ("and the last four", *_digits(twenty[-4:])),
    ]
    return _table(("seed 0", "", "", "", ""), rows)


def _schedules(manifest: Manifest) -> str:
    rows = [
        (f"`{name}`", number, row.t, row.a, row.b, row.c)
        for name in ("stage_c", "stage_b")
        for number, row in enumerate(getattr(manifest.sampling, name).schedule)
        if number in (0, 1, len(getattr(manifest.sampling, name).schedule) - 1)
    ]
    return _table(("stage", "step", "t", "a", "b", "c"), [tuple(map(str, row)) for row in rows])


def _tolerances(manifest: Manifest) -> str:
    rows = [
        (f"`{graph}`", t.compute, f"{t.graph_error:.1e}", f"{t.latent_db:g}", f"{t.picture_db:g}")
        for graph in ("stage_c_condition", "stage_c")
        for t in _host(manifest).tolerances[graph]
    ]
    return _table(("graph", "computed in", "graph_error", "latent_db", "picture_db"), rows)


BLOCKS: Mapping[str, Callable[[Manifest], str]] = {
    "run": _run,
    "rules": _rules,
    "tokenizer": _tokenizer,
    "noise": _noise,
    "schedules": _schedules,
    "tolerances": _tolerances,
}


def _host(manifest: Manifest) -> Host:
    assert manifest.host is not None
    return manifest.host


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()  # as JSON has it
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _digits(values: object) -> list[str]:
    return [f"{value:.6f}" for value in np.asarray(values)]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(filled(text, open_bundle(sys.argv[1]).manifest), encoding="utf-8")
