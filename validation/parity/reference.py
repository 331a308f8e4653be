"""The reference: diffusers' modules and scheduler, one module in memory at a time."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import DDPMWuerstchenScheduler
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenPrior
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_common import AttnBlock
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import (
    WuerstchenDiffNeXt,
)
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizerFast

from exporter.checkpoint.configs import TextConfig
from exporter.checkpoint.files import stem_of
from exporter.checkpoint.open import Checkpoint, Component
from exporter.checkpoint.shapes import TEXT_PREFIX
from exporter.checkpoint.weights import weight_names
from runtimes.bundle.manifest import Manifest
from runtimes.pipeline import OnStep
from runtimes.plan import Options, Plan, Stage, make_plan
from runtimes.progress import SILENT, Progress
from runtimes.recording import RECONSTRUCTION, Recording
from validation.parity.picture_reference import compress, preview


def record_reference(
    checkpoint: Checkpoint,
    manifest: Manifest,
    prompt: str,
    negative_prompt: str,
    options: Options,
    progress: Progress = SILENT,
) -> Recording:
    """Run one prompt through diffusers' modules as its pipelines do, and keep every tensor.

    Guidance, schedules and sizes not given by `options` are the manifest's defaults. A text-free
    bundle's reference has zero text (rewrite 6 is exact against that).
    """
    plan = make_plan(manifest.sampling, options, 1, None)
    assert isinstance(options.seed, int)
    run = _Reference(checkpoint, manifest, plan, progress.runs("reference run", 0, 1))
    with torch.inference_mode():
        run(prompt, negative_prompt, options.seed)
    return Recording("diffusers", run.tensors, prompt, negative_prompt, options)


@dataclass
class _Reference:
    checkpoint: Checkpoint
    manifest: Manifest
    plan: Plan
    on_step: OnStep
    tensors: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def __call__(self, prompt: str, negative: str, seed: int) -> None:
        """The stages in order; one network is in memory at a time."""
        # One generator for everything, in diffusers' order of draws: Stage C's start and steps,
        # then Stage B's. Another order would be another picture.
        generator = torch.Generator().manual_seed(seed)
        texts = [prompt, negative]
        encoder, tokens = self.checkpoint.text_encoder, self.checkpoint.tokenizer
        hidden = self._text("text_encoder", encoder, tokens, texts)
        prior_latents = self._stage_c(hidden, generator)
        if self.manifest.text_graphs["stage_b"] == "decoder_text_encoder":
            encoder, tokens = (
                self.checkpoint.decoder_text_encoder,
                self.checkpoint.decoder_tokenizer,
            )
            hidden = self._text("decoder_text_encoder", encoder, tokens, texts)
        latents = self._stage_b(prior_latents, hidden, generator)
        vqgan = _load(PaellaVQModel, self.checkpoint.stage_a)
        image = vqgan.decode(latents * vqgan.config.scale_factor).sample.clamp(0, 1)
        self._keep("stage_a", latents=latents, image=image)
        self._pictures(prior_latents, image, vqgan)
        if "compressor" in self.manifest.graphs:
            self._reconstruct(vqgan, hidden, seed)

    def _pictures(self, latents: Tensor, image: Tensor, vqgan: PaellaVQModel) -> None:
        """What the picture side's graphs of the bundle make of the run's picture and latents."""
        graphs, checkpoint = self.manifest.graphs, self.checkpoint
        if "compressor" in graphs and checkpoint.compressor is not None:
            size = [checkpoint.compressor.config.stride * side for side in latents.shape[2:]]
            small = F.interpolate(image, size=size, mode="bilinear", antialias=True)
            embedding = compress(checkpoint.compressor, small)
            self._keep("compressor", image=small, image_embedding=embedding)
        if "stage_a_encoder" in graphs:
            (encoded,) = vqgan.encode(image, return_dict=False)
            encoded = encoded / vqgan.config.scale_factor
            self._keep("stage_a_encoder", image=image, latents=encoded)
        if "preview" in graphs and checkpoint.preview is not None:
            self._keep("preview", latents=latents, image=preview(checkpoint.preview, latents))

    def _reconstruct(self, vqgan: PaellaVQModel, hidden: Tensor, seed: int) -> None:
        """The picture through compressor, Stage B and Stage A again: strength 0, the same noise."""
        generator = torch.Generator().manual_seed(seed)
        torch.randn(self.plan.stage_c.latent_shape(1), generator=generator)  # Stage C's start
        embedding = torch.from_numpy(self.tensors["compressor.image_embedding"])
        constants = self.checkpoint.constants
        latents = (embedding + constants.latent_std) / constants.latent_mean
        again = replace(self, tensors={})  # a run of its own, of which the picture is kept
        decoded = again._stage_b(latents, hidden, generator)
        image = vqgan.decode(decoded * vqgan.config.scale_factor).sample.clamp(0, 1)
        self._keep(RECONSTRUCTION, image=image)

    def _stage_c(self, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (1,16,h,w) from hidden states (2,T,1280), the negative prompt's last."""
        stage = self.plan.stage_c
        prior = _load(WuerstchenPrior, self.checkpoint.stage_c)
        rows = hidden[: self.plan.rows("stage_c", 1)]
        self._keep("stage_c_condition", last_hidden_state=rows, text_kv=_text_kv(prior, rows))
        start = torch.randn(stage.latent_shape(1), generator=generator)
        return self._denoise(stage, _conditioned(prior, rows), start, generator)

    def _stage_b(self, latents: Tensor, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (1,4,H,W) from Stage C's and hidden states, which a text-free bundle drops."""
        constants, stage = self.checkpoint.constants, self.plan.stage_b
        batch = self.plan.rows("stage_b", 1)
        embedding = latents * constants.latent_mean - constants.latent_std
        # The unconditional half has no image either: diffusers' decoder pipeline gives it zeros.
        embedding = torch.cat([embedding, torch.zeros_like(embedding)][:batch])
        with_text = self.manifest.text_graphs["stage_b"] is not None
        rows = hidden[:batch]
        if not with_text:
            width = self.checkpoint.stage_b.config.clip_embd
            rows = torch.zeros(batch, hidden.shape[1], width)
        decoder = _load(WuerstchenDiffNeXt, self.checkpoint.stage_b)
        start = torch.randn(stage.latent_shape(1), generator=generator)
        self._keep(
            "stage_b_condition",
            image_embedding=embedding,
            latents=start.repeat(batch, 1, 1, 1),
            **_stage_b_conditions(decoder, embedding, start, rows, with_text),
            **({"last_hidden_state": rows} if with_text else {}),
        )
        run = _conditioned(decoder, embedding, rows)
        return self._denoise(stage, run, start, generator)

    def _text(
        self, graph: str, component: Component[TextConfig], tokenizer: Path, texts: list[str]
    ) -> Tensor:
        tokens = load_tokenizer(tokenizer)(
            texts,
            padding="max_length",
            max_length=self.manifest.tokenizers[graph].max_length,
            truncation=True,
            return_tensors="pt",
        )
        encoder = load_text_encoder(component)
        hidden = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        self._keep(
            graph,
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            last_hidden_state=hidden,
        )
        return hidden

    def _denoise(
        self,
        stage: Stage,
        module: Callable[[Tensor, Tensor], Tensor],
        latents: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """diffusers' loop: WuerstchenPriorPipeline.__call__ and the decoder's are the same."""
        scheduler = DDPMWuerstchenScheduler(s=stage.denoiser.s, scaler=stage.denoiser.scaler)
        scheduler.set_timesteps(timesteps=stage.timesteps)
        self._keep(f"{stage.name}/start", latents=latents)
        rows = self.plan.rows(stage.name, 1)
        for index, t in enumerate(scheduler.timesteps[:-1]):
            ratio = t.expand(1)
            output = module(torch.cat([latents] * rows), torch.cat([ratio] * rows))
            epsilon = output
            if stage.guided:
                conditional, unconditional = output.chunk(2)
                epsilon = torch.lerp(unconditional, conditional, stage.guidance)
            # The scheduler draws its noise inside: a second generator in the same state draws it
            # again, to be recorded.
            replay = torch.Generator()
            replay.set_state(generator.get_state())
            latents = scheduler.step(epsilon, ratio, latents, generator=generator).prev_sample
            noise = torch.randn(latents.shape, generator=replay)
            self._keep(f"{stage.name}/{index}", epsilon=output, noise=noise, latents=latents)
            self.on_step(stage.name, index + 1, len(scheduler.timesteps) - 1)
        return latents

    def _keep(self, name: str, **tensors: Tensor) -> None:
        for tensor, values in tensors.items():
            self.tensors[f"{name}.{tensor}"] = values.numpy().copy()


def _load(cls: Any, component: Component[Any], **options: Any) -> Any:
    """A component by the library's own loader, from the files that were exported.

    Its loaders know some names of variants and indexes only: here all have a plain name.
    """
    with TemporaryDirectory() as name:
        folder, stem = Path(name), stem_of(component.folder.name)
        shutil.copyfile(component.folder / "config.json", folder / "config.json")
        if len(component.files) == 1:
            (folder / f"{stem}.safetensors").symlink_to(component.files[0].resolve())
        else:
            weight_map: dict[str, str] = {}
            for number, file in enumerate(component.files, 1):
                link = f"{stem}-{number:05}-of-{len(component.files):05}.safetensors"
                (folder / link).symlink_to(file.resolve())
                weight_map |= dict.fromkeys(weight_names(file), link)
            index = json.dumps({"metadata": {}, "weight_map": weight_map})
            (folder / f"{stem}.safetensors.index.json").write_text(index, encoding="utf-8")
        module = cls.from_pretrained(
            name, torch_dtype=torch.float32, use_safetensors=True, **options
        )
    return module.eval()


def load_tokenizer(folder: Path) -> Any:
    """transformers' fast tokenizer: transformers 5 writes no files for the slow one.

    Nor does transformers 4 read the list in which 5 keeps special tokens of a user's own.
    """
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    extra = config.get("extra_special_tokens")
    listed = {"extra_special_tokens": {}, "additional_special_tokens": extra}
    return CLIPTokenizerFast.from_pretrained(
        str(folder), **(listed if isinstance(extra, list) else {})
    )


def load_text_encoder(component: Component[TextConfig]) -> Any:
    """CLIPTextModel, whether or not its weights are named with the prefix that it expects."""
    names = {rf"^(?!{re.escape(TEXT_PREFIX)})": TEXT_PREFIX}
    return _load(CLIPTextModel, component, key_mapping=names)


def _conditioned(module: Any, *conditions: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: module(x, t, *conditions)


def _text_kv(prior: WuerstchenPrior, hidden: Tensor) -> Tensor:
    """(B,blocks,2,T,width): what each attention block computes from the text at every step."""
    text = prior.cond_mapper(hidden)
    return torch.stack(
        [_key_value(b, text) for b in prior.blocks if isinstance(b, AttnBlock)], dim=1
    )


def _key_value(block: AttnBlock, text: Tensor) -> Tensor:
    mapped = block.kv_mapper(text)
    return torch.stack([block.attention.to_k(mapped), block.attention.to_v(mapped)], dim=1)


def _stage_b_conditions(
    decoder: WuerstchenDiffNeXt, embedding: Tensor, latents: Tensor, hidden: Tensor, text: bool
) -> dict[str, Tensor]:
    """`effnet_*` and `text_kv_*`, computed by torch and the reference's own layers."""
    conditions = {}
    for level, inject in enumerate(decoder.config.inject_effnet):
        if inject:
            cell = decoder.config.patch_size * 2**level
            size = (latents.shape[2] // cell, latents.shape[3] // cell)
            conditions[f"effnet_{level}"] = F.interpolate(
                embedding, size=size, mode="bicubic", antialias=True, align_corners=True
            )
    if not text:
        return conditions
    mapped = decoder.gen_c_embeddings(hidden)
    by_width: dict[int, list[Tensor]] = {}
    for block in decoder.modules():
        if isinstance(block, AttnBlock):
            width = block.attention.to_k.in_features
            by_width.setdefault(width, []).append(_key_value(block, mapped))
    for width in sorted(by_width):
        conditions[f"text_kv_{width}"] = torch.stack(by_width[width], dim=1)
    return conditions
