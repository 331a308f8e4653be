"""What a graph was made from and how, as one hash: the same hash, the same graph."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from exporter.checkpoint.configs import TextConfig
from exporter.checkpoint.vocabulary import FILES
from exporter.formats.table import BACKENDS
from exporter.graphs import GraphPlan
from exporter.job import Job
from exporter.manifest import license_of, tools
from runtimes.bundle.read import sha256


class Origins:
    """The origins of a job's graphs; every checkpoint file is hashed once, when it is needed."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._hashes: dict[Path, str] = {}

    def __call__(self, plan: GraphPlan) -> str:
        """SHA-256 over weights, adapters, config, tensors, options and tool versions of a graph."""
        settings, closed = self._job.settings, self._job.closed(plan)
        made_from: dict[str, Any] = {
            "graph": plan.name,
            "weights": [self._hash(file) for file in plan.component.files],
            "config": dataclasses.asdict(plan.component.config),
            "loras": [
                [self._hash(lora.file), {k: vars(v) for k, v in lora.layers.items()}]
                for lora in plan.loras
            ],
            "tensors": [vars(tensor) for tensor in (*closed.inputs, *closed.outputs)],
            "backend": settings.backend,
            "target": dataclasses.asdict(self._job.target(plan, {})),
            "tools": tools(BACKENDS[settings.backend].packages),
        }
        if isinstance(plan.component.config, TextConfig) or settings.backend == "coreml":
            made_from["tokenizers"] = self._tokenizers()
            made_from["embeddings"] = [vars(each.adapter) for each in self._job.embeddings]
        if settings.backend == "coreml":  # its packages carry what their host needs
            made_from["sampling"] = dataclasses.asdict(self._job.constants)
            made_from["license"] = license_of(self._job.checkpoint)
        text = json.dumps(made_from, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _tokenizers(self) -> list[str]:
        folders = (self._job.checkpoint.tokenizer, self._job.checkpoint.decoder_tokenizer)
        files = [folder / name for folder in folders for name in FILES]
        return [self._hash(file) if file.is_file() else "" for file in files]

    def _hash(self, file: Path) -> str:
        if file not in self._hashes:
            self._hashes[file] = sha256(file)
        return self._hashes[file]
