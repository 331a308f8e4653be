"""Every measure a bundle's pictures can be given here, in one list."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtimes.bundle.manifest import Model
from runtimes.bundle.read import Bundle
from runtimes.engines.base import Execution
from runtimes.errors import UsageError
from runtimes.plan import Options, make_plan
from validation.demo.drawing import SIDE
from validation.quality import judged
from validation.quality.filling import OnPicture, pictures_of
from validation.quality.images import check_images, image_size, pixels_of
from validation.quality.metric import Metric
from validation.quality.prompts import Prompts
from validation.quality.published import (
    CLIP_MODEL,
    CLIP_SCORE,
    check_weights,
    clip_score,
    inception_metrics,
)
from validation.quality.series import Album, Picture, Series, check, digest_of
from validation.quality.similarity import golden_metrics, pair_metrics, start_metrics
from validation.quality.starts import Starts


@dataclass(frozen=True)
class Measures:
    """What pictures are compared with: reference images and published networks.

    The demo needs none of them. `clip_model` is a folder or hub id, None the default's for other
    models; `inception_weights` a file, None torch.hub's cache.
    """

    images: Path | None = None
    clip_model: str | None = None
    inception_weights: Path | None = None


@dataclass(frozen=True)
class Request:
    """One run: which pictures, kept where, measured how.

    `against`: a bundle on the same noise; `starts`: pictures that they are made from.
    """

    folder: Path
    prompts: Prompts
    seed: int = 0
    options: Options = field(default_factory=Options)
    execution: Execution = field(default_factory=Execution)
    measures: Measures = field(default_factory=Measures)
    against: Bundle | None = None
    low_memory: bool = False
    starts: Starts | None = None

    def albums(self, bundle: Bundle) -> tuple[Album, ...]:
        """Where this run keeps its pictures: those of `bundle`, then those of `against`."""
        own = Album(self.series(bundle), self.folder / "pictures")
        if self.against is None:
            return (own,)
        return own, Album(self.series(self.against), self.folder / "against")

    def series(self, bundle: Bundle) -> Series:
        """The pictures of `bundle` for this run."""
        return Series(
            bundle,
            self.prompts.texts,
            self.seed,
            self.options,
            self.execution,
            self.low_memory,
            self.starts,
        )


@dataclass(frozen=True)
class Quality:
    """The figures, and the pictures they are of."""

    metrics: tuple[Metric, ...]
    pictures: tuple[Picture, ...]
    against: tuple[Picture, ...] = ()


def measure(
    bundle: Bundle, request: Request, on_picture: OnPicture = lambda what, done, total: None
) -> Quality:
    """Make the pictures that are not there yet and measure them.

    PSNR, SSIM and latent SQNR are against `request.against`, else the bundle's golden run.
    Metrics that cannot be had have no value and say why. Raises UsageError before any work.
    """
    check_request(bundle, request)
    pictures, *more = (pictures_of(album, on_picture) for album in request.albums(bundle))
    others = more[0] if more else []
    if request.against is None:
        close = golden_metrics(bundle, request.execution)
    else:
        close = pair_metrics(pictures, others, request.against.folder.name)
    from_start = [] if request.starts is None else start_metrics(pictures, request.starts)
    by_itself = picture_metrics(bundle.manifest.model, pictures, request.prompts, request.measures)
    return Quality((*close, *from_start, *by_itself), tuple(pictures), tuple(others))


def check_request(bundle: Bundle, request: Request) -> None:
    """UsageError for whatever can be known to be wrong before the first picture."""
    check(request.series(bundle))
    if request.against is not None:
        check_against(bundle, request.against)
        check(request.series(request.against))
    measures = request.measures
    if measures.images is not None:
        plan = make_plan(bundle.manifest.sampling, request.options, 1, None)
        check_images(measures.images, plan.sizes.picture)
    if measures.inception_weights is not None:
        check_weights(measures.inception_weights)


def check_against(bundle: Bundle, against: Bundle) -> None:
    """UsageError unless two bundles are variants of one checkpoint."""
    first, second = (replace(b.manifest.model, license="", variant="") for b in (bundle, against))
    if first != second:
        raise UsageError(
            f"--against {against.folder} is of {second.id}@{second.revision}, {bundle.folder} of "
            f"{first.id}@{first.revision}; only bundles of one model are compared"
        )
    if digest_of(bundle) == digest_of(against):
        raise UsageError(f"--against {against.folder} is the same bundle")


def picture_metrics(
    model: Model, pictures: Sequence[Picture], prompts: Prompts, measures: Measures
) -> list[Metric]:
    """What pictures score by themselves: by the judge on the demo, by published networks."""
    metrics: list[Metric] = []
    demo = model.is_demo
    if demo:
        metrics += _judge_metrics(pictures, prompts, measures.images)
    if measures.clip_model is not None or not demo:
        metrics.append(clip_score(pictures, measures.clip_model or CLIP_MODEL))
    if measures.inception_weights is not None or not demo:
        metrics += inception_metrics(pictures, measures.images, measures.inception_weights)
    return metrics


def _judge_metrics(
    pictures: Sequence[Picture], prompts: Prompts, images: Path | None
) -> list[Metric]:
    if image_size(pictures[0].path) != (SIDE, SIDE):
        needs = f"needs pictures of {SIDE} x {SIDE} pixels, as the judge was trained on"
        return [Metric(name, None, note=needs) for name in (judged.MAIN, judged.FRECHET)]
    readings = judged.read(picture.pixels() for picture in pictures)
    if prompts.scenes is None:
        needs = "needs the held-out scenes: leave out --prompts"
        metrics = [Metric(judged.MAIN, None, note=needs)]
    else:
        metrics = judged.accuracy(readings, prompts.scenes)
    if images is not None:
        reference, what = judged.read(pixels_of(images)).features, f"images of {images.name}"
    else:
        floor = judged.floor_of(max(len(pictures), 2))
        reference = judged.drawn_features()
        what = f"{judged.DRAWINGS} drawings (as many other drawings: {floor:.1f})"
    return [*metrics, judged.frechet_distance(readings.features, reference, what)]


def main_metric(metrics: Sequence[Metric]) -> Metric | None:
    """The figure a sweep plots: the judge's pairs, else the CLIP score, else the PSNR."""
    by_name = {metric.name: metric for metric in metrics if metric.value is not None}
    for name in (judged.MAIN, CLIP_SCORE, "PSNR"):
        if name in by_name:
            return by_name[name]
    return None
