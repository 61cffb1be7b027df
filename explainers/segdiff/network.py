"""The network of SegDiff: an RRDB encoder of the spectrogram, added once to a U-Net that reads a noisy mask.

Amit et al. 2021 (arXiv:2112.00390): features ``G(I)`` of the image are summed with ``F(x_t)``, the first convolution of the noisy mask.
``G`` knows no time step, so it is computed once per clip and shared by all steps and samples. ``G`` is a stack of residual-in-residual
dense blocks (Wang et al. 2018, arXiv:1809.00219), the U-Net is that of Nichol & Dhariwal 2021 (arXiv:2102.09672). Grinberg et al. 2025
(arXiv:2506.03425) use two residual blocks per level, 12 RRDB for spectrograms and one for detector features.

Two things make a small network worth its milliseconds, and are absent from the paper's: a ``stem`` of (f, n) folds f bins x n frames into
channels before the first convolution and unfolds them after the last, and a table of log-odds by bin and level, counted on the training
masks, is added to the output at full resolution, so that training starts from the strongest control instead of from nothing.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xaibench.explainers.segdiff.backbone import Backbone
from xaibench.explainers.segdiff.detail import Detail
from xaibench.explainers.segdiff.features import FeatureEncoder, Maps
from xaibench.explainers.segdiff.folding import fold, unfold
from xaibench.explainers.segdiff.rrdb import LEAK, RRDB, conv3x3
from xaibench.explainers.segdiff.table import Table

__all__ = ["CONFIGS", "Condition", "ImageEncoder", "NetworkConfig", "SegDiffNetwork", "fold", "parameters", "unfold"]


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a SegDiff network; ``CONFIGS`` names the ones that ship."""

    image_channels: int = 3
    """Channels of the conditioning image I."""
    mask_channels: int = 1
    """Channels of the noisy mask: one for each mask recipe."""
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_downsample: tuple[int, ...] = (16, 32)
    """Levels with self-attention, as downsampling factors: 16 and 8 px of a 256-px map."""
    heads: int = 4
    rrdb_blocks: int = 12
    rrdb_features: int = 64
    rrdb_growth: int = 32
    stem: tuple[int, int] = (1, 1)
    """Bins x frames folded into channels."""
    table_levels: int = 0
    """Levels of the table of log-odds by bin and level that is added to the output at full resolution; 0 for none."""
    table_bins: int = 512
    table_channel: int = 1
    """Channel of the image that holds the level."""
    self_conditioning: bool = False
    """Whether the previous estimate of the mask is a second input (Chen et al. 2023, arXiv:2208.04202)."""
    features: tuple[tuple[int, int], ...] = ()
    """(D, H) of each detector layer that joins the image (``features``); none for networks that see the spectrogram alone."""
    feature_hidden: int = 512
    feature_bands: int = 320
    feature_planes: int = 4
    detail: int = 0
    """Channels of the convolutions at full resolution that refine the answer (``detail``); 0 for none."""
    detail_planes: int = 2
    backbone: str = ""
    """Configuration of a diffusers ``UNet2DModel`` that takes the U-Net's place (``backbone``); empty for none."""

    @property
    def multiple(self) -> tuple[int, int]:
        """Bins and frames of an input must be multiples of these."""
        shrink = 2 ** (len(self.channel_mult) - 1)
        return self.stem[0] * shrink, self.stem[1] * shrink


