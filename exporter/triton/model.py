"""The Python-backend model of a bundle for Triton; the exporter copies this file as it is.

Triton gives it requests in batches, strings in and pictures out. Requests of equal sampling options
are made in one batch; each picture has its own seed and is the one that it would be alone.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from runtimes import Options, Pipeline
from runtimes.errors import RunError, UsageError
from runtimes.prompts import check_text

BUNDLE = "bundle"  # beside this file
SEEDS = 1 << 32  # that the noise tells apart
# Inputs of one number a picture, and the option that each is; absent, the bundle's own holds.
OPTIONS = {
    "STEPS": "steps",
    "GUIDANCE": "guidance",
    "DECODER_STEPS": "decoder_steps",
    "HEIGHT": "height",
    "WIDTH": "width",
}


@dataclass(frozen=True)
class Row:
    """One picture that was asked for: number `row` of request number `request`."""

    request: int
    row: int
    prompt: str
    negative: str
    seed: int
    options: Options


class TritonPythonModel:
    """What Triton calls: `initialize` once, `execute` for each batch, `finalize` at the end."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle on the instance's device; an error ends the loading of the model."""
        config = json.loads(args["model_config"])
        self._most = max(int(config.get("max_batch_size", 0)), 1)
        given = {key: value["string_value"] for key, value in config["parameters"].items()}
        gpu = args["model_instance_kind"] == "GPU"
        self._pipeline = Pipeline.open(
            Path(__file__).parent / BUNDLE,
            device=f"cuda:{args['model_instance_device_id']}" if gpu else "cpu",
            engine=given.get("engine") or None,
            threads=int(given["threads"]) if given.get("threads") else None,
            low_memory=given.get("low_memory") == "true",
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for each request, in order: its pictures, or an error of its own."""
        pictures: dict[tuple[int, int], NDArray[np.uint8]] = {}
        errors: dict[int, str] = {}
        rows: list[Row] = []
        for number, request in enumerate(requests):
            try:
                rows += _rows(number, request)
            except UsageError as error:
                errors[number] = str(error)
        for options in dict.fromkeys(row.options for row in rows):
            alike = [row for row in rows if row.options == options]
            for start in range(0, len(alike), self._most):
                self._make(alike[start : start + self._most], options, pictures, errors)
        return [
            _refusal(errors[number]) if number in errors else _response(number, rows, pictures)
            for number in range(len(requests))
        ]

    def finalize(self) -> None:
        """Release the graphs."""
        self._pipeline.close()

    def _make(
        self,
        rows: Sequence[Row],
        options: Options,
        pictures: dict[tuple[int, int], NDArray[np.uint8]],
        errors: dict[int, str],
    ) -> None:
        """Make pictures of equal options in one batch; what fails, fails its requests alone."""
        prompts, negatives = [row.prompt for row in rows], [row.negative for row in rows]
        try:
            result = self._pipeline(prompts, negatives, _seeded(options, rows))
        except (UsageError, RunError) as error:
            errors.update({row.request: str(error) for row in rows})
            return
        for row, picture in zip(rows, result.pictures, strict=True):
            pictures[row.request, row.row] = picture


def _rows(number: int, request: Any) -> list[Row]:
    """The pictures of a request; UsageError for texts that no tokenizer takes."""
    prompts = _texts(request, "PROMPT")
    negatives = _texts(request, "NEGATIVE_PROMPT") or [""] * len(prompts)
    seeds = _numbers(request, "SEED") or [secrets.randbelow(SEEDS) for _ in prompts]
    given = {option: _numbers(request, name) for name, option in OPTIONS.items()}
    rows = []
    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        check_text(prompt, "PROMPT")
        check_text(negative, "NEGATIVE_PROMPT")
        options = Options(**{name: values[row] for name, values in given.items() if values})
        rows.append(Row(number, row, prompt, negative, seeds[row], options))
    if len({(row.options.height, row.options.width) for row in rows}) > 1:
        raise UsageError("the pictures of one request are of one size: HEIGHT or WIDTH differ")
    return rows


def _seeded(options: Options, rows: Sequence[Row]) -> Options:
    # Options without a seed are what is alike; the seeds are each picture's own.
    given = {name: getattr(options, name) for name in OPTIONS.values()}
    return Options(seed=[row.seed for row in rows], **given)


def _texts(request: Any, name: str) -> list[str]:
    """A string a picture; [] where the input was left out. UsageError for what is no UTF-8."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return []
    try:
        return [bytes(value).decode("utf-8") for value in tensor.as_numpy().reshape(-1)]
    except UnicodeDecodeError:
        raise UsageError(f"{name} is no UTF-8") from None


def _numbers(request: Any, name: str) -> list[Any]:
    """A number a picture; [] where the input was left out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()


def _response(
    number: int, rows: Sequence[Row], pictures: dict[tuple[int, int], NDArray[np.uint8]]
) -> Any:
    """IMAGE (B,H,W,3) uint8, and the SEED (B,1) that each was made with."""
    own = [row for row in rows if row.request == number]
    image = np.stack([pictures[number, row.row] for row in own])
    # The seed as it was given: PyTorch's generators take 64 bits, with or without a sign.
    seeds = np.array([[row.seed] for row in own], np.int64)
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor("IMAGE", image), pb_utils.Tensor("SEED", seeds)]
    )


def _refusal(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
