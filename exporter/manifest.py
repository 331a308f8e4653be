"""What a new bundle says about itself: the manifest before its graphs, a package's metadata."""

import dataclasses
import importlib.metadata
import json
from typing import TYPE_CHECKING

import torch

from exporter.checkpoint.open import Checkpoint
from exporter.formats.table import BACKENDS
from runtimes.bundle.manifest import FORMAT, FORMAT_VERSION, Manifest, Model, Tokenizer

if TYPE_CHECKING:
    from exporter.job import Job

TOOLS = ("wuerstchen-export", "onnx", "onnxscript", "onnx-ir", "numpy")


def new_manifest(job: "Job", tokenizers: dict[str, Tokenizer]) -> Manifest:
    """A manifest without graphs and files."""
    decoder, prior = job.checkpoint.decoder_source, job.checkpoint.prior_source
    own = any(plan.name == "decoder_text_encoder" for plan in job.plans)
    decoder_text = "decoder_text_encoder" if own else "text_encoder"
    given = job.settings.given
    return Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        model=Model(
            id=decoder.id,
            revision=decoder.revision,
            prior_id=prior.id,
            prior_revision=prior.revision,
            license=license_of(job.checkpoint),
            variant=job.checkpoint.variant or given.variant or "",
        ),
        backend=job.settings.backend,
        precision=job.settings.precision,
        graphs={},
        tokenizers=tokenizers,
        text_graphs={"stage_c": "text_encoder", "stage_b": decoder_text if given.text else None},
        sampling=job.constants,
        sizes=tuple(size.picture for size in job.sizes),
        files={},
        tools=tools(BACKENDS[job.settings.backend].packages),
        adapters=(*(x.adapter for x in job.loras), *(x.adapter for x in job.embeddings)),
    )


def license_of(checkpoint: Checkpoint) -> str:
    """The license the decoder's model card names."""
    return checkpoint.decoder_source.front_matter.get("license", "unknown")


def package_metadata(job: "Job", manifest: Manifest) -> dict[str, str]:
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
        "deployment_target": job.settings.deployment_target,
    }


def tools(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of what writes the graphs."""
    found = {name: importlib.metadata.version(name) for name in (*TOOLS, *packages)}
    return {"torch": torch.__version__, **found}
