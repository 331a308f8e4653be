"""What an export needs of memory and disk, estimated before the first byte is written."""

import math
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from exporter.components import Checkpoint
from exporter.graphs import GraphPlan
from exporter.inspection import graph_parameters, one_picture, peak_bytes
from exporter.job import Job
from exporter.memory import available_memory, resident_memory
from exporter.progress import in_bytes
from runtimes.errors import UsageError

MB = 1_000_000
# Measured; docs/performance.md has the figures. The programs themselves, PyTorch first, ...
PROCESS = {"onnx": 400 * MB, "openvino": 450 * MB, "coreml": 450 * MB}


@dataclass(frozen=True)
class Budget:
    """Bytes: `memory` the process holds at most, `disk` that is written at most at one time."""

    memory: int
    disk: int


def estimate(job: Job, plans: list[GraphPlan], done: Collection[str]) -> Budget:
    return Budget(0, 0)


def check_budget(budget: Budget, output: Path) -> None:
    pass
