"""Write the trained parts as the demo checkpoint: two diffusers folders in fp16, and the judge.

python package.py --work DIR --output FOLDER
"""

import argparse
import json
import shutil
from pathlib import Path

import models
import numpy as np
import onnx
import torch
from diffusers import DDPMWuerstchenScheduler
from diffusers.pipelines.deprecated.wuerstchen import (
    WuerstchenDecoderPipeline,
    WuerstchenPriorPipeline,
)
from tokenizer import save_tokenizer
from torch import nn
from train import load

from validation.demo.drawing import SIDE
from validation.demo.judge import OUTPUTS

LIMIT_BYTES = 20_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training state")
    parser.add_argument("--output", type=Path, required=True, help="the demo checkpoint's folder")
    args = parser.parse_args()
    _pipelines(args.work, args.output)
    _judge(load("judge", models.Judge(), args.work), args.output / "judge")
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"{args.output}: {size / 1e6:.1f} MB")
    if size > LIMIT_BYTES:
        raise SystemExit(f"the demo checkpoint must stay within {LIMIT_BYTES / 1e6:.0f} MB")


def _pipelines(work: Path, output: Path) -> None:
    tokenizer = save_tokenizer(work / "tokenizer")
    parts = models.stage_c_parts(len(tokenizer))
    load("stage_c", parts, work)
    vqgan = load("stage_a", models.stage_a(), work).half()
    # Stage B was trained on latents of unit variance; the config's factor takes them back.
    vqgan.register_to_config(scale_factor=torch.load(work / "scale.pt")["scale"])
    text = parts["text"].half()
    prior = WuerstchenPriorPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        prior=parts["prior"].half(),
        scheduler=DDPMWuerstchenScheduler(),
        latent_mean=models.LATENT_MEAN,
        latent_std=models.LATENT_STD,
        resolution_multiple=models.RESOLUTION_MULTIPLE,
    )
    decoder = WuerstchenDecoderPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        decoder=load("stage_b", models.stage_b(), work).half(),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=vqgan,
        latent_dim_scale=models.LATENT_DIM_SCALE,
    )
    for name, pipeline in (("wuerstchen", decoder), ("wuerstchen-prior", prior)):
        shutil.rmtree(output / name, ignore_errors=True)
        pipeline.save_pretrained(output / name, safe_serialization=True)
        _name_modules_as_published(output / name / "model_index.json")
    # The size it was trained at, where Hugging Face models keep their generation defaults.
    size = json.dumps({"height": SIDE, "width": SIDE})
    (output / "wuerstchen-prior" / "generation_config.json").write_text(size + "\n")


def _name_modules_as_published(index: Path) -> None:
    """The public checkpoints say 'wuerstchen' where diffusers 0.39 writes 'diffusers'."""
    value = json.loads(index.read_text())
    for name in ("prior", "decoder", "vqgan"):
        if name in value:
            value[name][0] = "wuerstchen"
    index.write_text(json.dumps(value, indent=2) + "\n")


def _judge(judge: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    program = torch.onnx.export(
        judge,
        (torch.zeros(2, 3, SIDE, SIDE),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["pictures"],
        output_names=list(OUTPUTS),
        opset_version=18,
        verbose=False,
    )
    assert program is not None
    onnx.save(_half_size(program.model_proto), folder / "model.onnx")


def _half_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep the weights as fp16 and cast them back when the graph is loaded."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 64:
            name = tensor.name
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}_fp16"))
            casts.append(
                onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
            )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
