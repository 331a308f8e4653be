"""The two files of a checkpoint's picture side: found in the prior's folder, or given."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from exporter.checkpoint.compressor import CompressorConfig, read_compressor
from exporter.checkpoint.files import PICKLES
from exporter.checkpoint.layer_shapes import Shape
from exporter.checkpoint.previewer import PreviewConfig, read_previewer
from exporter.checkpoint.reading import refuse_pointer
from exporter.checkpoint.tensors import open_safetensors
from runtimes.errors import UsageError

C = TypeVar("C", CompressorConfig, PreviewConfig)


@dataclass(frozen=True)
class PictureFiles:
    """The files that --compressor and --preview name; None: the prior's folder's, if it has any."""

    compressor: Path | None = None
    preview: Path | None = None


IN_FOLDER = PictureFiles()


def find_picture_file(given: Path | None, folder: Path, name: str, flag: str) -> Path | None:
    """The file given, else that of its public name in `folder`, None for none.

    UsageError for a file that is not there, a folder, a pickle or a git-lfs pointer.
    """
    path = folder / name if given is None else given.expanduser()
    if given is None and not path.exists():
        return None
    named = str(path) if given is None else f"{flag} {given}"
    if not path.is_file():
        raise UsageError(f"{named} is {'a folder; give the file' if path.exists() else 'no file'}")
    if path.suffix in PICKLES:
        raise UsageError(
            f"{named} is a pickle, which runs code when it is read; where you trust it, convert "
            "it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)"
        )
    refuse_pointer(path)
    return path


def compressor_config(path: Path, c_latent: int) -> CompressorConfig:
    """A compressor's config, checked against Stage C's channels; the header alone is read."""
    shapes, metadata = _header(path)
    config = read_compressor(shapes, metadata, str(path))
    _check_channels(path, "gives", config.c_latent, c_latent)
    return config


def preview_config(path: Path, c_latent: int) -> PreviewConfig:
    """A previewer's config, checked against Stage C's channels; the header alone is read."""
    shapes, _ = _header(path)
    config = read_previewer(shapes, str(path))
    _check_channels(path, "takes", config.c_latent, c_latent)
    return config


def _header(path: Path) -> tuple[dict[str, Shape], dict[str, str]]:
    with open_safetensors(path, advice="; fetch it again") as handle:
        names = handle.keys()
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in names}
        return shapes, handle.metadata() or {}


def _check_channels(path: Path, verb: str, channels: int, c_latent: int) -> None:
    if channels != c_latent:
        raise UsageError(
            f"{path} {verb} {channels} channels and Stage C's latents have {c_latent}: they do "
            "not belong together"
        )
