"""Write the trained picture side into a packaged checkpoint, in fp16 under the published names.

python package_picture.py --work DIR --output FOLDER
"""

import argparse
from pathlib import Path

from picture_models import STRIDES, Previewer, SemanticCompressor
from safetensors.torch import save_file
from torch import nn
from train import load

FOLDER = "wuerstchen-prior"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training state")
    parser.add_argument("--output", type=Path, required=True, help="the demo checkpoint's folder")
    args = parser.parse_args()
    folder = args.output / FOLDER
    compressor = load("compressor", SemanticCompressor(), args.work)
    strides = {"strides": ",".join(map(str, STRIDES))}  # shapes do not tell them
    save(compressor, folder / "effnet_encoder.safetensors", strides)
    save(load("preview", Previewer(), args.work), folder / "previewer.safetensors", {})


def save(module: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(tensors, path, {"format": "pt", **metadata})
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
