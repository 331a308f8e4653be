"""The README inside a bundle: what it is, how to run it, the host recipe."""

from runtimes.bundle.manifest import GOLDEN_FILE, Graph, Manifest
from runtimes.sizes import sizes

PROMPT = "a large red circle on the left and a small blue star at the top right"
_TEMPLATE = """# {model}: {backend} bundle, {precision}

Made by wuerstchen-export from {model} ({revision}) and {prior} ({prior_revision}).
License: {license}.

    python -m runtimes . "{prompt}" -o picture.png

## In your own host

Names, shapes and every constant below are in `bundle.json`, and so are the rules (`host`: what
feeds what, noise, rounding, tolerances; `tokenizers`: how text becomes ids){golden}

1. `text_encoder`: token ids (`tokenizer/`) of the prompt and of "" -> `last_hidden_state`.
2. `stage_c_condition`: `last_hidden_state` -> `text_kv`, once per prompt.
3. Stage C starts from normal noise (1, {c_channels}, {c_side}); for each row (t, a, b, c) of
   `sampling.stage_c.schedule`: run `stage_c` on the latents twice in one batch (prompt, ""),
   epsilon = uncond + {guidance:g} * (cond - uncond), latents = a*latents + b*epsilon + c*noise,
   which is drawn in the last step, too.
   `timestep_embedding` of t is the row of `sampling.stage_c.embeddings`, or sin, then cos, of
   (t * 10000) * `timestep_frequencies` in fp32.
4. image_embedding = latents * {mean:g} - {std:g}.
5. `stage_b_condition`{text}: image_embedding -> the other inputs of `stage_b`, once per image.
6. Stage B starts from noise (1, {b_channels}, {b_side}) of the same generator; the same loop over
   `sampling.stage_b.schedule`, without guidance.
7. `stage_a`: latents -> `image` in 0..1, {picture} pixels; where the batch is open, one
   picture at a time takes the least memory.

`python -m runtimes . --replay` checks all but the graphs against the recorded run, as a host should
first; docs/hosting.md of wuerstchen-export is the guide.

Other sizes: Stage C's side is ceil(pixels / {multiple:g}), Stage B's int(that * {scale:g}), which
must be a multiple of {closes}.{hint}

## Graphs

| graph | precision | inputs | outputs |
|---|---|---|---|
{rows}
"""


_ONNX_RUNTIME = """

In ONNX Runtime, switch memory patterns off (`SessionOptions::DisableMemPattern`,
`enable_mem_pattern` in Python): with open shapes they double its memory on a CPU, in no less
time."""
_PHONE = """

Made for phones: shapes are fixed{ort}. `mobile` in `bundle.json` says how many graphs to keep open
at once and what memory that is estimated to take; `mobile.md` has the other choices and what
accelerators take."""
_ORT = """, and a graph is one file in ONNX Runtime's own format (`model.ort`), which is
loaded as an ONNX file is and whose optimisations are made already; `required_operators.config` has
what a reduced build of ONNX Runtime needs for them"""
_INTEGER_WEIGHTS = {
    "onnx": """

Integer weights: every product says in its node how exact it is (`accuracy_level` of `MatMulNBits`:
1 is fp32, 4 rounds activations to int8); nothing has to be set.""",
    "openvino": """

Integer weights: compile the condition graphs with `DYNAMIC_QUANTIZATION_GROUP_SIZE` 0 and
`INFERENCE_PRECISION_HINT` f32, or OpenVINO rounds the activations of matrix products to int8.""",
}


def bundle_readme(manifest: Manifest) -> str:
    """Markdown text; sizes are those of the default picture."""
    sampling = manifest.sampling
    size = sizes(sampling.height, sampling.width, sampling)
    text = manifest.text_graphs["stage_b"]
    return _TEMPLATE.format(
        model=manifest.model.id,
        prior=manifest.model.prior_id,
        revision=manifest.model.revision,
        prior_revision=manifest.model.prior_revision,
        license=manifest.model.license,
        backend=manifest.backend,
        precision=manifest.precision,
        prompt=PROMPT,
        c_channels=sampling.stage_c.channels,
        b_channels=sampling.stage_b.channels,
        c_side="{}, {}".format(*size.stage_c),
        b_side="{}, {}".format(*size.stage_b),
        picture="{} x {}".format(*size.picture),
        guidance=sampling.stage_c.guidance,
        mean=sampling.latent_mean,
        std=sampling.latent_std,
        multiple=sampling.resolution_multiple,
        scale=sampling.latent_dim_scale,
        closes=sampling.stage_b_multiple,
        text=f" (with the prompt's `last_hidden_state` from `{text}`)" if text else "",
        rows="\n".join(_row(name, graph) for name, graph in manifest.graphs.items()),
        hint=_hint(manifest),
        golden=_golden(manifest),
    )


def _row(name: str, graph: Graph) -> str:
    inputs, outputs = (
        ", ".join(f"`{t.name}` {t.dtype} {list(t.shape)}".replace("'", "") for t in tensors)
        for tensors in (graph.inputs, graph.outputs)
    )
    return f"| {name} | {graph.precision} | {inputs} | {outputs} |"


def _golden(manifest: Manifest) -> str:
    run = manifest.golden
    if run is None:
        return "."
    schedules = "by the default schedules" if run.default_schedule else "even ones"
    return (
        f"; `{GOLDEN_FILE}` holds every\ntensor of a recorded run to compare with, step by step: "
        f"{run.steps} steps of Stage C and\n{run.decoder_steps} of Stage B, {schedules}, seed "
        f"{run.seed}; its metadata have the prompt."
    )


def _hint(manifest: Manifest) -> str:
    """What an engine has to be told."""
    integer = any(graph.precision.endswith("-weights") for graph in manifest.graphs.values())
    text = _ONNX_RUNTIME if manifest.backend == "onnx" else ""
    if manifest.mobile is not None:
        text += _PHONE.format(ort=_ORT if manifest.mobile.level != "none" else "")
    return text + (_INTEGER_WEIGHTS.get(manifest.backend, "") if integer else "")
