"""SpectrogramCNN: the embedded default detector, a small convolutional net on the level-normalized log-spectrogram of a waveform.

Four strided convolutions with ReLU, a learned offset per frequency row, and max beside mean pooling, so that a single short artifact
and a faint one all over the clip are both heard. No normalization layers: an answer never depends on the rest of the batch.
"""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from xaibench.errors import WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.weights import fill, read_safetensors, resolve
from xaibench.tasks.spectrogram import STFTConfig, stft
from xaibench.types import Detector

SILENCE_RMS = 1e-4
"""Level (-80 dBFS) at which normalization fades out: what is quieter stays quiet instead of being blown up."""
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


@DETECTORS.register("spectrogram_cnn")
class SpectrogramCNN(Detector):
    """A small detector for any machine: 4 s of audio in a few milliseconds on one core.

    Args:
        weights: Name of shipped weights, path of a safetensors file, or ``"random"`` for an untrained net (seeded).
        seed: Seed of the untrained net.
    """

    def __init__(self, weights: str | Path = "minivoc", seed: int = 0, config: SpectrogramCNNConfig | None = None) -> None:
        super().__init__()
        tensors, metadata = ({}, {}) if weights == "random" else read_safetensors(resolve(weights, self.name))
        self.config = config or _config(metadata, str(weights))
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
            self.activations = nn.ModuleList(nn.ReLU() for _ in layers)
            self.frequency_offset = nn.Parameter(torch.zeros(self.config.channels[1], rows, 1))
            self.readout = nn.Linear(2 * self.config.channels[-1], 1)

    def features(self, waveform: Tensor) -> Tensor:
        """Return the log-spectrogram that the net sees, ``(B, 1, F, N)``, the same for any gain of the clip."""
        level = (waveform.square().mean(dim=-1, keepdim=True) + SILENCE_RMS**2).sqrt()
        spectrum = stft(waveform / level, self.grid)
        power = spectrum.real.square() + spectrum.imag.square()
        return ((0.5 * (power + FLOOR**2).log() - CENTER) / SCALE)[:, None]

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-odds that each clip ``(B, T)`` is spoof, ``(B,)``."""
        hidden = self.features(waveform)
        for index, (convolution, activation) in enumerate(zip(self.convolutions, self.activations, strict=True)):
            hidden = convolution(hidden)
            if index == 1:
                hidden = hidden + self.frequency_offset
            hidden = activation(hidden)
        pooled = torch.cat([hidden.amax(dim=(2, 3)), hidden.mean(dim=(2, 3))], dim=1)
        logit: Tensor = self.readout(pooled)[:, 0]
        return logit


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
