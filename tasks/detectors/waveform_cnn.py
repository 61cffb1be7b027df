"""WaveformCNN: a small net on the raw waveform, with a bank of fixed filters as AASIST has instead of a spectrogram.

A strided one-dimensional convolution with cosines and sines at 256 frequencies gives the power of each pair of filters; three strided
convolutions over frequency and time with ReLU and max beside mean pooling follow. The filters are not trained: a trained bank loses the
stop bands without which the loud low end of speech drowns the rest. Batch normalization helps training and is then folded into the
convolutions.
"""

import copy
import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xaibench.errors import WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.levels import at_level
from xaibench.tasks.detectors.weights import fill, read_safetensors, resolve
from xaibench.types import SAMPLE_RATE, Detector

FLOOR = 0.003
"""Output of a filter at which the logarithm bends, 53 dB under white noise of the clip's level."""
SCALE = 5.0
"""Brings log-powers of speech near unit spread."""


@dataclass(frozen=True)
class WaveformCNNConfig:
    """Sizes of the net; stored with its weights."""

    filters: int = 256
    filter_samples: int = 1024
    filter_stride: int = 256
    channels: tuple[int, ...] = (12, 24, 48)
    batch_norm: bool = False
    """Whether the convolutions are followed by batch normalization: in training only, ``folded`` removes it."""
    level: float | None = None
    """RMS of full scale that is heard as 1; by default each clip's own, so that gain is not heard (``levels.py``)."""


@DETECTORS.register("waveform_cnn")
class WaveformCNN(Detector):
    """A small detector of raw waveforms.

    Args:
        weights: Name of shipped weights, path of a safetensors file, or ``"random"`` for a net to be trained (seeded).
        seed: Seed of the untrained net.
        config: Sizes; by default those stored with the weights.
    """

    filters: Tensor

    def __init__(self, weights: str | Path = "planted", seed: int = 0, config: WaveformCNNConfig | None = None) -> None:
        super().__init__()
        tensors, metadata = ({}, {}) if weights == "random" else read_safetensors(resolve(weights, self.name))
        self.config = config or (WaveformCNNConfig(batch_norm=True) if weights == "random" else _config(metadata, str(weights)))
        self._build(seed)
        if weights != "random":
            fill(self, tensors, str(weights))
        self.eval()

    def _build(self, seed: int) -> None:
        """Make the layers with initial values that depend on the seed alone."""
        config = self.config
        sizes = (1, *config.channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.register_buffer("filters", filter_bank(config.filters, config.filter_samples)[:, None], persistent=False)
            layers = [nn.Conv2d(a, b, 5 if a == 1 else 3, stride=2, padding=2 if a == 1 else 1) for a, b in pairwise(sizes)]
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.convolutions = nn.ModuleList(layers)
            self.normalizations = nn.ModuleList(nn.BatchNorm2d(n) if config.batch_norm else nn.Identity() for n in config.channels)
            self.activations = nn.ModuleList(nn.ReLU() for _ in layers)
            self.readout = nn.Linear(2 * config.channels[-1], 1)

    def features(self, waveform: Tensor) -> Tensor:
        """Return the log-power of each filter, ``(B, 1, filters, T')``, the same for any gain of the clip unless ``level`` is set."""
        config = self.config
        heard = at_level(waveform, config.level)[:, None]
        bands = nn.functional.conv1d(heard, self.filters, stride=config.filter_stride, padding=config.filter_samples // 2)
        even, odd = bands.chunk(2, dim=1)
        power: Tensor = even.square() + odd.square()
        return ((power + FLOOR**2).log() / SCALE)[:, None]

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-odds that each clip ``(B, T)`` is spoof, ``(B,)``."""
        hidden = self.features(waveform)
        for convolution, normalization, activation in zip(self.convolutions, self.normalizations, self.activations, strict=True):
            hidden = activation(normalization(convolution(hidden)))
        pooled = torch.cat([hidden.amax(dim=(2, 3)), hidden.mean(dim=(2, 3))], dim=1)
        logit: Tensor = self.readout(pooled)[:, 0]
        return logit

    def folded(self) -> "WaveformCNN":
        """Return an equal net without batch normalization, in ``eval()``; itself where there is none."""
        if not self.config.batch_norm:
            return self
        folded = copy.deepcopy(self).eval()
        folded.config = replace(self.config, batch_norm=False)
        pairs = zip(cast("list[nn.Conv2d]", folded.convolutions), cast("list[nn.BatchNorm2d]", folded.normalizations), strict=True)
        fused = [fuse_conv_bn_eval(convolution, normalization) for convolution, normalization in pairs]
        folded.convolutions = nn.ModuleList(fused)
        folded.normalizations = nn.ModuleList(nn.Identity() for _ in fused)
        return folded


def filter_bank(filters: int, length: int) -> Tensor:
    """Return Hann-windowed cosines and sines at evenly spaced frequencies up to 8 kHz, of unit norm, (2 x filters, length)."""
    hertz = SAMPLE_RATE / 2 * (torch.arange(filters) + 0.5) / filters
    angle = 2 * torch.pi * hertz[:, None] * (torch.arange(length) - length / 2)[None] / SAMPLE_RATE
    bank = torch.cat([angle.cos(), angle.sin()]) * torch.hann_window(length)
    unit: Tensor = bank / bank.norm(dim=1, keepdim=True)
    return unit


def _config(metadata: dict[str, str], source: str) -> WaveformCNNConfig:
    """Read the sizes stored with the weights; files without them are of the default size.

    Raises:
        WeightsError: If the stored sizes cannot be read.
    """
    if "config" not in metadata:
        return WaveformCNNConfig()
    try:
        stored = json.loads(metadata["config"])
        return WaveformCNNConfig(**{**stored, "channels": tuple(stored["channels"])})
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"weights must store a readable configuration, got {source}: {error}; train them again") from error
