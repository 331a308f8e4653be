"""Which graph runs when, and what feeds it: the run of a picture as a list."""

from collections.abc import Iterator

from runtimes.bundle.host import Call, Feed, Rows, When
from runtimes.bundle.manifest import CONDITION_GRAPHS, DENOISERS, GRAPHS, TEXT_ENCODERS, Manifest

# Inputs that the host makes itself, by what of it makes them.
_HOSTS_OWN = {
    "input_ids": Feed("input_ids", "tokenizer", "input_ids", "negative_prompts"),
    "attention_mask": Feed("attention_mask", "tokenizer", "attention_mask", "negative_prompts"),
    "latents": Feed("latents", "sampler", "latents", "repeat"),
    "timestep_embedding": Feed("timestep_embedding", "sampler", "timestep_embedding", "repeat"),
    "image_embedding": Feed("image_embedding", "sampler", "image_embedding", "zeros"),
}


def run_order(manifest: Manifest) -> tuple[Call, ...]:
    """The calls of a run from prompt to picture, for the graphs that this bundle holds."""
    names = [name for name in GRAPHS if name in manifest.graphs]
    return tuple(_call(name, manifest) for name in names)


def _call(graph: str, manifest: Manifest) -> Call:
    return Call(
        graph=graph,
        stage=_stage(graph),
        when=_when(graph),
        rows=_rows(graph),
        feeds=tuple(_feeds(graph, manifest)),
    )


def _stage(graph: str) -> str:
    """The denoiser whose latents and guidance a graph goes by; '' for text encoders."""
    if graph == "stage_a":
        return "stage_b"
    stage = graph.removesuffix("_condition")
    return stage if stage in DENOISERS else ""


def _when(graph: str) -> When:
    if graph in DENOISERS:
        return "step"
    return "prompt" if graph in (*TEXT_ENCODERS, "stage_c_condition") else "picture"


def _rows(graph: str) -> Rows:
    if graph in TEXT_ENCODERS:
        return "prompts_and_negatives"
    return "guided" if graph in (*CONDITION_GRAPHS, *DENOISERS) else "pictures"


def _feeds(graph: str, manifest: Manifest) -> Iterator[Feed]:
    stage = _stage(graph)
    for tensor in manifest.graphs[graph].inputs:
        name = tensor.name
        if graph == "stage_a":
            yield Feed(name, "sampler", "latents", "none")
        elif name in _HOSTS_OWN:
            yield _HOSTS_OWN[name]
        elif name == "last_hidden_state":
            yield Feed(name, manifest.text_graphs[stage] or "", name, "negative_prompts")
        else:  # what the stage's condition graph gives, both halves of it
            yield Feed(name, f"{stage}_condition", name, "included")
