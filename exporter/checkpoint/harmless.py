"""What a checkpoint may hold that changes nothing in its graphs, each group with its reason.

Whatever is in no group could change a graph and is refused. Checked for the text encoder by
setting each key in transformers: CLIPTextModel's hidden states stay the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from runtimes.bundle.ranges import shown
from runtimes.errors import UsageError


@dataclass(frozen=True)
class Group:
    """Keys that change nothing, and why.

    `values`: the only ones that is true of; None: of any. `noted`: worth a line to the user,
    which what every library writes into every config is not.
    """

    reason: str
    keys: tuple[str, ...]
    values: tuple[Any, ...] | None = None
    noted: bool = True


# In the config of any component.
_ANY = (
    Group("acts in training only", ("dropout", "gradient_checkpointing"), noted=False),
    Group("a picture size it was trained at", ("sample_size",)),
    Group("the weights are stored as they are", ("quantization_config",), values=(None, {})),
)
CONFIG_KEYS: dict[str, tuple[Group, ...]] = {
    "StageCConfig": _ANY,
    "StageBConfig": _ANY,
    "StageAConfig": (
        *_ANY,
        Group("asks other autoencoders for fp32; this one does not read it", ("force_upcast",)),
    ),
    "SchedulerConfig": (
        Group("the timesteps of training; those of sampling run from 1 to 0",
              ("num_train_timesteps",)),
        Group("what this scheduler steps by", ("prediction_type",), values=("epsilon",)),
    ),
    "TextConfig": (
        *_ANY,
        Group("where the config comes from",
              ("architectures", "model_type", "torch_dtype", "dtype", "transformers_version",
               "name_or_path"),
              noted=False),
        Group("acts in training only",
              ("attention_dropout", "initializer_factor", "initializer_range"), noted=False),
        Group("ids that frame and pool; the hidden states are neither framed here nor pooled",
              ("bos_token_id", "eos_token_id", "pad_token_id"), noted=False),
        Group("the width of a projection behind the hidden states", ("projection_dim",),
              noted=False),
        Group("what a call returns beside the hidden states, and which kernel computes them",
              ("output_hidden_states", "output_attentions", "return_dict", "torchscript",
               "use_cache", "attn_implementation")),
        Group("roles of models that generate or translate; CLIP's text model reads none",
              ("is_decoder", "is_encoder_decoder", "add_cross_attention",
               "cross_attention_hidden_size", "tie_encoder_decoder", "tie_word_embeddings",
               "decoder_start_token_id", "sep_token_id")),
        Group("saves memory in some models, not in CLIP's", ("chunk_size_feed_forward",)),
        Group("no head was cut out", ("pruned_heads",), values=(None, {})),
        Group("defaults for generating text",
              ("max_length", "min_length", "do_sample", "early_stopping", "num_beams",
               "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p",
               "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
               "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
               "output_scores", "return_dict_in_generate", "forced_bos_token_id",
               "forced_eos_token_id", "remove_invalid_values",
               "exponential_decay_length_penalty", "suppress_tokens",
               "begin_suppress_tokens")),
        Group("the labels of tasks it is not used for",
              ("id2label", "label2id", "num_labels", "problem_type", "finetuning_task",
               "task_specific_params")),
        Group("the tokenizer's, which has a config of its own", ("tokenizer_class", "prefix")),
        Group("for TensorFlow and TPUs", ("tf_legacy_loss", "use_bfloat16")),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class WeightGroup:
    """Weights of a text encoder's files that its hidden states do not need, and why."""

    reason: str
    patterns: tuple[str, ...]


TEXT_WEIGHTS = (
    WeightGroup("buffers of older versions: 0, 1, 2, ...", ("*embeddings.position_ids",)),
    WeightGroup("the projection of CLIPTextModelWithProjection and CLIPModel, behind the pooled "
                "output", ("text_projection.weight",)),
    WeightGroup("the picture side of a whole CLIPModel",
                ("vision_model.*", "visual_projection.weight", "logit_scale")),
)  # fmt: skip
UNUSED_TEXT_WEIGHTS = tuple(pattern for group in TEXT_WEIGHTS for pattern in group.patterns)


def is_harmless(kind: str, key: str, value: Any, where: str) -> bool:
    """Whether a config key changes nothing in the graph of `kind`, one of CONFIG_KEYS.

    Raises UsageError for a key that is harmless with other values only.
    """
    group = _group(kind, key)
    if group is None or group.values is None or value in group.values:
        return group is not None
    only = " or ".join(map(repr, group.values))
    raise UsageError(
        f"{where}: '{key}' is {shown(value)}, which could change the graph and is not supported; "
        f"only {only} is"
    )


def note_keys(kind: str, config: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    """A line naming the keys of a config that were ignored, where there are such."""
    groups = ((key, _group(kind, key)) for key in config)
    return _line([key for key, group in groups if group and group.noted], where, "config key")


def note_weights(names: Iterable[str], where: Path) -> tuple[str, ...]:
    """A line naming the weights of a text encoder that were ignored, where there are such."""
    unused = [n for n in sorted(names) if any(fnmatchcase(n, p) for p in UNUSED_TEXT_WEIGHTS)]
    return _line(unused, where, "weight")


def _group(kind: str, key: str) -> Group | None:
    return next((group for group in CONFIG_KEYS[kind] if key in group.keys), None)


def _line(names: list[str], where: Path, what: str, shown: int = 6) -> tuple[str, ...]:
    if not names:
        return ()
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    several, verb = ("s", "they change") if len(names) > 1 else ("", "it changes")
    listed = ", ".join(names[:shown])
    return (f"{where}: ignored, {verb} nothing here: {what}{several} {listed}{more}",)
