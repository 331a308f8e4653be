"""CLIP score, FID and Inception score: published networks, through torchmetrics and torch-fidelity.

Their weights are large and are not shipped. Where one is missing, its metric has no value and
says which file is needed; no other network takes its place.
"""

import functools
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.bundle.read import sha256
from runtimes.console import install_hint, installed
from runtimes.errors import UsageError, one_line
from validation.quality.bootstrap import interval_of
from validation.quality.images import image_paths
from validation.quality.metric import Metric
from validation.quality.series import Picture

CLIP_SCORE, FID, INCEPTION_SCORE = "CLIP score", "FID", "Inception score"
CLIP_MODEL = "openai/clip-vit-base-patch16"
# The file torch-fidelity names; eight hex digits of its SHA-256 are in the name.
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"
SPLITS = 10  # of the Inception score, Salimans et al. 2016


def clip_score(pictures: Sequence[Picture], model: str) -> Metric:
    """Mean of 100 cos(picture, prompt), not below 0, in CLIP's space (Hessel et al. 2021)."""
    parts = load_clip(model)
    if isinstance(parts, str):
        return Metric(CLIP_SCORE, None, note=parts)
    scores = np.array(_clip_scores(pictures, parts), np.float64)
    note = f"{model}, {len(scores)} pictures"
    return Metric(CLIP_SCORE, float(scores.mean()), *interval_of(scores, np.mean), "", note)


def load_clip(model: str) -> tuple[Any, Any] | str:
    """CLIP's model and processor, from a folder or the hub's cache; or what is needed for them.

    Nothing is downloaded: a measure that waits for a network, or fetches 600 MB unasked, is none.
    """
    if hint := install_hint(("torchmetrics", "transformers"), "quality"):
        return hint
    try:
        return _clip(model)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: weights of another config
        files = "config.json, model.safetensors, preprocessor_config.json and tokenizer files"
        if Path(model).is_dir():
            return f"needs {files} in {model}: {one_line(error)[:160]}"
        return (
            f"needs the CLIP model {model} ({files}), which is not in the hub's cache: run "
            f"'hf download {model}', or give a folder as --clip-model"
        )


@functools.cache
def _clip(model: str) -> tuple[Any, Any]:
    """Loaded once, for every bundle scored; an error is not kept, for files may arrive."""
    from transformers import CLIPModel, CLIPProcessor

    local = {"local_files_only": True}
    network = CLIPModel.from_pretrained(model, use_safetensors=True, **local)
    return network, CLIPProcessor.from_pretrained(model, **local)


def _clip_scores(pictures: Sequence[Picture], parts: tuple[Any, Any]) -> list[float]:
    import torch
    from torchmetrics.multimodal.clip_score import CLIPScore

    metric = CLIPScore(lambda: parts)
    scores = []
    for picture in pictures:
        metric.reset()
        pixels = torch.from_numpy(picture.pixels().transpose(2, 0, 1).copy())
        metric.update(pixels, picture.prompt)
        scores.append(float(metric.compute()))
    return scores


def inception_metrics(
    pictures: Sequence[Picture], images: Path | None, weights: Path | None
) -> list[Metric]:
    """FID against a folder of images of the pictures' size, and the Inception score.

    UsageError for a weights file that is not the published one.
    """
    names = (FID, INCEPTION_SCORE)
    path = weights or _cached_weights()
    if path is None:
        needs = f"needs {INCEPTION_FILE}: give it as --inception-weights"
        return [Metric(name, None, note=needs) for name in names]
    check_weights(path)
    if hint := install_hint(("torch_fidelity",), "quality"):
        return [Metric(name, None, note=hint) for name in names]
    scores = _fidelity(pictures, images, path)
    return [_fid(scores, pictures, images), _inception_score(scores, pictures)]


def _fidelity(pictures: Sequence[Picture], images: Path | None, weights: Path) -> dict[str, float]:
    import torch
    from torch_fidelity import calculate_metrics
    from torch_fidelity.datasets import ImagesPathDataset

    many = len(pictures) >= SPLITS
    if images is None and not many:
        return {}
    reference = None if images is None else ImagesPathDataset(image_paths(images))
    scores: dict[str, float] = calculate_metrics(
        input1=ImagesPathDataset([picture.path for picture in pictures]),
        input2=reference,
        fid=images is not None,
        isc=many,
        isc_splits=SPLITS,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        batch_size=8,
        cuda=torch.cuda.is_available(),
        cache=False,
        save_cpu_ram=True,  # no worker processes
        verbose=False,
    )
    return scores


def _fid(scores: dict[str, float], pictures: Sequence[Picture], images: Path | None) -> Metric:
    if images is None:
        return Metric(FID, None, note="needs reference images: give a folder as --images")
    counts = f"{len(pictures)} pictures, {len(image_paths(images))} images of {images.name}"
    note = f"{counts}; biased upwards by few pictures, compare at equal counts only"
    return Metric(FID, scores["frechet_inception_distance"], note=note)


def _inception_score(scores: dict[str, float], pictures: Sequence[Picture]) -> Metric:
    if "inception_score_mean" not in scores:
        return Metric(INCEPTION_SCORE, None, note=f"needs {SPLITS} pictures or more")
    spread = scores["inception_score_std"]
    note = f"{len(pictures)} pictures, standard deviation {spread:.2f} over {SPLITS} splits"
    return Metric(INCEPTION_SCORE, scores["inception_score_mean"], note=note)


def check_weights(path: Path) -> None:
    """UsageError when a file is not the published Inception weights: FID is defined by them.

    torch-fidelity unpickles the file, so that one with anything but tensors is refused too.
    """
    if not path.is_file():
        raise UsageError(f"--inception-weights {path} is no file; it is named {INCEPTION_FILE}")
    digest = sha256(path)
    if not digest.startswith(INCEPTION_SHA256):
        raise UsageError(
            f"--inception-weights {path} is not {INCEPTION_FILE}: its SHA-256 starts with "
            f"{digest[: len(INCEPTION_SHA256)]}, not {INCEPTION_SHA256}"
        )
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--inception-weights {path} is no file of tensors: {reason}") from None


def _cached_weights() -> Path | None:
    """The file where torch.hub keeps what it has downloaded."""
    if not installed("torch"):
        return None
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    return path if path.is_file() else None
