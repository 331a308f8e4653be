"""What phones' formats are written and run with: there, or a named skip (required: a failure)."""

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from runtimes.bundle.manifest import Tensor
from runtimes.bundle.read import Bundle
from runtimes.engines.base import Engine
from runtimes.errors import RunError
from runtimes.recording import read_golden

GRAPHS = Path(__file__).parent / "graphs"


def required(extra: str, *packages: str) -> None:
    """Skip a file of tests where a package is missing, naming it and the extra that brings it.

    With PHONES=required in the environment, as `make test-phones` has it, that fails instead.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return
    message = f"{missing[0]} is missing; pip install 'wuerstchen-export[{extra}]' installs it"
    if os.environ.get("PHONES") == "required":
        pytest.fail(message)
    pytest.skip(message, allow_module_level=True)


class Small(nn.Module):
    """A product, which XNNPACK takes, and a sum, which a kernel beside it may."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.arange(24.0).reshape(4, 6)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return nn.functional.linear(x, self.weight), x.sum(dim=1, keepdim=True)


class Rounded(nn.Module):
    """The same, its product a layer that is rounded to 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Linear(6, 4, bias=False)
        weight = torch.arange(24.0).reshape(4, 6)
        self.product.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.product(x), x.sum(dim=1, keepdim=True)


# What the files in tests/graphs were written from, as a plan of the exporter's.
SMALL = SimpleNamespace(
    inputs=(Tensor("x", "float32", (1, 6)),),
    outputs=(Tensor("y", "float32", (1, 4)), Tensor("z", "float32", (1, 1))),
    multiple=1,
)


def check_stage_a(bundle: Bundle, engine: Engine, failed: str) -> None:
    """Its picture, and a line where inputs are missing or of another size; then it is closed."""
    feeds = {"latents": read_golden(bundle).tensors["stage_a.latents"]}
    assert engine.run(feeds)["image"].shape == bundle.graph("stage_a").outputs[0].shape
    with pytest.raises(RunError, match=r"needs inputs that were not given: \['latents'\]"):
        engine.run({})
    with pytest.raises(RunError, match=failed):
        engine.run({"latents": feeds["latents"][:, :, 1:]})
    engine.close()