_BASE = NetworkConfig(model_channels=64, channel_mult=(1, 1, 2, 4), attention_downsample=(8,), rrdb_blocks=2, stem=(4, 4), table_levels=64)
_SMALL = replace(_BASE, model_channels=24, num_res_blocks=1, rrdb_blocks=1, rrdb_features=16, rrdb_growth=8, stem=(8, 4))
CONFIGS: dict[str, NetworkConfig] = {
    "paper": NetworkConfig(),
    "base": _BASE,
    "small": _SMALL,
    "tiny": replace(_SMALL, model_channels=16, channel_mult=(1, 2), attention_downsample=(), rrdb_features=8, rrdb_growth=4, stem=(8, 8)),
}
"""``paper`` has 126.4 M parameters on a three-channel image; ``base`` is for a GPU, ``small`` for a CPU, ``tiny`` for tests."""


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Embed integer steps (B,) as cosines and sines of geometrically spaced frequencies, (B, width)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _norm(channels: int) -> nn.GroupNorm:
    """Normalise in 32 groups, in fewer where a group would hold under four channels."""
    return nn.GroupNorm(math.gcd(32, max(channels // 4, 1)), channels)


def _zero(module: nn.Conv2d | nn.Conv1d) -> nn.Module:
    """Start at zero, so that each residual branch begins as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def _edge(inputs: int, outputs: int, config: NetworkConfig) -> nn.Conv2d:
    """First or last convolution: 3 x 3 cells on the plain grid, one block of cells under a stem."""
    return conv3x3(inputs, outputs) if config.stem == (1, 1) else nn.Conv2d(inputs, outputs, 1)


class ImageEncoder(nn.Module):
    """G: the conditioning image (B, C, H, W) to features (B, model_channels, H, W), without knowledge of the time step."""

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        features = config.rrdb_features
        self.first = _edge(inputs, features, config)
        self.trunk = nn.Sequential(*(RRDB(features, config.rrdb_growth) for _ in range(config.rrdb_blocks)), conv3x3(features, features))
        self.high = conv3x3(features, features)
        self.last = conv3x3(features, config.model_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Encode the image."""
        first = self.first(image)
        high = self.high(first + self.trunk(first))
        out: Tensor = self.last(nn.functional.leaky_relu(high, LEAK))
        return out


class ResBlock(nn.Module):
    """Two convolutions with the time embedding added between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = _norm(inputs), conv3x3(inputs, outputs)
        self.embed = nn.Linear(embedding, outputs)
        self.norm_out, self.conv_out = _norm(outputs), _zero(conv3x3(outputs, outputs))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, C, H, W) and (B, E) to (B, C', H, W)."""
        h = self.conv_in(nn.functional.silu(self.norm_in(x)))
        h = h + self.embed(nn.functional.silu(embedding))[:, :, None, None]
        h = self.conv_out(nn.functional.silu(self.norm_out(h)))
        out: Tensor = self.skip(x) + h
        return out


class Attention(nn.Module):
    """Self-attention over all cells of a map, as a residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, height * width)
        split = self.qkv(self.norm(flat)).reshape(batch, self.heads, 3, channels // self.heads, height * width)
        q, k, v = split.transpose(-1, -2).unbind(dim=2)  # each (B, heads, H W, C / heads)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(batch, channels, height * width)
        out: Tensor = x + self.out(mixed).reshape(x.shape)
        return out


class Stage(nn.Module):
    """A residual block, then attention where the level has it, then a change of resolution where the level ends."""

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig, *, downsample: int, resize: str = "") -> None:
        super().__init__()
        self.block = ResBlock(inputs, outputs, 4 * config.model_channels)
        self.attention = Attention(outputs, config.heads) if downsample in config.attention_downsample else nn.Identity()
        self.up = conv3x3(outputs, outputs) if resize == "up" else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, C, H, W) and (B, E) to (B, C', H, W), or twice as high and wide."""
        x = self.attention(self.block(x, embedding))
        if self.up is not None:
            x = self.up(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class UNet(nn.Module):
    """The denoiser: a noisy mask (B, C, H, W), the time embedding and G(I) to an output of C' channels."""

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig) -> None:
        super().__init__()
        base, width = config.model_channels, 4 * config.model_channels
        self.base = base
        self.time = nn.Sequential(nn.Linear(base, width), nn.SiLU(), nn.Linear(width, width))
        self.first = _edge(inputs, base, config)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, channels, last = [base], base, len(config.channel_mult) - 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                self.down.append(Stage(channels, mult * base, config, downsample=2**level))
                channels = mult * base
                skips.append(channels)
            if level < last:
                self.down.append(conv3x3(channels, channels, stride=2))
                skips.append(channels)
        self.middle = nn.ModuleList(
            [ResBlock(channels, channels, width), Attention(channels, config.heads), ResBlock(channels, channels, width)]
        )
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                resize = "up" if level and i == config.num_res_blocks else ""
                self.up.append(Stage(channels + skips.pop(), mult * base, config, downsample=2**level, resize=resize))
                channels = mult * base
        self.norm, self.last = _norm(channels), _zero(_edge(channels, outputs, config))
        self.planes = _edge(channels, config.detail_planes * config.stem[0] * config.stem[1], config) if config.detail else None

    def embed(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the time embedding, (B, 4 model_channels)."""
        out: Tensor = self.time(timestep_embedding(timesteps, self.base).to(dtype))
        return out

    def forward(self, x: Tensor, embedding: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the raw prediction, (B, C', H, W), and the planes for ``detail`` where there is one."""
        h = self.first(x) + condition
        skips = [h]
        for module in self.down:
            h = module(h, embedding) if isinstance(module, Stage) else module(h)
            skips.append(h)
        first, attention, second = self.middle
        h = second(attention(first(h, embedding)), embedding)
        for stage in self.up:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding)
        h = nn.functional.silu(self.norm(h))
        return self.last(h), None if self.planes is None else self.planes(h)


class Condition(NamedTuple):
    """What a clip's image says, computed once for all steps and samples."""

    features: Tensor
    """G(I), (B, model_channels, H, W)."""
    prior: Tensor | None
    """Log-odds of the mask by bin and level alone, (B, C, F, N); ``None`` for networks without a table."""
    seen: Tensor | None = None
    """What the refinement at full resolution sees of the image, (B, C', F, N); ``None`` for networks without one."""

    def repeat(self, count: int) -> "Condition":
        """Share one clip's condition among ``count`` samples, without copying."""
        return Condition(
            self.features.expand(count, -1, -1, -1),
            None if self.prior is None else self.prior.expand(count, -1, -1, -1),
            None if self.seen is None else self.seen.expand(count, -1, -1, -1),
        )


class SegDiffNetwork(nn.Module):
    """G and the U-Net together, on the full grid."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        cells = config.stem[0] * config.stem[1]
        inputs = config.mask_channels * (2 if config.self_conditioning else 1)
        self.features = (
            FeatureEncoder(config.features, config.feature_hidden, config.feature_bands, config.feature_planes) if config.features else None
        )
        planes = config.image_channels + (self.features.channels if self.features else 0)
        self.encoder = ImageEncoder(planes * cells, config)
        denoiser = Backbone(inputs * cells, config.mask_channels * cells, config.backbone) if config.backbone else None
        self.unet = denoiser or UNet(inputs * cells, config.mask_channels * cells, config)
        self.table = (
            Table(config.mask_channels, config.table_bins, config.table_levels, config.table_channel, 4 * config.model_channels)
            if config.table_levels
            else None
        )
        self.detail = Detail(planes, config.mask_channels, config.detail, config.detail_planes) if config.detail else None

    def condition(self, image: Tensor, maps: Maps = (), frames: int | None = None) -> Condition:
        """Return what images (B, C, F, N) and a detector's maps say; compute it once per clip.

        Args:
            image: Planes on the padded grid.
            maps: Features of the detector, for networks that read them.
            frames: Frames of the grid that the maps span; by default all.

        Raises:
            ValueError: If the grid is no multiple of what the levels need.
        """
        bins, frames = self.config.multiple
        if image.shape[-2] % bins or image.shape[-1] % frames:
            raise ValueError(f"image must have bins and frames that are multiples of {bins} and {frames}, got {tuple(image.shape)}; pad it")
        prior = None if self.table is None else self.table(image)
        if self.features is not None:
            heard = self.features(maps, (image.shape[-2], image.shape[-1]), frames or image.shape[-1])
            image = torch.cat([image, heard.to(image.dtype)], dim=1)
        return Condition(self.encoder(fold(image, self.config.stem)), prior, None if self.detail is None else self.detail.see(image))

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition, estimate: Tensor | None = None) -> Tensor:
        """Predict from a noisy mask.

        Args:
            noisy: Noisy mask, (B, C, F, N).
            timesteps: Integer steps, (B,).
            condition: What ``condition`` returned for the images.
            estimate: Previous estimate of the mask in [-1, 1], (B, C, F, N), for networks with self-conditioning; ``None`` means zeros.

        Returns:
            Raw prediction, (B, C, F, N): logits of the mask, noise or velocity, as the diffusion reads it.
        """
        shown = noisy
        if self.config.self_conditioning:
            shown = torch.cat([noisy, torch.zeros_like(noisy) if estimate is None else estimate], dim=1)
        embedding = self.unet.embed(timesteps, noisy.dtype)
        coarse, planes = self.unet(fold(shown, self.config.stem), embedding, condition.features)
        out = unfold(coarse, self.config.stem)
        if self.table is not None and condition.prior is not None:
            gain = 1 + self.table.gain(nn.functional.silu(embedding))
            out = out + gain[:, :, None, None] * condition.prior
        if self.detail is not None and planes is not None and condition.seen is not None:
            out = self.detail(out, unfold(planes, self.config.stem), noisy, condition.seen)
        return out


def parameters(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(p.numel() for p in module.parameters())
