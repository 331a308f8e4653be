"""The figures of validation quality: against closed forms, SciPy and transformers, never faked."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from runtimes.errors import UsageError
from validation.demo.drawing import draw
from validation.demo.judge import score
from validation.demo.scenes import held_out_scenes
from validation.quality import frechet, judged, published
from validation.quality.bootstrap import interval_of
from validation.quality.measure import main_metric
from validation.quality.metric import Metric
from validation.quality.series import Picture
from validation.quality.similarity import ssim_of


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_an_interval_contains_its_value_and_is_the_same_every_time(statistic):
    values = np.random.default_rng(3).exponential(size=60)
    low, high = interval_of(values, statistic)
    assert low < statistic(values) < high
    assert (low, high) == interval_of(values, statistic)
    assert interval_of(values[:1], statistic) == (None, None)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """95 %: of 300 samples of a known mean, and narrower with more prompts."""
    rng = np.random.default_rng(0)
    found = [interval_of(rng.normal(5, 2, size=40), np.mean) for _ in range(300)]
    covered = np.mean([low <= 5 <= high for low, high in found])
    assert 0.90 <= covered <= 0.98
    wide, narrow = (interval_of(rng.normal(size=n), np.mean) for n in (20, 2000))
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 5


def test_frechet_distance_of_shifted_gaussians_is_the_closed_form():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(400, 6))
    noise -= noise.mean(axis=0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    shift, scales = rng.normal(size=6), rng.uniform(0.5, 3, size=6)
    first, second = frechet.fit(white), frechet.fit(white * scales + shift)
    expected = np.square(shift).sum() + np.square(scales - 1).sum()
    assert frechet.distance(first, second) == pytest.approx(expected, rel=1e-10)
    assert frechet.distance(first, first) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("count", [8, 300])
def test_frechet_distance_is_that_of_scipys_matrix_root(count):
    """Fewer pictures than features included, where the covariance has no inverse."""
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=(n, 24)) @ rng.normal(size=(24, 24)) for n in (count, 300))
    root = scipy.linalg.sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)).real
    spread = np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * root)
    expected = np.square(x.mean(axis=0) - y.mean(axis=0)).sum() + spread
    assert frechet.distance(frechet.fit(x), frechet.fit(y)) == pytest.approx(expected, rel=1e-5)


def test_the_frechet_interval_contains_its_value():
    """The plain percentile interval does not: resamples hold fewer different pictures."""
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(400, 32)).astype(np.float32)
    for count in (10, 40, 200):
        features = (rng.normal(size=(count, 32)) + 0.5).astype(np.float32)
        found = judged.frechet_distance(features, reference, "noise")
        assert found.low < found.value < found.high
    assert judged.frechet_distance(features[:1], reference, "noise").value is None


def test_ssim():
    rng = np.random.default_rng(5)
    picture = rng.uniform(size=(48, 40, 3))
    assert ssim_of(picture, picture) == 1
    noisy = np.clip(picture + rng.normal(scale=0.2, size=picture.shape), 0, 1)
    assert 0 < ssim_of(noisy, picture) < 0.95
    # A constant shift of a flat picture leaves the luminance term alone (Wang et al., eq. 6).
    flat, other = np.full((48, 40, 3), 0.25), np.full((48, 40, 3), 0.75)
    expected = (2 * 0.25 * 0.75 + 0.01**2) / (0.25**2 + 0.75**2 + 0.01**2)
    assert ssim_of(flat, other) == pytest.approx(expected, rel=1e-6)


def test_accuracy_is_the_judges_score_with_an_interval():
    rng = np.random.default_rng(6)
    scenes = held_out_scenes(24, seed=9)
    pictures = [draw(scene, rng) for scene in scenes]
    pictures[3], pictures[10] = pictures[10], pictures[3]  # two wrong ones
    readings = judged.read(pictures)
    expected = score(readings, scenes)
    found = {m.name: m for m in judged.accuracy(readings, scenes)}
    assert found.keys() == {judged.ACCURACY.format(name) for name in expected}
    for name, share in expected.items():
        metric = found[judged.ACCURACY.format(name)]
        assert metric.value == pytest.approx(100 * share) and metric.unit == "%"
        assert metric.low <= metric.value <= metric.high
    exact = found[judged.ACCURACY.format("exact")]
    assert exact.value == pytest.approx(100 * 22 / 24) and exact.low < exact.value < exact.high
    right = judged.read(draw(scene, rng) for scene in scenes)
    change = judged.accuracy_change(readings, right, scenes)
    assert change.value > 0 and change.low <= change.value <= change.high
    assert judged.accuracy_change(right, right, scenes).value == 0


def test_the_figure_a_sweep_plots():
    judge, clip, psnr = (Metric(name, 1.0) for name in (judged.MAIN, "CLIP score", "PSNR"))
    assert main_metric([psnr, clip, judge]) is judge
    assert main_metric([psnr, clip, Metric(judged.MAIN, None)]) is clip
    assert main_metric([psnr]) is psnr and main_metric([]) is None


# Published networks, with random weights


def test_clip_score_is_the_cosine_of_clips_embeddings(tmp_path):
    from tiny import TOKENIZER
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2}
    text = small | {"num_attention_heads": 4, "vocab_size": 49408}
    vision = small | {"num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    side = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = CLIPProcessor(CLIPImageProcessor(**side), CLIPTokenizer.from_pretrained(TOKENIZER))
    assert isinstance(published.load_clip(str(tmp_path / "clip")), str)  # and asked again below
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    rng = np.random.default_rng(0)
    pictures, expected = [], []
    for index, prompt in enumerate(["a red circle", "a blue star on the left", "a ring"]):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        pictures.append(Picture(path, prompt, index, 0.0, {}))
        inputs = processor(text=[prompt], images=[Image.open(path)], return_tensors="pt")
        out = model(**inputs)
        expected.append(100 * float(torch.cosine_similarity(out.image_embeds, out.text_embeds)))
    found = published.clip_score(pictures, str(tmp_path / "clip"))
    assert found.value == pytest.approx(np.mean(np.maximum(expected, 0)), abs=1e-3)
    assert found.low <= found.value <= found.high and "3 pictures" in found.note
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "clip" / name).unlink()
        published._clip.cache_clear()
        lacking = published.clip_score(pictures, str(tmp_path / "clip"))
        assert lacking.value is None and f"in {tmp_path / 'clip'}" in lacking.note


def test_fid_and_inception_score_come_from_torch_fidelity(tmp_path, monkeypatch):
    """Here a stand-in for it, which sees the very pictures and says what it was asked for."""
    asked = []

    def calculate_metrics(**given):
        asked.append(given)
        keys = ["frechet_inception_distance"] * given["fid"]
        keys += ["inception_score_mean", "inception_score_std"] * given["isc"]
        return dict.fromkeys(keys, 12.5)

    module = types.ModuleType("torch_fidelity")
    module.__spec__ = types.SimpleNamespace()
    module.calculate_metrics = calculate_metrics
    datasets = types.ModuleType("torch_fidelity.datasets")
    datasets.ImagesPathDataset = list
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    monkeypatch.setitem(sys.modules, "torch_fidelity.datasets", datasets)
    weights, images = tmp_path / published.INCEPTION_FILE, tmp_path / "images"
    torch.save({"a": torch.zeros(2)}, weights)
    monkeypatch.setattr(published, "INCEPTION_SHA256", published.sha256(weights)[:8])
    images.mkdir()
    for index in range(12):
        Image.new("RGB", (40, 40)).save(images / f"{index:02}.png")
    pictures = [Picture(path, "", 0, 0.0, {}) for path in sorted(images.iterdir())]

    fid, score_ = published.inception_metrics(pictures, images, weights)
    assert (fid.value, score_.value) == (12.5, 12.5)
    assert asked[-1]["input1"] == [picture.path for picture in pictures]
    assert asked[-1]["feature_extractor_weights_path"] == str(weights)
    fid, score_ = published.inception_metrics(pictures[:9], images, weights)
    assert fid.value == 12.5 and score_.value is None and "10 pictures" in score_.note
    fid, score_ = published.inception_metrics(pictures, None, weights)
    assert fid.value is None and "--images" in fid.note and score_.value == 12.5


def test_weights_with_code_in_them_are_refused(tmp_path, monkeypatch):
    path = tmp_path / published.INCEPTION_FILE
    torch.save({"a": Path("x")}, path)
    monkeypatch.setattr(published, "INCEPTION_SHA256", published.sha256(path)[:8])
    with pytest.raises(UsageError, match="no file of tensors"):
        published.check_weights(path)
