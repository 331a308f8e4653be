"""What a graph is made from and how, as one hash: the same hash, the same graph.

The manifest keeps it as a graph's `origin`.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from exporter.checkpoint.configs import TextConfig
from exporter.checkpoint.tokenizer_files import FILES
from exporter.formats.table import BACKENDS
from exporter.graphs import GraphPlan
from exporter.job import Job
from exporter.manifest import tools
from runtimes.bundle.read import sha256


class Fingerprints:
    """The fingerprints of a job's graphs.

    Checkpoint files are hashed when a graph first needs them, which takes seconds a gigabyte, and
    once each: two graphs may share a file.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._hashes: dict[Path, str] = {}

    def of(self, plan: GraphPlan) -> str:
        """SHA-256 over weights, adapters, config, tensors, options and tool versions of a graph."""
        job, closed = self._job, self._job.closed(plan)
        inputs: dict[str, Any] = {
            "graph": plan.name,
            "weights": [self._hash(file) for file in plan.component.files],
            "config": dataclasses.asdict(plan.component.config),
            "loras": [
                [self._hash(lora.file), {k: vars(v) for k, v in lora.layers.items()}]
                for lora in plan.loras
            ],
            "tensors": [vars(tensor) for tensor in (*closed.inputs, *closed.outputs)],
            "backend": job.backend,
            "layout": BACKENDS[job.backend].layout,
            "target": dataclasses.asdict(job.target(plan, {})),
            "tools": tools(BACKENDS[job.backend].packages),
        }
        if isinstance(plan.component.config, TextConfig) or job.backend == "coreml":
            inputs["tokenizers"] = self._tokenizers()
            inputs["embeddings"] = [vars(each.adapter) for each in job.embeddings]
        if job.backend == "coreml":  # its packages carry what their host needs
            inputs["sampling"] = dataclasses.asdict(job.constants)
            inputs["license"] = job.checkpoint.license
        text = json.dumps(inputs, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _tokenizers(self) -> list[str]:
        folders = (self._job.checkpoint.tokenizer, self._job.checkpoint.decoder_tokenizer)
        files = [folder / name for folder in folders for name in FILES]
        return [self._hash(file) if file.is_file() else "" for file in files]

    def _hash(self, file: Path) -> str:
        if file not in self._hashes:
            self._hashes[file] = sha256(file)
        return self._hashes[file]
