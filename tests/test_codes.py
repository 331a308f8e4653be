"""Codes: files of pictures as Stage B reads them, made, read and refused."""

import hashlib
import json

import numpy as np
import one_operator
import pytest
import torch
from diffusers import pipelines
from diffusers.pipelines.deprecated import wuerstchen
from diffusers.pipelines.deprecated.wuerstchen import WuerstchenDecoderPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from exporter.options import ExportOptions
from runtimes.cli import main
from runtimes.codes import FORMAT, About, check_code, make_code, read_code, write_code
from runtimes.errors import RunError, UsageError
from runtimes.images import read_parameters
from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from runtimes.sizes import pixels_for, sizes
from runtimes.tolerances import SAME_SEED_LEVELS

ABOUT = About("maker/model@abc", 128, 192, "pad", "0" * 64)
METADATA = {
    "format": FORMAT,
    "format_version": "1",
    "model": "maker/model@abc",
    "height": "128",
    "width": "192",
    "fit": "pad",
    "source_sha256": "0" * 64,
}


@pytest.fixture(scope="module")
def bundle(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes") / "bundle"
    return one_operator.with_picture_graphs(bundles("public"), folder, ("compressor",))


@pytest.fixture
def picture(tmp_path):
    """A picture file of other proportions than a run's, in colours that differ everywhere."""
    pixels = np.random.RandomState(5).randint(0, 256, (6, 9, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((300, 200), Image.Resampling.BICUBIC)
    image.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def embedding(channels=16, height=6, width=9):
    values = (
        np.random.RandomState(0).randn(channels, height, width)
        * np.arange(1, channels + 1)[:, None, None]
    )
    return values.astype(np.float32)


# Files


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_safetensors_library_reads_them(tmp_path, precision):
    path, values = tmp_path / "c.safetensors", embedding()
    write_code(make_code(values, precision, ABOUT), path)
    with safe_open(path, "np") as file:
        assert file.metadata() == METADATA
        stored = file.get_tensor("image_embedding")
        if precision == "fp16":
            assert list(file.keys()) == ["image_embedding"] and stored.dtype == np.float16
            assert np.array_equal(stored, values.astype(np.float16))
        else:
            scale = file.get_tensor("scale")
            assert (stored.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, (16,))
            error = np.abs(stored * scale[:, None, None] - values)
            assert (error <= 0.501 * scale[:, None, None]).all()
            assert (np.abs(stored).max(axis=(1, 2)) == 127).all()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_is_written_is_read(tmp_path, precision):
    code = make_code(embedding(), precision, ABOUT)
    write_code(code, tmp_path / "c.safetensors")
    found = read_code(tmp_path / "c.safetensors")
    assert found.about == ABOUT and found.precision == precision and found.cells == (6, 9)
    assert np.array_equal(found.image_embedding, code.image_embedding)
    assert found.size == 16 * 54 * 2 if precision == "fp16" else 16 * 54 + 64
    assert found.bits_per_pixel(found.size) == 8 * found.size / (128 * 192)


def test_channels_of_zeros_and_of_large_values():
    values = embedding()
    values[3], values[5] = 0, values[5] * 1e6
    code = make_code(values, "int8", ABOUT)
    assert not code.image_embedding[0, 3].any()
    assert np.abs(code.image_embedding[0, 5]).max() == pytest.approx(np.abs(values[5]).max())
    with pytest.raises(RunError, match="fp16 does not hold; give int8"):
        make_code(values, "fp16", ABOUT)


def stored(path, metadata=METADATA, **tensors):
    tensors = tensors or {"image_embedding": embedding().astype(np.float16)}
    save_file(tensors, path, metadata)


def nan():
    values = embedding().astype(np.float16)
    values[0, 0, 0] = np.nan
    return values


INT8 = {"image_embedding": np.ones((16, 6, 9), np.int8)}
HOSTILE = {
    "of another format": (lambda p: stored(p, METADATA | {"format": "weights"}), "its format is"),
    "without metadata": (lambda p: stored(p, {}), "its format is ''"),
    "of a later version": (
        lambda p: stored(p, METADATA | {"format_version": "2"}),
        "its version is '2', this program reads '1'",
    ),
    "without a size": (
        lambda p: stored(p, {k: v for k, v in METADATA.items() if k != "height"}),
        "'height' is missing",
    ),
    "with a size of no pixels": (lambda p: stored(p, METADATA | {"width": "0"}), "0 is below 1"),
    "with a size of many digits": (
        lambda p: stored(p, METADATA | {"width": "9" * 5000}),
        "is above 65535",
    ),
    "with a size in words": (lambda p: stored(p, METADATA | {"width": "wide"}), "expected int"),
    "with a size in other digits": (
        lambda p: stored(p, METADATA | {"width": "\u00b2"}),
        "expected int",
    ),
    "of an unknown fit": (lambda p: stored(p, METADATA | {"fit": "shrink"}), "'crop' or 'pad'"),
    "of no hash": (lambda p: stored(p, METADATA | {"source_sha256": "xyz"}), "expected 64"),
    "with notes": (lambda p: stored(p, METADATA | {"note": "x"}), "'note' is not a known field"),
    "of a model in two lines": (
        lambda p: stored(p, METADATA | {"model": "a\nb"}),
        "does not match",
    ),
    "in fp32": (lambda p: stored(p, image_embedding=embedding()), "it holds 'image_embedding F32'"),
    "of another name": (
        lambda p: stored(p, latents=embedding().astype(np.float16)),
        "it holds 'latents F16'",
    ),
    "with a tensor too many": (
        lambda p: stored(p, image_embedding=embedding().astype(np.float16), more=np.ones(3)),
        "more F64",
    ),
    "in int8 without a scale": (lambda p: stored(p, **INT8), "it holds 'image_embedding I8'"),
    "with scales for other channels": (
        lambda p: stored(p, **INT8, scale=np.ones(15, np.float32)),
        "scale has shape [15], not [16]",
    ),
    "with an infinite scale": (
        lambda p: stored(p, **INT8, scale=np.full(16, np.inf, np.float32)),
        "NaN or infinite",
    ),
    "with scales that overflow": (
        lambda p: stored(
            p,
            image_embedding=np.full((16, 6, 9), 127, np.int8),
            scale=np.full(16, 3e38, np.float32),
        ),
        "NaN or infinite",
    ),
    "with NaN": (lambda p: stored(p, image_embedding=nan()), "NaN or infinite"),
    "of two axes": (
        lambda p: stored(p, image_embedding=np.ones((16, 54), np.float16)),
        "shape [16, 54], not channels, height, width",
    ),
    "of no cells": (
        lambda p: stored(p, image_embedding=np.ones((16, 0, 9), np.float16)),
        "shape [16, 0, 9]",
    ),
    "too large": (
        lambda p: stored(p, image_embedding=np.zeros((16, 2000, 1600), np.float16)),
        "more than 100 MB",
    ),
    "empty": (lambda p: p.write_bytes(b""), "ends before its header does"),
    "a picture": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" * 9), "ends before its header"),
    "a pickle": (lambda p: p.write_bytes(b"PK\x03\x04" + b"\xff" * 99), "it is a pickle"),
    "a folder": (lambda p: p.mkdir(), "regular file"),
    "missing": (lambda p: None, "cannot be read: No such file"),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_files_that_are_refused(tmp_path, kind):
    make, message = HOSTILE[kind]
    make(tmp_path / "c.safetensors")
    with pytest.raises(UsageError) as caught:
        read_code(tmp_path / "c.safetensors")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path / "c.safetensors") in str(caught.value)


def test_files_cut_short(tmp_path):
    path = tmp_path / "c.safetensors"
    stored(path)
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError, match="is no code of a picture"):
            read_code(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other/model@1"}, "is a code of 'other/model@1' and this bundle is of "),
        ({"channels": 5}, "has 5 channels, this model 16; encode again"),
        ({"height": 64}, "of a picture of 64 x 128 pixels, and its cells make 128 x 128"),
    ],
)
def test_codes_of_other_bundles(bundle, tmp_path, change, message):
    model = bundle.manifest.model
    about = About(
        change.get("model", f"{model.id}@{model.revision}"),
        change.get("height", 128),
        128,
        "crop",
        "0" * 64,
    )
    code = make_code(embedding(change.get("channels", 16), 3, 3), "fp16", about)
    with pytest.raises(UsageError) as caught:
        check_code(code, bundle.manifest, tmp_path / "c.safetensors")
    assert message in str(caught.value)


def test_pixels_for_cells(bundles):
    """As many cells of Stage C again, by the sizes of a run, whatever the ratio rounds to."""
    for name in ("one_level", "public"):
        sampling = bundles(name).manifest.sampling
        made = 0
        for cells in range(1, 400):
            try:
                found = sizes(pixels_for(cells, sampling), pixels_for(cells, sampling), sampling)
            except UsageError:  # Stage B's path does not close there
                continue
            made += 1
            assert found.stage_c == (cells, cells)
        assert made > 10


# Pipelines


def test_encoding_is_the_graph_on_the_resized_picture(bundle):
    """Against PyTorch's resize and the one operator that the compressor is."""
    sampling = bundle.manifest.sampling
    picture = np.random.RandomState(0).rand(2, 3, 128, 128).astype(np.float32)
    with Pipeline.open(bundle) as pipeline:
        found = pipeline.encode(picture)
    side = 3 * one_operator.STRIDE
    small = torch.nn.functional.interpolate(
        torch.from_numpy(picture).double(), (side, side), mode="bilinear", antialias=True
    )
    means = torch.nn.functional.avg_pool2d(small, one_operator.STRIDE).numpy()
    wanted = np.einsum("ck,bkhw->bchw", one_operator.colours(sampling.stage_c.channels), means)
    assert np.abs(found.image_embedding - wanted).max() < 1e-5
    assert found.image_embedding.shape == (2, 16, 3, 3) and list(found.usage) == ["compressor"]


def test_decoding_is_diffusers_decoder(bundle, folders):
    """Same embedding, prompt and seed: within 1 of 255 at every pixel."""
    decoder, _ = folders("public")
    values = embedding(16, 3, 3)[None] / 8
    with Pipeline.open(bundle) as pipeline:
        options = Options(seed=4, decoder_steps=5)
        result = pipeline.decode(values, "a ring", options=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "wuerstchen", wuerstchen, raising=False)
        reference = WuerstchenDecoderPipeline.from_pretrained(decoder, torch_dtype=torch.float32)
    reference.set_progress_bar_config(disable=True)
    expected = reference(
        torch.from_numpy(values),
        "a ring",
        num_inference_steps=5,
        guidance_scale=0.0,
        generator=torch.Generator().manual_seed(4),
        output_type="np",
    ).images[0]
    levels = np.abs(result.pictures[0].astype(int) - np.rint(expected * 255).astype(int))
    assert levels.max() <= SAME_SEED_LEVELS
    assert not {"stage_c", "stage_c_condition", "text_encoder"} & result.usage.keys()
    sampling = bundle.manifest.sampling
    again = result.latents * sampling.latent_mean - sampling.latent_std
    assert np.abs(again - values).max() < 1e-5


def test_calls_that_are_refused(bundle, bundles):
    with Pipeline.open(bundle) as pipeline:
        with pytest.raises(UsageError, match="fit them to 128 x 128 pixels"):
            pipeline.encode(np.zeros((1, 3, 100, 128), np.float32))
        with pytest.raises(UsageError, match="has 7 channels, this model 16"):
            pipeline.decode(np.zeros((1, 7, 3, 3), np.float32))
        with pytest.raises(UsageError, match="2 prompts for 1 pictures"):
            pipeline.decode(np.zeros((1, 16, 3, 3), np.float32), ["a", "b"])
    missing = pytest.raises(UsageError, match=r"has no compressor.*--resume --modules compressor")
    with Pipeline.open(bundles("public")) as pipeline, missing:
        pipeline.encode(np.zeros((1, 3, 128, 128), np.float32))


# Command lines


def test_a_picture_there_and_back(capsys, bundle, picture, tmp_path):
    code_file, back = tmp_path / "c.safetensors", tmp_path / "back.png"
    words = [bundle.folder, picture, "-o", code_file, "--check"]
    code, out, _ = run(capsys, "encode", *words)
    assert code == 0
    assert "200 x 300 pixels, crop to 128 x 128\n" in out and "42.7 to 1 a side, 1820 to 1" in out
    code, out, _ = run(capsys, "encode", *words, "--json")
    said = json.loads(out)
    assert said["bytes"] == 2 * 16 * 9 and said["file_bytes"] == code_file.stat().st_size
    assert said["bits_per_pixel"] == 8 * said["bytes"] / 128**2
    assert said["source_sha256"] == hashlib.sha256(picture.read_bytes()).hexdigest()
    code, out, _ = run(
        capsys, "decode", bundle.folder, code_file, "-o", back, "--original", picture, "--json"
    )
    found = json.loads(out)
    assert code == 0 and found["original_was_encoded"]
    assert (found["psnr_db"], found["ssim"]) == (said["psnr_db"], said["ssim"])
    assert list(found["stages"]) == [
        "decoder_text_encoder",
        "stage_b_condition",
        "stage_b",
        "stage_a",
    ]
    about = read_parameters(back)
    assert about["code"] == hashlib.sha256(code_file.read_bytes()).hexdigest()
    assert (about["source"], about["seed"], about["prompt"]) == (said["source_sha256"], [0], "")
    assert Image.open(back).size == (128, 128)


def test_options_of_encoding_and_decoding(capsys, bundle, picture, tmp_path):
    code_file = tmp_path / "c.safetensors"
    words = ["-o", code_file, "--precision", "INT8", "--fit", "pad", "--size", "256x128"]
    assert run(capsys, "encode", bundle.folder, picture, *words, "--quiet") == (0, "", "")
    found = read_code(code_file)
    assert (found.precision, found.about.fit, found.cells) == ("int8", "pad", (6, 3))
    pictures = []
    for index, more in enumerate((["--seed", "1"], ["--seed", "2"], ["--seed", "1", "a ring"])):
        path = tmp_path / f"{index}.png"
        words = ["-o", path, "--decoder-steps", "2", *more]
        code, out, _ = run(capsys, "decode", bundle.folder, code_file, *words)
        assert code == 0 and f"wrote {path} (256 x 128, seed {more[1]})" in out
        pictures.append(np.asarray(Image.open(path)))
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    other = tmp_path / "other.png"
    Image.new("RGB", (10, 20), "red").save(other)
    words = ["-o", tmp_path / "3.png", "--original", other, "--decoder-steps", "2"]
    code, out, _ = run(capsys, "decode", bundle.folder, code_file, *words)
    assert code == 0 and "pad, another file than the one encoded: PSNR" in out


@pytest.mark.slow
def test_graphs_of_a_fixed_batch(capsys, bundles, picture, tmp_path):
    """The picture fills the batch: two alike, of which one is kept."""
    options = ExportOptions(static=True, batch_size=2)
    static = one_operator.with_picture_graphs(
        bundles("one_level", options), tmp_path / "bundle", ("compressor",)
    )
    words = [static.folder, picture, "-o", tmp_path / "c.safetensors", "--check", "--json"]
    code, out, _ = run(capsys, "encode", *words)
    assert code == 0 and json.loads(out)["cells"] == [6, 6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "B", "P", "-o", "c.png"], "codes are safetensors files, end the name in"),
        (["encode", "B", "P", "-o", "no/c.safetensors"], "does not exist"),
        (["encode", "B", "P", "-o", "d.safetensors"], "is there and is no code"),
        (["encode", "B", "P", "-o", "w.safetensors"], "is there and is no code"),
        (["encode", "B", "none.png"], "PICTURE none.png cannot be read"),
        (["encode", "B", "w.safetensors"], "is no picture"),
        (["encode", "B", "P", "--precision", "int4"], "invalid choice: 'int4'"),
        (["encode", "B", "P", "--height", "0"], "--height is 0"),
        (["encode", "B", "P", "--size", "9x9", "--width", "9"], "--size and --width exclude"),
        (["encode", "nowhere", "P"], "nowhere"),
        (["decode", "B", "P"], "is no code of a picture"),
        (["decode", "B", "c.safetensors", "-o", "c.jpg"], "pictures are PNG files"),
        (["decode", "B", "c.safetensors", "--seed", "1,2"], "--seed has 2 seeds for one picture"),
        (["decode", "B", "c.safetensors", "--original", "no.png"], "--original no.png cannot be"),
        (["decode", "B", "c.safetensors", "--original", "P", "-o", "P"], "is the original"),
        (["decode", "B", "c.safetensors"], "is a code of 'maker/model@abc' and this bundle"),
        (["--quiet", "encode", "P"], "write 'encode' first: python -m runtimes encode ..."),
    ],
)
def test_bad_usage(capsys, bundle, picture, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "c.safetensors")
    save_file({"weight": np.ones(3)}, tmp_path / "w.safetensors")
    (tmp_path / "d.safetensors").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    words = [{"B": bundle.folder, "P": picture}.get(word, word) for word in words]
    code, out, err = run(capsys, *words)
    assert (code in (1, 2), out) == (True, "") and message in err and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_code_is_replaced_by_a_new_one(capsys, bundle, picture, tmp_path):
    path = tmp_path / "c.safetensors"
    stored(path)
    assert run(capsys, "encode", bundle.folder, picture, "-o", path)[0] == 0
    assert read_code(path).about.height == 128
