"""Checkpoints and folders as users have them: builders that change a tiny (decoder, prior) pair.

Each takes the pair of folders of tests/tiny.py, copied, and leaves what a tool, an older version
or an interrupted download leaves.
"""

import hashlib
import json
import os
import re
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig

Pair = tuple[Path, Path]
COMMITS = {"wuerstchen": "1" * 40, "wuerstchen-prior": "2" * 40}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n"


def components(pair: Pair) -> list[Path]:
    """The folders with weights."""
    return [folder.parent for root in pair for folder in sorted(root.glob("*/config.json"))]


def weights_of(folder: Path) -> Path:
    """A component's single weights file."""
    (path,) = folder.glob("*.safetensors")
    return path


def edit(path: Path, **change: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def with_projection(pair: Pair) -> None:
    """Text encoders saved as CLIPTextModelWithProjection: a class, and a weight no one needs."""
    for root in pair:
        folder = root / "text_encoder"
        edit(folder / "config.json", architectures=["CLIPTextModelWithProjection"])
        add_weights(folder, **{"text_projection.weight": torch.ones(8, 32)})


def as_whole_clip(pair: Pair) -> None:
    """Text encoders in a CLIPModel's folder: a section of its config, and the picture side."""
    for root in pair:
        folder = root / "text_encoder"
        text = json.loads((folder / "config.json").read_text())
        config = {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": 8,
            "logit_scale_init_value": 2.6592,
            "text_config": text,
            "vision_config": {"model_type": "clip_vision_model", "hidden_size": 16},
        }
        (folder / "config.json").write_text(json.dumps(config))
        extra = ("text_projection.weight", "visual_projection.weight",
                 "vision_model.embeddings.class_embedding", "logit_scale",
                 "text_model.embeddings.position_ids")  # fmt: skip
        add_weights(folder, **{name: torch.ones(8) for name in extra})


def add_weights(folder: Path, **tensors: torch.Tensor) -> None:
    path = weights_of(folder)
    save_file(load_file(path) | tensors, path)


def with_every_key(pair: Pair) -> None:
    """A text encoder's config with all that to_dict() has, as versions before 4 wrote it."""
    path = pair[1] / "text_encoder/config.json"
    every = CLIPTextConfig().to_dict() | {"use_cache": True}
    path.write_text(json.dumps(every | json.loads(path.read_text()), default=str))


def to_variant(folder: Path, variant: str = "fp16", *, keep: bool = False) -> None:
    """A component's file as a half-size variant, beside the plain one if `keep`."""
    path = weights_of(folder)
    save_file(
        {name: value.half() for name, value in load_file(path).items()},
        path.with_suffix(f".{variant}.safetensors"),
    )
    if not keep:
        path.unlink()


def to_shards(folder: Path, index: str, shard: str) -> None:
    """A component's file in two shards; `index` and `shard` name them, `{n}` is the number."""
    path = weights_of(folder)
    tensors, stem = load_file(path), path.name.split(".")[0]
    path.unlink()
    names = sorted(tensors)
    where = {}
    for number, part in ((1, names[::2]), (2, names[1::2])):
        file = f"{stem}{shard.format(n=f'-{number:05}-of-00002')}"
        save_file({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / f"{stem}{index}").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def to_pointer(path: Path) -> None:
    """A file as git leaves it where git-lfs is not installed."""
    path.write_text(POINTER)


def configs_alone(pair: Pair) -> None:
    """Nothing but the networks' config.json."""
    for root in pair:
        for path in [path for path in root.rglob("*") if path.is_file()]:
            if path.name != "config.json":
                path.unlink()
        for name in ("tokenizer", "scheduler"):
            (root / name).rmdir()


def stable_cascade(folder: Path) -> Path:
    """A Stable Cascade decoder, by its model_index.json and the text encoder's class."""
    return _pipeline(
        folder,
        "StableCascadeDecoderPipeline",
        decoder=["stable_cascade", "StableCascadeUNet"],
        text_encoder=["transformers", "CLIPTextModelWithProjection"],
        vqgan=["wuerstchen", "PaellaVQModel"],
    )


def stable_diffusion(folder: Path) -> Path:
    return _pipeline(
        folder,
        "StableDiffusionPipeline",
        unet=["diffusers", "UNet2DConditionModel"],
        vae=["diffusers", "AutoencoderKL"],
    )


def kandinsky_prior(folder: Path) -> Path:
    """Another pipeline with a folder `prior`."""
    return _pipeline(folder, "KandinskyV22PriorPipeline", prior=["diffusers", "PriorTransformer"])


def _pipeline(folder: Path, cls: str, **parts: list[str]) -> Path:
    for name in parts:
        (folder / name).mkdir(parents=True)
    index = {"_class_name": cls, "_diffusers_version": "0.39.0"} | parts
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def hub_cache(pair: Pair, root: Path) -> Path:
    """models--owner--name/{blobs,refs,snapshots/<commit>} with links into blobs."""
    for source in pair:
        commit, repository = COMMITS[source.name], root / f"models--owner--{source.name}"
        (repository / "refs").mkdir(parents=True)
        for revision in ("main", "v1"):
            (repository / "refs" / revision).write_text(commit)
        (repository / "blobs").mkdir()
        for number, path in enumerate(p for p in sorted(source.rglob("*")) if p.is_file()):
            link = repository / "snapshots" / commit / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            blob = repository / "blobs" / f"{number:x}"
            shutil.copy(path, blob)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return root


class Hub:
    """A hub of models on this machine: what huggingface_hub asks of one, for owner/<folder>.

    `fetched` names what was sent, as owner/name/path.
    """

    def __init__(self, pair: Pair) -> None:
        self.fetched: list[str] = []
        roots = {folder.name: folder for folder in pair}
        fetched = self.fetched

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_HEAD(self) -> None:
                self._answer()

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self) -> None:
                address = unquote(urlsplit(self.path).path)
                if match := re.fullmatch(r"/api/models/owner/([^/]+)/(\w+)/.+", address):
                    self._send(_listing(roots[match[1]], match[2]))
                elif match := re.fullmatch(r"/owner/([^/]+)/resolve/[^/]+/(.+)", address):
                    path = roots[match[1]] / match[2]
                    self._send(path.read_bytes(), COMMITS[match[1]])
                    if self.command == "GET":
                        fetched.append(f"owner/{match[1]}/{match[2]}")
                else:
                    self.send_error(404)

            def _send(self, body: bytes, commit: str = "") -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", hashlib.sha256(body).hexdigest())
                self.send_header("X-Repo-Commit", commit)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _listing(root: Path, kind: str) -> bytes:
    """A repository's files, as `revision` or as `tree`."""
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    tree = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in files]
    info = {"id": f"owner/{root.name}", "sha": COMMITS[root.name], "private": False}
    info |= {"tags": [], "downloads": 0, "likes": 0}
    siblings = [{"rfilename": name} for name in files]
    return json.dumps(tree if kind == "tree" else info | {"siblings": siblings}).encode()
