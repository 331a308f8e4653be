"""Time and memory: one picture at a time, each in a process of its own, variants in turn."""

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtimes.bundle.read import Bundle
from runtimes.engines.base import Execution
from runtimes.errors import RunError
from runtimes.interrupts import completed
from runtimes.progress import SILENT, Progress
from runtimes.recording import Recording
from validation.report.data import STAGES, Cost, Spread, StageCost

Stages = dict[str, dict[str, Any]]  # graph -> what `python -m runtimes --json` says of it


def measure_costs(
    bundles: Sequence[Bundle],
    recording: Recording,
    execution: Execution,
    repeats: int,
    progress: Progress = SILENT,
) -> list[Cost]:
    """Each bundle's cost of the recorded run: medians of `repeats` rounds over all bundles.

    A process's peak memory never falls, so that each run has its own. One more run per bundle
    holds one graph at a time: it tells the stages' memory apart.
    """
    words = [*_run_words(recording), *_execution_words(execution)]
    rounds: list[list[Stages]] = []
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        for number in range(repeats if bundles else 0):
            rounds.append([_run(bundle, picture, words, recording) for bundle in bundles])
            progress.step("timing, rounds", number + 1, repeats)
        alone = [_run(b, picture, ["--low-memory", *words], recording) for b in bundles]
    return [_cost([stages[index] for stages in rounds], held) for index, held in enumerate(alone)]


def _run(bundle: Bundle, picture: Path, words: list[str], recording: Recording) -> Stages:
    command = [sys.executable, "-m", "runtimes", str(bundle.folder), "-o", str(picture), "--json"]
    # Prompts may start with a dash: after '--' nothing is an option.
    done = completed([*command, *words, "--", recording.prompt])
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"{bundle.folder}: the timed run failed: {said[-1]}")
    stages: Stages = json.loads(done.stdout)["stages"]
    return stages


def _run_words(recording: Recording) -> list[str]:
    options = recording.options
    flags = {
        "--seed": options.seed,
        "--steps": options.steps,
        "--decoder-steps": options.decoder_steps,
        "--height": options.height,
        "--width": options.width,
    }
    words = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
    return [f"--negative-prompt={recording.negative_prompt}", *words]


def _execution_words(execution: Execution) -> list[str]:
    flags = {
        "--device": execution.device,
        "--engine": execution.engine,
        "--execution-precision": execution.precision,
        "--cache-dir": execution.cache,
        "--threads": execution.threads,
    }
    return [f"{flag}={value}" for flag, value in flags.items() if value is not None]


def _cost(rounds: list[Stages], alone: Stages) -> Cost:
    everything = tuple(alone)
    peaks = [max(used["peak_bytes"] for used in graphs.values()) for graphs in rounds]
    stages = []
    for stage, names in STAGES.items():
        held = tuple(name for name in names if name in alone)
        peak = max(alone[name]["peak_bytes"] for name in held)
        stages.append(StageCost(stage, *_seconds(rounds, held), peak))
    return Cost(*_seconds(rounds, everything), int(statistics.median(peaks)), tuple(stages))


def _seconds(rounds: list[Stages], names: Sequence[str]) -> tuple[Spread, Spread]:
    """Seconds of running and of loading some graphs, over the rounds."""
    loading = [sum(graphs[name]["load_seconds"] for name in names) for graphs in rounds]
    everything = [sum(graphs[name]["seconds"] for name in names) for graphs in rounds]
    running = [whole - load for whole, load in zip(everything, loading, strict=True)]
    return _spread(running), _spread(loading)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))
