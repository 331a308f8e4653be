"""Picture files: opened as a viewer shows them, fitted and resized as PyTorch does it."""

import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from runtimes.errors import UsageError
from runtimes.pictures import FITS, fit, fit_mask, read_mask, read_picture, resized
from runtimes.schedule import alpha_cumprod
from runtimes.start import cells, noised
from runtimes.tolerances import RESIZE

# Four corners that no two turns of the picture have in common.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
SCENE = CORNERS.repeat(24, 0).repeat(32, 1)  # 48 x 64
# What a camera stores of it, by EXIF's orientation: where the standard puts 0th row and column.
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 1)[:, ::-1],
    8: lambda a: np.rot90(a, -1),
}


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def levels(path: Path, option: str = "--image") -> np.ndarray:
    """What is read of a file, 0..255, (H,W,3), at its own size."""
    picture = read_picture(path, option)
    return 255 * fit(picture, "stretch", *picture.size).transpose(1, 2, 0)


def png(header: bytes, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file from its parts, for what Pillow does not write."""
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


# Reading


@pytest.mark.parametrize("orientation", list(STORED_AS))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_cameras_say_which_way_is_up(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](SCENE)))
    options = {"exif": exif, "quality": 100} | ({"lossless": True} if suffix == ".webp" else {})
    path = saved(tmp_path / f"p{suffix}", stored, **options)
    found = levels(path)
    assert found.shape == SCENE.shape
    middles = found[12::24, 16::32]  # of the four corners, which JPEG leaves alone
    assert np.abs(middles - CORNERS).max() < (3 if suffix == ".jpg" else 1e-3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)  # black at three opacities
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
        image.putpalette([0, 0, 0] * 3)
        path = saved(tmp_path / "p.png", image, transparency=bytes([0, 128, 255]))
    elif mode == "PA":
        path = saved(tmp_path / "p.gif", Image.fromarray(np.zeros((1, 3), np.uint8)).convert("P"))
        assert (levels(path) == 0).all()
        return
    else:
        path = saved(tmp_path / "p.png", image.convert(mode))
    assert levels(path)[0, :, 0] == pytest.approx([255, 127, 0], abs=1)


def test_grey_palettes_cmyk_and_two_colours(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = saved(tmp_path / "l.png", Image.fromarray(grey))
    assert np.abs(levels(path) - grey[..., None]).max() < 1e-3
    path = saved(tmp_path / "1.png", Image.fromarray(grey > 99))
    assert np.abs(levels(path) - 255 * (grey > 99)[..., None]).max() < 1e-3
    path = saved(tmp_path / "p.png", Image.fromarray(SCENE).convert("P", palette=1, colors=4))
    assert np.abs(levels(path) - SCENE).max() < 1e-3
    # Ink that is the picture's complement, without black: red, green, blue, yellow.
    ink = np.concatenate([255 - SCENE, np.zeros_like(SCENE[..., :1])], -1)
    path = saved(tmp_path / "c.jpg", Image.fromarray(ink, "CMYK"), quality=100)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.abs(levels(path)[12::24, 16::32] - CORNERS).max() < 3


def test_sixteen_bits_of_grey_are_kept(tmp_path):
    values = np.array([[0, 1, 257, 32_768, 65_535]], np.uint16)
    path = saved(tmp_path / "p.png", Image.fromarray(values))
    assert levels(path)[0, :, 1] == pytest.approx(values[0] / 257, abs=1e-4)
    # Of colour Pillow reads the upper eight bits.
    rows = b"\0" + np.array([[0x0100, 0x8000, 0xFFFF]], ">u2").tobytes()
    path = tmp_path / "rgb.png"
    path.write_bytes(png(struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), rows))
    assert levels(path)[0, 0] == pytest.approx([1, 128, 255], abs=1e-3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_what_moves_the_first_frame_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"p.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert np.abs(levels(path) - (255, 0, 0)).max() < 1e-3


def test_a_file_is_known_by_its_hash(tmp_path):
    path = saved(tmp_path / "p.png", Image.fromarray(SCENE))
    picture = read_picture(path, "--image")
    assert picture.size == (48, 64) and len(picture.sha256) == 64
    assert picture.sha256 == read_picture(path, "--image").sha256


def jpeg() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def huge(width: int, height: int) -> bytes:
    """A few bytes that claim to be a large picture."""
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), bytes(100))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a ring of red", "is no picture of a kind that is read here; save it as PNG or JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture of a kind"),
        (jpeg()[: len(jpeg()) // 2], "is damaged: "),
        (jpeg()[:30], "is "),
        (huge(64, 64), "is damaged: "),
        (huge(20_000, 20_000), "has more pixels than the 89,478,485 that are read"),
        (huge(10_000, 9_000), "has more pixels than the 89,478,485 that are read"),
        (huge(2**31 - 1, 2**31 - 1), "has more pixels than"),
        (huge(0, 5), "is "),
    ],
)
def test_what_is_no_picture_is_one_line(tmp_path, capfd, content, message):
    path = tmp_path / "p.png"
    path.write_bytes(content)
    with pytest.raises(UsageError) as found:
        read_picture(path, "--image")
    assert str(found.value).startswith(f"--image {path} {message}")
    assert "\n" not in str(found.value) and capfd.readouterr() == ("", "")


def test_what_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"--image .*none.png cannot be read: No such file"):
        read_picture(tmp_path / "none.png", "--image")
    with pytest.raises(UsageError, match=r"--image .* is a folder; give a picture in it"):
        read_picture(tmp_path, "--image")


# Fitting


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 5), (128, 128)])
def test_every_size_becomes_the_one_asked_for(tmp_path, how, size):
    path = saved(tmp_path / "p.png", Image.new("RGB", size[::-1], "red"))
    found = fit(read_picture(path, "--image"), how, 128, 96)
    assert found.shape == (3, 128, 96) and found.dtype == np.float32
    red = np.isclose(found, np.array([1, 0, 0])[:, None, None]).all(0)
    white = (found == 1).all(0)
    assert (red | white).all() and red.any() and (how == "pad" or red.all())


def interpolated(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))[None].double()
    found = functional.interpolate(tensor, (height, width), mode="bilinear", antialias=True)
    return found[0].numpy()


@pytest.mark.parametrize(
    ("have", "want", "scaled", "cut"),
    [
        ((120, 80), (60, 20), (60, 40), np.s_[:, :, 10:30]),  # wider than wanted
        ((80, 120), (60, 20), (60, 90), np.s_[:, :, 35:55]),
        ((40, 30), (40, 60), (80, 60), np.s_[:, 20:60]),  # enlarged
        ((64, 64), (64, 64), (64, 64), np.s_[:]),
    ],
)
def test_crop_covers_and_cuts_the_middle(tmp_path, have, want, scaled, cut):
    noise = np.random.default_rng(1).integers(0, 256, (*have, 3), np.uint8)
    path = saved(tmp_path / "p.png", Image.fromarray(noise))
    expected = interpolated(noise.transpose(2, 0, 1) / 255, *scaled)[cut]
    assert np.abs(fit(read_picture(path, "--image"), "crop", *want) - expected).max() < RESIZE


def test_another_way_to_fit_is_refused(tmp_path):
    picture = read_picture(saved(tmp_path / "p.png", Image.fromarray(SCENE)), "--image")
    with pytest.raises(
        UsageError, match="cannot be fitted by 'zoom'; there are crop, pad, stretch"
    ):
        fit(picture, "zoom", 8, 8)


def test_pad_fits_inside_and_leaves_white(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (40, 80, 3), np.uint8)
    path = saved(tmp_path / "p.png", Image.fromarray(noise))
    expected = np.ones((3, 60, 60), np.float32)
    expected[:, 15:45] = interpolated(noise.transpose(2, 0, 1) / 255, 30, 60)
    assert np.abs(fit(read_picture(path, "--image"), "pad", 60, 60) - expected).max() < RESIZE


@pytest.mark.parametrize("want", [(96, 96), (24, 30), (128, 64), (131, 7)])
def test_resized_is_pytorchs(want):
    pixels = np.random.default_rng(2).random((3, 128, 100), np.float32)
    assert np.abs(resized(pixels, *want) - interpolated(pixels, *want)).max() < RESIZE
    batch = resized(np.stack([pixels, 1 - pixels]), *want)
    assert batch.shape == (2, 3, *want) and np.array_equal(batch[0], resized(pixels, *want))


# Masks


def masked(tmp_path, mask: Image.Image, how="crop", want=(48, 64)) -> np.ndarray:
    picture = read_picture(saved(tmp_path / "p.png", Image.fromarray(SCENE)), "--image")
    return fit_mask(read_mask(saved(tmp_path / "m.png", mask), "--mask", picture), how, *want)


def test_white_is_made_anew_and_black_is_kept(tmp_path):
    grey = np.array([[0, 127, 128, 255]], np.uint8).repeat(48, 0).repeat(16, 1)
    expected = np.repeat([[False, False, True, True]], 48, 0).repeat(16, 1)
    for mask in (grey, grey[..., None].repeat(3, -1), grey.astype(np.uint16) * 257):
        assert np.array_equal(masked(tmp_path, Image.fromarray(mask)), expected)
    clear = np.zeros((48, 64, 4), np.uint8)
    clear[..., 3] = 255 * ~expected  # what is cut out of a picture is made anew
    assert np.array_equal(masked(tmp_path, Image.fromarray(clear)), expected)


def test_a_thin_line_is_not_lost_and_nothing_grows(tmp_path):
    line = np.zeros((48, 64), np.uint8)
    line[:, 21] = 255
    found = masked(tmp_path, Image.fromarray(line), want=(12, 16))
    expected = np.zeros((12, 16), bool)
    expected[:, 5] = True  # 21 of 64 is in the sixth of 16
    assert np.array_equal(found, expected)
    assert np.array_equal(masked(tmp_path, Image.fromarray(line)), line > 0)


def test_a_mask_is_fitted_as_its_picture(tmp_path):
    columns = np.zeros((48, 64), np.uint8)
    columns[:, :8] = columns[:, 20:24] = 255
    found = masked(tmp_path, Image.fromarray(columns), want=(48, 48))
    assert np.array_equal(found, columns[:, 8:56] > 0)
    padded = masked(tmp_path, Image.fromarray(columns), "pad", (64, 64))
    assert np.array_equal(padded[8:56], columns > 0)
    assert padded[:8].all() and padded[56:].all()  # no part of the picture: made anew


def test_a_mask_of_another_size_is_refused_with_both(tmp_path):
    with pytest.raises(UsageError, match=r"m.png has 64 x 48 pixels .* has 48 x 64; give a mask"):
        masked(tmp_path, Image.new("L", (48, 64)))


# The page for hosts


@pytest.mark.parametrize("how", FITS)
def test_the_code_for_hosts_does_the_same(tmp_path, how):
    page = (Path(__file__).parents[1] / "docs/hosting.md").read_text(encoding="utf-8")
    code = page.split("<!-- code: from a picture -->\n\n```python\n")[1].split(
        "```\n\n<!-- end of"
    )[0]
    host: dict = {}
    exec(code, host)
    random = np.random.default_rng(7)
    noise = random.integers(0, 256, (90, 130, 3), np.uint8)
    picture = read_picture(saved(tmp_path / "p.png", Image.fromarray(noise)), "--image")
    found = host["fitted"](picture.image, how, 96, 72)
    assert np.array_equal(found, fit(picture, how, 96, 72))
    assert np.array_equal(host["resized"](found, 40, 50), resized(found, 40, 50))
    path = saved(tmp_path / "m.png", Image.fromarray(noise[..., 0] // 2 + 3))
    with Image.open(path) as grey:
        mask = host["fitted_mask"](grey, how, 96, 72)
    assert np.array_equal(mask, fit_mask(read_mask(path, "--mask", picture), how, 96, 72))
    assert np.array_equal(host["cells"](mask, 7, 5), cells(mask, (7, 5)))
    clean, drawn = (random.standard_normal((1, 4, 3, 3), np.float32) for _ in range(2))
    share = alpha_cumprod(np.array([0.3], np.float32), 0.008, 1.0)
    of = SimpleNamespace(s=0.008, scaler=1.0)
    assert np.array_equal(host["noised"](clean, drawn, share[0]), noised(clean, drawn, 0.3, of))
