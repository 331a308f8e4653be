"""The networks of the demo checkpoint: the diffusers and transformers classes at small widths.

Stage A, B, C and the text encoder are the reference classes, so that the folder this recipe
writes loads in diffusers unchanged. The autoencoder and the judge exist only here.
"""

import torch
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenPrior
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import (
    WuerstchenDiffNeXt,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from validation.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES

TEXT_WIDTH = 128
EMBEDDING_CHANNELS = 16
EMBEDDING_SIDE = 6  # ceil(128 pixels / resolution_multiple)
RESOLUTION_MULTIPLE = 21.34
LATENT_DIM_SCALE = 5.34  # int(6 * 5.34) = 32, the side of Stage A's latents
PER_PLACE = [1 + len(SHAPES), len(COLOURS), len(SIZES)]  # logits; shape 0 is an empty place
LATENT_MEAN, LATENT_STD = 2.0, 0.5  # image_embedding = latents * 2 - 0.5


def stage_a() -> PaellaVQModel:
    return PaellaVQModel(
        levels=2, bottleneck_blocks=3, embed_dim=96, latent_channels=4, num_vq_embeddings=512
    )


def stage_b() -> WuerstchenDiffNeXt:
    return WuerstchenDiffNeXt(
        c_r=64,
        c_cond=96,
        c_hidden=[64, 128, 160],
        nhead=[-1, 4, 5],
        blocks=[2, 3, 2],
        level_config=["CT", "CTA", "CTA"],
        inject_effnet=[False, True, True],
        effnet_embd=EMBEDDING_CHANNELS,
        clip_embd=TEXT_WIDTH,
        dropout=0.0,
    )


def stage_c() -> WuerstchenPrior:
    prior = WuerstchenPrior(
        c_in=EMBEDDING_CHANNELS, c=192, c_cond=TEXT_WIDTH, c_r=64, depth=7, nhead=6, dropout=0.0
    )
    nn.init.zeros_(prior.out[1].weight)  # start from epsilon = latents, right at the noisy end
    nn.init.zeros_(prior.out[1].bias)
    return prior


def text_encoder(vocab_size: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="gelu",
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            pad_token_id=vocab_size - 1,
        )
    )


# Indices of the third and the sixth of seven ResBlocks: by then a latent is to know where it is,
# and what is there.
PROBED_BLOCKS = (6, 15)


class PositionProbe(nn.Conv2d):
    """Reads row and column of each latent off Stage C's features: (B,192,6,6) to (B,12,6,6).

    WuerstchenPrior has no positional encoding: where a latent is must come from the zero padding
    of its convolutions. Left alone, 3,700 steps had learnt every shape and colour and no place
    at all; with this auxiliary loss places are learnt too. The probe is not shipped.
    """

    def __init__(self) -> None:
        super().__init__(192, 2 * EMBEDDING_SIDE, 1)


def position_loss(where: Tensor) -> Tensor:
    """Cross entropy of rows and columns, (B,12,6,6) logits."""
    batch, _, rows, columns = where.shape
    row = torch.arange(rows).view(1, -1, 1).expand(batch, -1, columns)
    column = torch.arange(columns).view(1, 1, -1).expand(batch, rows, -1)
    return F.cross_entropy(where[:, :rows], row) + F.cross_entropy(where[:, rows:], column)


class TextProbe(nn.Module):
    """Reads the scene off the text's hidden states: (B,77,128) to shape (B,9,7), colour (B,9,6).

    Each place asks by attention, as Stage C's latents do. The public checkpoints start from a
    trained CLIP; this one's text encoder starts from nothing, and its words for places and
    things would not find each other in the time there is. The probe is not shipped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(len(PLACES), TEXT_WIDTH))
        self.attention = nn.MultiheadAttention(TEXT_WIDTH, 4, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(TEXT_WIDTH, 256), nn.GELU(), nn.Linear(256, sum(PER_PLACE[:2]))
        )

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        query = self.places.expand(len(hidden), -1, -1)
        found = self.head(self.attention(query, hidden, hidden, need_weights=False)[0])
        return found.split(PER_PLACE[:2], dim=2)


class LatentProbe(nn.Conv2d):
    """Reads the scene off Stage C's late features: (B,192,6,6) to the nine places' logits.

    At the noisy end only the text says what is where: this rewards carrying it there. The probe
    is not shipped.
    """

    def __init__(self) -> None:
        super().__init__(192, sum(PER_PLACE), 2, 2)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Shape (B,9,7), colour (B,9,6), size (B,9,2)."""
        return super().forward(features).flatten(2).transpose(1, 2).split(PER_PLACE, dim=2)


