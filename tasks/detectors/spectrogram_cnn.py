"""SpectrogramCNN: the embedded default detector, a small convolutional net on the level-normalized log-spectrogram of a waveform.

Four strided convolutions with ReLU, a learned offset per frequency row, and max beside mean pooling, so that a single short artifact
and a faint one all over the clip are both heard. Batch normalization helps training and is then folded into the convolutions: shipped nets
consist of convolutions, ReLU, pooling and a linear readout, which every attribution rule covers.
"""

import copy
import json
from dataclasses import asdict, dataclass, replace
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
from xaibench.tasks.spectrogram import STFTConfig, stft
from xaibench.types import Detector

FLOOR = 0.03
"""Magnitude of the floor for a clip of unit RMS, some -80 dB under its loudest cells: nothing is decided by inaudible cells."""
CENTER, SCALE = 0.0, 3.0
"""Shift and scale that bring log-magnitudes of speech near zero mean and unit spread."""


@dataclass(frozen=True)
class SpectrogramCNNConfig:
    """Sizes of the net; stored with its weights."""

    channels: tuple[int, ...] = (8, 24, 48, 64)
    window_samples: int = 1024
    hop_samples: int = 256
    batch_norm: bool = False
    """Whether the convolutions are followed by batch normalization: in training only, ``folded`` removes it."""
    level: float | None = None
    """RMS of full scale that is heard as 1; by default each clip's own, so that gain is not heard (``levels.py``)."""


@DETECTORS.register("spectrogram_cnn")
class SpectrogramCNN(Detector):
    """A small detector for any machine: 4 s of audio in a few milliseconds on one core.

    Args:
        weights: Name of shipped weights, path of a safetensors file, or ``"random"`` for a net to be trained (seeded).
        seed: Seed of the untrained net.
    """

    def __init__(self, weights: str | Path = "minivoc", seed: int = 0, config: SpectrogramCNNConfig | None = None) -> None:
        super().__init__()
        tensors, metadata = ({}, {}) if weights == "random" else read_safetensors(resolve(weights, self.name))
        self.config = config or (SpectrogramCNNConfig(batch_norm=True) if weights == "random" else _config(metadata, str(weights)))
        self.grid = STFTConfig(self.config.window_samples, self.config.hop_samples)
        self._build(seed)
        if weights != "random":
            fill(self, tensors, str(weights))
        self.eval()

    def _build(self, seed: int) -> None:
        """Make the layers with initial values that depend on the seed alone."""
        rows = (self.grid.bins + 3) // 4
        sizes = (1, *self.config.channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Conv2d(a, b, 5 if a == 1 else 3, stride=2, padding=2 if a == 1 else 1) for a, b in pairwise(sizes)]
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.convolutions = nn.ModuleList(layers)
            self.normalizations = nn.ModuleList(
                nn.BatchNorm2d(n) if self.config.batch_norm else nn.Identity() for n in self.config.channels
            )
            self.activations = nn.ModuleList(nn.ReLU() for _ in layers)
            self.frequency_offset = nn.Parameter(torch.zeros(self.config.channels[1], rows, 1))
            self.readout = nn.Linear(2 * self.config.channels[-1], 1)

    def features(self, waveform: Tensor) -> Tensor:
        """Return the log-spectrogram that the net sees, ``(B, 1, F, N)``, the same for any gain of the clip unless ``level`` is set."""
        spectrum = stft(at_level(waveform, self.config.level), self.grid)
        power = spectrum.real.square() + spectrum.imag.square()
        return ((0.5 * (power + FLOOR**2).log() - CENTER) / SCALE)[:, None]

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-odds that each clip ``(B, T)`` is spoof, ``(B,)``."""
        hidden = self.features(waveform)
        layers = zip(self.convolutions, self.normalizations, self.activations, strict=True)
        for index, (convolution, normalization, activation) in enumerate(layers):
            hidden = normalization(convolution(hidden))
            hidden = activation(hidden + self.frequency_offset if index == 1 else hidden)
        pooled = torch.cat([hidden.amax(dim=(2, 3)), hidden.mean(dim=(2, 3))], dim=1)
        logit: Tensor = self.readout(pooled)[:, 0]
        return logit

    def folded(self) -> "SpectrogramCNN":
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


def _config(metadata: dict[str, str], source: str) -> SpectrogramCNNConfig:
    """Read the sizes stored with the weights; files without them are of the default size.

    Raises:
        WeightsError: If the stored sizes cannot be read.
    """
    if "config" not in metadata:
        return SpectrogramCNNConfig()
    try:
        stored = json.loads(metadata["config"])
        return SpectrogramCNNConfig(**{**stored, "channels": tuple(stored["channels"])})
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"weights must store a readable configuration, got {source}: {error}; train them again") from error


def config_json(config: SpectrogramCNNConfig) -> str:
    """Return the sizes as JSON for the metadata of a weights file."""
    return json.dumps(asdict(config), sort_keys=True)
