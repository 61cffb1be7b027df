"""AASIST and AASIST-L: raw-waveform detectors with spectro-temporal graph attention (Jung et al. 2022, arXiv:2110.01200).

Published checkpoints (github.com/clovaai/aasist, MIT) load key by key: attribute names are their keys. Their classes are
0 = spoof, 1 = bona fide, which this file alone knows. As in the published forward pass, the first batch normalization of each residual
block is loaded but takes no part: its result is never used.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.errors import WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.graph_attention import GraphAttention, GraphPool, HeterogeneousGraphAttention
from xaibench.tasks.detectors.weights import fill, read_checkpoint, read_safetensors
from xaibench.types import SAMPLE_RATE, Detector


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


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut, then max pooling by three in time (section 2.1).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        first: The first block has no leading normalization in the checkpoints.
    """

    def __init__(self, in_channels: int, out_channels: int, first: bool) -> None:
        super().__init__()
        if not first:
            self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, (2, 3), padding=(1, 1))
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.selu = nn.SELU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, (2, 3), padding=(0, 1))
        self.conv_downsample = nn.Conv2d(in_channels, out_channels, (1, 3), padding=(0, 1)) if in_channels != out_channels else None
        self.pool = nn.MaxPool2d((1, 3))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, out_channels, F', N' // 3)`` of features ``(B, in_channels, F', N')``."""
        shortcut = features if self.conv_downsample is None else self.conv_downsample(features)
        pooled: Tensor = self.pool(self.conv2(self.selu(self.bn2(self.conv1(features)))) + shortcut)
        return pooled


@DETECTORS.register("aasist")
class AASIST(Detector):
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
            self._build_graphs(self.config)
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
        sizes = zip(config.channels, config.channels[1:], strict=False)
        self.encoder = nn.Sequential(*(nn.Sequential(ResidualBlock(a, b, first=i == 0)) for i, (a, b) in enumerate(sizes)))

    def _build_graphs(self, config: AASISTConfig) -> None:
        wide, narrow = config.graph_features
        spectral, temporal, both = config.pool_ratios
        hot = config.temperatures[2]
        self.pos_S = nn.Parameter(torch.randn(1, config.n_filters // 3, config.channels[-1]))
        self.master1 = nn.Parameter(torch.randn(1, 1, wide))
        self.master2 = nn.Parameter(torch.randn(1, 1, wide))
        self.GAT_layer_S = GraphAttention(config.channels[-1], wide, config.temperatures[0])
        self.GAT_layer_T = GraphAttention(config.channels[-1], wide, config.temperatures[1])
        self.HtrgGAT_layer_ST11 = HeterogeneousGraphAttention(wide, narrow, hot)
        self.HtrgGAT_layer_ST12 = HeterogeneousGraphAttention(narrow, narrow, hot)
        self.HtrgGAT_layer_ST21 = HeterogeneousGraphAttention(wide, narrow, hot)
        self.HtrgGAT_layer_ST22 = HeterogeneousGraphAttention(narrow, narrow, hot)
        self.pool_S = GraphPool(spectral, wide)
        self.pool_T = GraphPool(temporal, wide)
        self.pool_hS1 = GraphPool(both, narrow)
        self.pool_hT1 = GraphPool(both, narrow)
        self.pool_hS2 = GraphPool(both, narrow)
        self.pool_hT2 = GraphPool(both, narrow)
        self.drop_way = nn.Dropout(0.2)
        self.drop = nn.Dropout(0.5)
        self.out_layer = nn.Linear(5 * narrow, 2)

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the encoder's feature map, ``(B, C, n_filters // 3, N')``."""
        bands = self.first_pool(self.sinc(waveform)[:, None].abs())
        features: Tensor = self.encoder(self.first_selu(self.first_bn(bands)).contiguous(memory_format=torch.channels_last))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Return the two logits ``(B, 2)``, spoof first, of a feature map ``(B, C, F', N')``."""
        strength = features.abs()
        spectral = self.pool_S(self.GAT_layer_S(strength.amax(dim=3).transpose(1, 2) + self.pos_S))
        temporal = self.pool_T(self.GAT_layer_T(strength.amax(dim=2).transpose(1, 2)))
        first = self._branch(temporal, spectral, self.master1, "1")
        second = self._branch(temporal, spectral, self.master2, "2")
        times, bands, master = (torch.maximum(self.drop_way(a), self.drop_way(b)) for a, b in zip(first, second, strict=True))
        readout = [times.abs().amax(dim=1), times.mean(dim=1), bands.abs().amax(dim=1), bands.mean(dim=1), master[:, 0]]
        logits: Tensor = self.out_layer(self.drop(torch.cat(readout, dim=1)))
        return logits

    def _branch(self, temporal: Tensor, spectral: Tensor, master: Tensor, branch: str) -> tuple[Tensor, Tensor, Tensor]:
        """Run one of the two stacks of heterogeneous layers; the second layer adds to the first."""
        master = master.expand(len(temporal), -1, -1)
        times, bands, master = self.get_submodule(f"HtrgGAT_layer_ST{branch}1")(temporal, spectral, master)
        times, bands = self.get_submodule(f"pool_hT{branch}")(times), self.get_submodule(f"pool_hS{branch}")(bands)
        more_times, more_bands, more_master = self.get_submodule(f"HtrgGAT_layer_ST{branch}2")(times, bands, master)
        return times + more_times, bands + more_bands, master + more_master

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