class ConvBlock(nn.Sequential):
    """Convolution, group norm, SiLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, padding=(kernel - 1) // 2),
            nn.GroupNorm(8, c_out),
            nn.SiLU(),
        )


class Autoencoder(nn.Module):
    """Makes the latent space: pictures (B,3,128,128) in 0..1 -> latents (B,16,6,6), unit variance.

    It stands where the paper has an EfficientNet; `picture_models.py` has one that is trained into
    this space. `decoder` and `reader` serve its training alone: pixels say little about a small
    shape, so the latents must also name what is drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            ConvBlock(48, 64),
            ConvBlock(64, 96, 4, 2),
            ConvBlock(96, 96),
            ConvBlock(96, 128, 4, 2),
            ConvBlock(128, 128),
            nn.Conv2d(128, EMBEDDING_CHANNELS, 1),
            nn.BatchNorm2d(EMBEDDING_CHANNELS, affine=False),
        )
        self.decoder = nn.Sequential(
            ConvBlock(EMBEDDING_CHANNELS, 128),
            nn.ConvTranspose2d(128, 96, 4, 2, 1),
            ConvBlock(96, 96),
            nn.ConvTranspose2d(96, 64, 4, 2, 1),
            ConvBlock(64, 64),
            nn.Conv2d(64, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )
        # 2 x 2 latents are one of the nine places.
        self.reader = nn.Sequential(
            nn.Conv2d(EMBEDDING_CHANNELS, 128, 2, 2), nn.ReLU(), nn.Conv2d(128, sum(PER_PLACE), 1)
        )

    def read(self, latents: Tensor) -> tuple[Tensor, ...]:
        """Logits of shape (B,9,7), colour (B,9,6) and size (B,9,2), as the judge gives them."""
        return self.reader(latents).flatten(2).transpose(1, 2).split(PER_PLACE, dim=2)

    def forward(self, pictures: Tensor) -> Tensor:
        side = 16 * EMBEDDING_SIDE
        pictures = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
        return self.encoder(pictures * 2 - 1)


class Judge(nn.Module):
    """Pictures (B,3,128,128) in 0..1 -> what is in each of the nine places, and the background.

    Returns `shape` (B,9,1+6) with class 0 for an empty place, `colour` (B,9,6), `size` (B,9,2),
    `background` (B,4) and `features` (B,128) for the Frechet distance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 24, 4, 2, 1),
            nn.ReLU(),
            ConvBlock(24, 32, 4, 2),
            ConvBlock(32, 64, 4, 2),
            ConvBlock(64, 64),
            ConvBlock(64, 64, 4, 2),
            nn.Conv2d(64, 128, 4, 2),  # 8 x 8 -> 3 x 3
            nn.ReLU(),
        )
        self.places = nn.Conv2d(128, sum(PER_PLACE), 1)
        self.background = nn.Linear(128, len(BACKGROUNDS))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        grid = self.trunk(pictures * 2 - 1)
        features = grid.mean(dim=(2, 3))
        per_place = self.places(grid).flatten(2).transpose(1, 2)
        assert per_place.shape[1] == len(PLACES)
        shape, colour, size = per_place.split(PER_PLACE, dim=2)
        return shape, colour, size, self.background(features), features


def stage_c_parts(vocab_size: int) -> nn.ModuleDict:
    """What is trained together: the prior, its text encoder, and the three probes."""
    return nn.ModuleDict(
        {
            "prior": stage_c(),
            "text": text_encoder(vocab_size),
            "where": PositionProbe(),
            "read": TextProbe(),
            "drawn": LatentProbe(),
        }
    )
