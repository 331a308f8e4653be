"""Which weight a tensor of an adapter is for: every spelling of every weight, in one table.

A name with underscores for dots cannot be read back ('self_attn_q_proj'), so the names that there
are get spelled in every way known, and a tensor's name is looked up among them:

- PEFT: the weight's own name, with or without `base_model.model.`;
- diffusers: `unet.` or `prior.` and `text_encoder.` before it, or attention processors;
- kohya's sd-scripts, and OneTrainer after them: `lora_unet_`, `lora_te_` or `lora_te1_`, then the
  name with underscores (OneTrainer takes `lora_te` for the prior's text encoder);
- OneTrainer before that: `lora_prior_unet` and `lora_prior_te`, with dots for Wuerstchen and
  underscores for Stable Cascade; for ComfyUI `diffusion_model.`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from exporter.checkpoint.shapes import Shapes

PRIOR, TEXT = "prior", "text_encoder"  # the parts of diffusers' prior pipeline, as it names them
CALLED = {PRIOR: "the prior", TEXT: "the text encoder"}
DOTTED = {
    PRIOR: ("unet.", "prior.", "diffusion_model.", "lora_prior_unet."),
    TEXT: ("text_encoder.", "lora_prior_te."),
}
UNDERSCORED = {
    PRIOR: ("lora_unet_", "lora_prior_unet_", "lora_prior_"),
    TEXT: ("lora_te_", "lora_te1_", "lora_prior_te_"),
}
_PEFT = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<part>A|B|down|up)(?:\.\w+)?\.weight"
)
_ALPHA = re.compile(r"(?P<module>.+?)(?:[._]lora)?\.alpha")
_ROLES = {"A": "down", "B": "up", "down": "down", "up": "up"}
# What tensors of other methods have in their names.
_OTHER_METHODS = {
    re.compile(pattern): method
    for pattern, method in {
        r"\.dora_scale$|lora_magnitude_vector": "DoRA",
        r"\.lokr_(w|t)": "LoKr",
        r"\.hada_(w|t)": "LoHa",
        r"\.lora_mid\.": "LoRA with a Tucker core (lora_mid)",
        r"\.b?oft_": "OFT",
        r"\.(diff|diff_b|w_norm|b_norm)$": "an adapter with differences of whole weights",
        r"\.lora_embedding_": "LoRA of an embedding table",
        r"^bundle_emb\.": "LoRA with embeddings bundled into it",
    }.items()
}


class Target(NamedTuple):
    """A weight that an adapter changes: its part of the pipeline, its name without '.weight'."""

    part: str
    module: str


def spellings(shapes: Mapping[str, Shapes]) -> dict[str, set[Target]]:
    """Every name that an adapter may call a matrix by, and the weights that it may mean.

    `shapes` are each part's weights by name. More than one weight for a name: it is ambiguous.
    """
    table: dict[str, set[Target]] = {}
    for part, weights in shapes.items():
        for name, shape in weights.items():
            if name.endswith(".weight") and len(shape) > 1 and ".embeddings." not in name:
                target = Target(part, name.removesuffix(".weight"))
                for spelling in _spelled(target):
                    table.setdefault(spelling, set()).add(target)
    return table


def split_name(key: str) -> tuple[str, str]:
    """How a tensor's name spells its weight, and its role: 'down', 'up' or 'alpha'.

    ('', '') for a name of another form.
    """
    name = key.replace(".processor.", ".").replace(_PEFT, "")
    if match := _PART.fullmatch(name):
        return match["module"], _ROLES[match["part"]]
    match = _ALPHA.fullmatch(name)
    return (match["module"], "alpha") if match else ("", "")


def other_method(key: str) -> str | None:
    """What a tensor's name says it belongs to, when that is no plain LoRA."""
    return next((name for pattern, name in _OTHER_METHODS.items() if pattern.search(key)), None)


def _spelled(target: Target) -> Iterator[str]:
    for module in _modules(target):
        yield module
        yield from (prefix + module for prefix in DOTTED[target.part])
        yield from (prefix + module.replace(".", "_") for prefix in UNDERSCORED[target.part])


def _modules(target: Target) -> Iterator[str]:
    yield target.module
    if target.module.endswith(".to_out.0"):  # attention processors leave the index out
        yield target.module.removesuffix(".0")
    if target.part == TEXT:  # transformers 5 has no such level
        yield target.module.removeprefix("text_model.")
