"""A training loop that survives being killed: state is saved every few minutes and resumed."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from runtimes.bundle.atomic_file import atomic_file

SAVE_EVERY = 120.0  # seconds
EMA_DECAY = 0.998


def optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the networks, AdamW for embeddings, convolutions, the rest."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and "embedding" not in name and "mapper" not in name
        (matrices if inner else rest).append(parameter)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=1e-3)
    ]
    if matrices:
        found.append(
            torch.optim.Muon(matrices, lr=lr, weight_decay=1e-3, adjust_lr_fn="match_rms_adamw")
        )
    return found


def learning_rate(step: int, steps: int, warmup: int = 100) -> float:
    """Factor on the base rate: linear warm-up, constant, linear decay over the last 30 %."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (0.3 * steps)))


def fit(
    name: str,
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    work: Path,
) -> dict[str, Tensor]:
    """Train `model` for `steps`, resuming `work/name.pt`; returns the averaged (EMA) weights.

    `loss_of(step)` draws its batch from the step number alone, so a resumed run sees the same
    batches as one that was never stopped. `work/name.steps`, if present, replaces `steps`: the
    length of a running training can be changed without stopping it.
    """
    path = work / f"{name}.pt"
    opts = optimizers(model, lr)
    ema = {key: value.detach().clone() for key, value in model.state_dict().items()}
    start = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        ema, start = state["ema"], state["step"]

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "ema": ema, "step": step}
        with atomic_file(path) as file:
            torch.save({**state, "opts": [opt.state_dict() for opt in opts]}, file)

    for step, lr_factor in _steps(start, steps, work / f"{name}.steps"):
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = lr * lr_factor
        loss = loss_of(step)
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        _average(ema, model, min(EMA_DECAY, (step + 1) / (step + 10)))
        _report(name, step, loss, work, save)
    save(_planned(steps, work / f"{name}.steps"))
    return ema


def _planned(steps: int, override: Path) -> int:
    return int(override.read_text()) if override.exists() else steps


def _steps(start: int, steps: int, override: Path) -> Iterator[tuple[int, float]]:
    step = start
    while step < (total := _planned(steps, override)):
        yield step, learning_rate(step, total)
        step += 1


@torch.no_grad()
def _average(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            ema[key].lerp_(value, 1 - decay)
        else:
            ema[key].copy_(value)


_last = {"save": time.monotonic(), "log": time.monotonic(), "loss": 0.0, "count": 0.0}


def _report(name: str, step: int, loss: Tensor, work: Path, save: Callable[[int], None]) -> None:
    now = time.monotonic()
    _last["loss"] += loss.item()
    _last["count"] += 1
    if now - _last["log"] > 20:
        line = {
            "stage": name,
            "step": step,
            "loss": round(_last["loss"] / _last["count"], 5),
            "ms": round(1000 * (now - _last["log"]) / _last["count"]),
        }
        print(json.dumps(line), flush=True)
        _last.update(log=now, loss=0.0, count=0.0)
    if now - _last["save"] > SAVE_EVERY:
        save(step + 1)
        _last["save"] = time.monotonic()
