"""A text encoder's config.json, by which optimum's and transformers' classes know the graph."""

import dataclasses
import json
from pathlib import Path

from exporter.checkpoint.configs import TextConfig
from runtimes.bundle.manifest import Tokenizer

FILE_NAME = "config.json"


def write_text_config(config: TextConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Write `folder`/config.json, that of transformers' CLIPTextModel, beside model.onnx.

    optimum.onnxruntime.ORTModelForFeatureExtraction.from_pretrained(folder) then opens the graph.
    """
    value = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        **dataclasses.asdict(config),
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    (folder / FILE_NAME).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
