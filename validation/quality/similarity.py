"""How close pictures and latents are to a reference's on the same noise: PSNR, SSIM, SQNR."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import DENOISERS
from runtimes.bundle.read import Bundle
from runtimes.console import install_hint, installed
from runtimes.engines.base import Execution, Tensors
from runtimes.errors import RunError
from runtimes.noise import RecordedNoise
from runtimes.pipeline import Pipeline, load_tokenizers
from runtimes.recording import Recording, read_golden
from runtimes.similarity import psnr_db
from validation.parity.graphs import graphs_for
from validation.parity.metrics import difference
from validation.quality.bootstrap import interval_of
from validation.quality.metric import Metric
from validation.quality.series import Picture
from validation.quality.starts import Starts

Array = NDArray[np.generic]
STAGES = {"stage_c": "Stage C", "stage_b": "Stage B"}
# Names and units in the order they are reported; the SSIM of equal pictures is 1.
PSNR, SSIM = "PSNR", "SSIM"


@dataclass(frozen=True)
class Closeness:
    """One pair: PSNR in dB, SSIM (None without scikit-image), SQNR in dB per denoiser."""

    psnr: float
    ssim: float | None
    sqnr: dict[str, float]


def ssim_of(actual: Array, expected: Array) -> float:
    """Structural similarity of pictures (H,W,3) in 0..1: Wang et al. 2004, its 11 x 11 window.

    scikit-image's, mean over the colours; 1 for equal pictures.
    """
    from skimage.metrics import structural_similarity

    value = structural_similarity(
        expected.astype(np.float64),
        actual.astype(np.float64),
        channel_axis=2,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


def closeness(
    actual: Array, expected: Array, latents: Tensors, expected_latents: Tensors
) -> Closeness:
    """Compare pictures (H,W,3) in 0..1 and the last latents of each denoiser."""
    sqnr = {name: difference(latents[name], expected_latents[name]).sqnr_db for name in DENOISERS}
    ssim = ssim_of(actual, expected) if installed("skimage") else None
    return Closeness(psnr_db(actual, expected, peak=1), ssim, sqnr)


def pair_metrics(
    actual: Sequence[Picture], expected: Sequence[Picture], against: str
) -> list[Metric]:
    """Medians over pairs of 8-bit pictures and their latents; the SSIM's mean."""
    pairs = [
        closeness(a.pixels() / 255, b.pixels() / 255, dict(a.latents()), dict(b.latents()))
        for a, b in zip(actual, expected, strict=True)
    ]
    return _metrics(pairs, f"against {against}, {len(pairs)} pictures of 8 bits")


def start_metrics(pictures: Sequence[Picture], starts: Starts) -> list[Metric]:
    """PSNR and SSIM of pictures against those they were made from; at strength 0 of their codes."""
    pairs = []
    for index, picture in enumerate(pictures):
        pixels = picture.pixels()
        pairs.append((pixels / 255, starts.pixels(index, (pixels.shape[0], pixels.shape[1]))))
    note = f"against {starts.source}, strength {starts.strength:g}, {len(pairs)} pictures"
    psnrs = [psnr_db(*pair, peak=1) for pair in pairs]
    metrics = [_metric(f"{PSNR}, start", psnrs, np.median, "dB", f"median; {note}")]
    if installed("skimage"):
        ssims = [ssim_of(*pair) for pair in pairs]
        metrics.append(_metric(f"{SSIM}, start", ssims, np.mean, "", f"mean; {note}"))
    return metrics


def golden_metrics(bundle: Bundle, execution: Execution) -> list[Metric]:
    """The run recorded in the bundle, on its own noise: one picture, so no intervals.

    Metrics without a value, and the reason, when the bundle was exported without it.
    """
    try:
        recording = read_golden(bundle)
    except RunError as error:
        names = [PSNR, SSIM, *map(_sqnr_name, DENOISERS)]
        return [Metric(name, None, note=f"{error}, or give --against") for name in names]
    last: Tensors = {}

    def keep(name: str, tensors: Tensors) -> None:
        if name.partition("/")[0] in DENOISERS:
            last[name.partition("/")[0]] = tensors["latents"]

    graphs, tokenizers = graphs_for(bundle, execution), load_tokenizers(bundle)
    with Pipeline(bundle.manifest, graphs, tokenizers, low_memory=True) as pipeline:
        result = pipeline(
            [recording.prompt],
            recording.negative_prompt,
            recording.options,
            noise=RecordedNoise(recording.noise()),
            on_tensors=keep,
        )
    return run_metrics(result.image, last, recording, "golden run, 1 picture")


def run_metrics(image: Array, latents: Tensors, recording: Recording, note: str) -> list[Metric]:
    """A run's picture (1,3,H,W) and last latents against the recorded ones."""
    expected = {
        name: recording.tensors[f"{name}/{recording.steps(name) - 1}.latents"] for name in DENOISERS
    }
    recorded = recording.tensors["stage_a.image"]
    return _metrics([closeness(_upright(image), _upright(recorded), latents, expected)], note)


def _metrics(pairs: Sequence[Closeness], note: str) -> list[Metric]:
    metrics = [_metric(PSNR, (pair.psnr for pair in pairs), np.median, "dB", f"median; {note}")]
    ssims = [pair.ssim for pair in pairs if pair.ssim is not None]
    if len(ssims) == len(pairs):
        metrics.append(_metric(SSIM, ssims, np.mean, "", f"mean; {note}"))
    else:
        metrics.append(Metric(SSIM, None, note=install_hint(("skimage",), "validation")))
    for name in DENOISERS:
        values = (pair.sqnr[name] for pair in pairs)
        metrics.append(_metric(_sqnr_name(name), values, np.median, "dB", f"median; {note}"))
    return metrics


def _metric(
    name: str, values: Iterable[float], statistic: Callable[..., Any], unit: str, note: str
) -> Metric:
    array = np.array(list(values), np.float64)
    single = note.partition("; ")[2] if len(array) == 1 else note
    return Metric(name, float(statistic(array)), *interval_of(array, statistic), unit, single)


def _sqnr_name(denoiser: str) -> str:
    return f"latent SQNR, {STAGES[denoiser]}"


def _upright(image: Array) -> Array:
    """(1,3,H,W) to (H,W,3)."""
    return image[0].transpose(1, 2, 0)
