"""AASIST and AASIST-L: raw-waveform detectors with spectro-temporal graph attention (Jung et al. 2022, arXiv:2110.01200).

Published checkpoints (github.com/clovaai/aasist, MIT) load key by key: attribute names are their keys. Their classes are
0 = spoof, 1 = bona fide. The layers that it shares with Wav2Vec2-AASIST are in ``spectro_temporal.py``.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.errors import WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.spectro_temporal import GraphDetector, residual_encoder
from xaibench.tasks.detectors.weights import fill, read_checkpoint, read_safetensors
from xaibench.types import SAMPLE_RATE


@dataclass(frozen=True)
class AASISTConfig:
    """Sizes, as in the published configuration files."""

    n_filters: int = 70
    filter_samples: int = 129
    channels: tuple[int, ...] = (1, 32, 32, 64, 64, 64, 64)
    graph_features: tuple[int, int] = (64, 32)
    pool_ratios: tuple[float, float, float] = (0.5, 0.7, 0.5)
    """Spectral graph, temporal graph, both graphs of the heterogeneous layers."""
    temperatures: tuple[float, float, float] = (2.0, 2.0, 100.0)
    checkpoint: str = "AASIST.pth"


class SincFilters(nn.Module):
    """Fixed band-pass filters, one per band of equal width in mel, Hamming-windowed (Ravanelli & Bengio 2018, arXiv:1808.00158, eq. 4)."""

    filters: Tensor

    def __init__(self, n_filters: int, filter_samples: int) -> None:
        super().__init__()
        self.register_buffer("filters", band_pass_filters(n_filters, filter_samples)[:, None], persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the band signals ``(B, n_filters, T')`` of ``(B, T)``."""
        return nn.functional.conv1d(waveform[:, None], self.filters)


def band_pass_filters(n_filters: int, filter_samples: int) -> Tensor:
    """Return impulse responses ``(n_filters, filter_samples)`` of adjacent bands from 0 Hz to half the sample rate, equally wide in mel."""
    top_mel = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700, dtype=torch.float64))
    edges_mel = torch.linspace(0, 1, n_filters + 1, dtype=torch.float64) * top_mel
    edges = 2 * 700 * (10 ** (edges_mel / 2595) - 1) / SAMPLE_RATE  # in units of half the sample rate
    half = (filter_samples - 1) // 2
    time = torch.arange(-half, half + 1, dtype=torch.float64)
    low_pass = edges[:, None] * torch.sinc(edges[:, None] * time)
    window = torch.hamming_window(filter_samples, periodic=False, dtype=torch.float64)
    return ((low_pass[1:] - low_pass[:-1]) * window).float()


@DETECTORS.register("aasist")
class AASIST(GraphDetector):
    """The published detector of 297 866 parameters.

    Args:
        weights: Path of a checkpoint (``.pth`` or ``.safetensors``); empty: ``AASIST.pth`` in the folder that ``XAIBENCH_WEIGHTS`` names;
            ``"random"``: untrained (seeded).
        seed: Seed of the untrained model.
    """

    config: ClassVar[AASISTConfig] = AASISTConfig()

    def __init__(self, weights: str | Path = "", seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build_encoder(self.config)
            bands, features = self.config.n_filters // 3, self.config.channels[-1]
            self.build_graphs(bands, features, self.config.graph_features, self.config.pool_ratios, self.config.temperatures)
        if weights != "random":
            path = checkpoint_path(weights, self.config.checkpoint, self.name)
            fill(self, read_safetensors(path)[0] if path.suffix == ".safetensors" else read_checkpoint(path), path.name)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    def _build_encoder(self, config: AASISTConfig) -> None:
        self.sinc = SincFilters(config.n_filters, config.filter_samples)
        self.first_pool = nn.MaxPool2d(3)
        self.first_bn = nn.BatchNorm2d(1)
        self.first_selu = nn.SELU()
        self.encoder = residual_encoder(config.channels, pool=3)

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the encoder's feature map, ``(B, C, n_filters // 3, N')``."""
        bands = self.first_pool(self.sinc(waveform)[:, None].abs())
        features: Tensor = self.encoder(self.first_selu(self.first_bn(bands)).contiguous(memory_format=torch.channels_last))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Return the two logits ``(B, 2)``, spoof first, of a feature map ``(B, C, F', N')``."""
        strength = features.abs()
        return self.classify_nodes(strength.amax(dim=3).transpose(1, 2), strength.amax(dim=2).transpose(1, 2))

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-odds that each clip ``(B, T)`` is spoof, ``(B,)``: class 0 of the checkpoints against class 1."""
        logits = self.classify(self.encode(waveform))
        return logits[:, 0] - logits[:, 1]


@DETECTORS.register("aasist_l")
class AASISTL(AASIST):
    """The published light variant of 85 306 parameters."""

    config = AASISTConfig(
        channels=(1, 32, 32, 24, 24, 24, 24), graph_features=(24, 32), pool_ratios=(0.4, 0.5, 0.7), checkpoint="AASIST-L.pth"
    )


def checkpoint_path(weights: str | Path, default: str, name: str) -> Path:
    """Return the checkpoint's path: the given one, or the default name in ``XAIBENCH_WEIGHTS``.

    Raises:
        WeightsError: If there is none.
    """
    folder = os.environ.get("XAIBENCH_WEIGHTS", "")
    path = Path(weights).expanduser() if str(weights) else Path(folder) / default if folder else None
    if path is None or not path.is_file():
        got = "none" if path is None else repr(str(path))
        raise WeightsError(
            f"weights of {name} must be a checkpoint file, got {got}; fetch {default} from github.com/clovaai/aasist and give its path"
        )
    return path
