"""What a new bundle says about itself: its manifest, and what graph formats say of their own."""

import dataclasses
import importlib.metadata
import json
from pathlib import Path

import torch

from exporter.checkpoint.compressor import CompressorConfig
from exporter.checkpoint.configs import TextConfig
from exporter.formats.table import BACKENDS
from exporter.graphs import GraphPlan
from exporter.job import Job
from runtimes.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    Manifest,
    Model,
    PictureSide,
    Tokenizer,
)

TOOLS = ("wuerstchen-export", "onnx", "onnxscript", "onnx-ir", "numpy")


def new_manifest(job: Job, plans: list[GraphPlan], tokenizers: dict[str, Tokenizer]) -> Manifest:
    """A manifest of a bundle that is to hold these graphs, without graphs and files."""
    decoder, prior = job.checkpoint.decoder_source, job.checkpoint.prior_source
    separate = any(plan.name == "decoder_text_encoder" for plan in job.plans)
    decoder_text = "decoder_text_encoder" if separate else "text_encoder"
    return Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        model=Model(
            id=decoder.id,
            revision=decoder.revision,
            prior_id=prior.id,
            prior_revision=prior.revision,
            license=job.checkpoint.license,
            variant=job.variant,
        ),
        backend=job.backend,
        precision=job.precision,
        graphs={},
        tokenizers=tokenizers,
        text_graphs={"stage_c": "text_encoder", "stage_b": decoder_text if job.text else None},
        sampling=job.constants,
        sizes=tuple(size.picture for size in job.sizes),
        files={},
        tools=tools(BACKENDS[job.backend].packages),
        picture_side=_picture_side(plans),
        adapters=(*(x.adapter for x in job.loras), *(x.adapter for x in job.embeddings)),
    )


def _picture_side(plans: list[GraphPlan]) -> PictureSide | None:
    """What hosts have to know of the compressor, where there is one."""
    for plan in plans:
        if isinstance(plan.component.config, CompressorConfig):
            return PictureSide(compressor_stride=plan.component.config.stride)
    return None


def package_metadata(job: Job, manifest: Manifest) -> dict[str, str]:
    """What a host needs beside the graphs, for formats that carry text of their own."""
    decoder, prior = job.checkpoint.decoder_source, job.checkpoint.prior_source
    return {
        "model": f"{decoder.id}@{decoder.revision}",
        "prior": f"{prior.id}@{prior.revision}",
        "sampling": json.dumps(dataclasses.asdict(job.constants)),
        "tokenizers": json.dumps(
            {name: dataclasses.asdict(spec) for name, spec in manifest.tokenizers.items()}
        ),
        "text_graphs": json.dumps(manifest.text_graphs),
        "deployment_target": job.deployment_target,
    }


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
    (folder / "config.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def tools(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of what writes the graphs."""
    versions = {name: importlib.metadata.version(name) for name in (*TOOLS, *packages)}
    return {"torch": torch.__version__, **versions}
