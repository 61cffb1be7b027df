"""Wav2Vec2-AASIST: the graph back end of AASIST on the features of a self-supervised front end (Tak et al. 2022, arXiv:2202.12233).

XLS-R 300M (``wav2vec2.py``), a linear layer to 128 bands, max pooling by three in both directions, six residual blocks, attention pooling
over time and over bands, and the two graphs of ``spectro_temporal.py``. The audio is not normalized. The tiny sibling is the same code with
other sizes. Where checkpoints come from and how their keys are named: ``wav2vec2_checkpoints.py``.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xaibench.errors import WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.filter_bank import start_as_filter_bank
from xaibench.tasks.detectors.spectro_temporal import GraphDetector, residual_encoder
from xaibench.tasks.detectors.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from xaibench.tasks.detectors.wav2vec2_checkpoints import Checkpoint, read_weights
from xaibench.tasks.detectors.weights import fill


@dataclass(frozen=True)
class Wav2Vec2AASISTConfig:
    """Sizes; the default is the published detector."""

    front: Wav2Vec2Config = field(default_factory=Wav2Vec2Config)
    n_bands: int = 128
    """Outputs of the linear layer on the front end's features; pooled by three they are the nodes of the spectral graph."""
    channels: tuple[int, ...] = (1, 32, 32, 64, 64, 64, 64)
    graph_features: tuple[int, int] = (64, 32)
    pool_ratios: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Kept share of the spectral graph, of the temporal graph, of both graphs of the heterogeneous layers."""
    temperatures: tuple[float, float, float] = (2.0, 2.0, 100.0)
    dropout: float = 1.0
    """Factor on the back end's published dropout (0.2 to 0.5), under which a small net does not learn."""
    filter_bands: int = 0
    """Bands of the filter bank that an untrained front end starts as; 0 for random values."""


XLSR_300M = Wav2Vec2AASISTConfig()
TINY = Wav2Vec2AASISTConfig(
    front=Wav2Vec2Config(
        convolutions=((96, 80, 32), (64, 5, 5), (64, 2, 2)),  # 201 frames, as the published ones
        width=64, depth=2, heads=4, hidden=128, position_kernel=32, position_groups=4,
    ),
    n_bands=48, channels=(1, 16, 16, 24, 24), graph_features=(24, 16), dropout=0.0, filter_bands=32,
)  # fmt: skip


@DETECTORS.register("wav2vec2_aasist")
class Wav2Vec2AASIST(GraphDetector):
    """The published detector of 315.9 million parameters.

    Args:
        weights: A checkpoint file in the naming of SSL_Anti-spoofing or of this package, a shipped name, or ``"random"``: untrained
            (seeded). A Hugging Face folder or file holds the front end alone and needs ``back_end="random"``.
        seed: Seed of what is untrained.
        back_end: ``"random"`` asks for an untrained back end on a trained front end, to be fine-tuned.
        config: Sizes of an untrained detector; files of this package and Hugging Face folders bring their own.
    """

    preset: ClassVar[Wav2Vec2AASISTConfig] = XLSR_300M

    def __init__(self, weights: str | Path = "", seed: int = 0, back_end: str = "", config: Wav2Vec2AASISTConfig | None = None) -> None:
        super().__init__()
        given = None if weights == "random" else read_weights(weights, self.name)
        if given and given.front_alone and back_end != "random":
            raise WeightsError(
                f"weights of {self.name} must hold the back end too, got a front end alone in {str(weights)!r}; "
                "add back_end=random to fine-tune an untrained one"
            )
        self.config = config or sizes(self.preset, given.config if given else None, str(weights))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build_back_end(self.config)
            with torch.device("meta") if given else nullcontext():  # no time spent on values that are replaced
                self.front = Wav2Vec2(self.config.front)
            if self.config.filter_bands and not given:
                start_as_filter_bank(self.front.feature_extractor, self.config.filter_bands)
        if given:
            self._fill(given, str(weights))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    def _build_back_end(self, config: Wav2Vec2AASISTConfig) -> None:
        last = config.channels[-1]
        self.LL = nn.Linear(config.front.width, config.n_bands)
        self.first_pool = nn.MaxPool2d(3)
        self.first_bn = nn.BatchNorm2d(1)
        self.first_selu = nn.SELU()
        self.encoder = residual_encoder(config.channels, pool=1)
        self.first_bn1 = nn.BatchNorm2d(last)
        self.last_selu = nn.SELU()
        self.attention = nn.Sequential(nn.Conv2d(last, 2 * last, 1), nn.SELU(), nn.BatchNorm2d(2 * last), nn.Conv2d(2 * last, last, 1))
        self.softmax_over_times, self.softmax_over_bands = nn.Softmax(dim=3), nn.Softmax(dim=2)
        self.build_graphs(config.n_bands // 3, last, config.graph_features, config.pool_ratios, config.temperatures)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p *= config.dropout

    def _fill(self, given: Checkpoint, source: str) -> None:
        """Take the tensors of a checkpoint, and keep the untrained back end where it holds a front end alone."""
        own = {key: value for key, value in self.state_dict().items() if not key.startswith("front.")} if given.front_alone else {}
        fill(self, {**own, **given.tensors}, source, assign=True)

    def hidden_states(self, waveform: Tensor) -> Tensor:
        """Return the output of each transformer block before the final normalization, ``(L, B, N', D)``, the first block first."""
        return torch.stack(self.front.hidden_states(waveform))

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the encoder's feature map, ``(B, C, n_bands // 3, N' // 3)``."""
        bands = self.first_pool(self.LL(self.front(waveform)).transpose(1, 2)[:, None])
        features: Tensor = self.encoder(self.first_selu(self.first_bn(bands)).contiguous(memory_format=torch.channels_last))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Return the two logits ``(B, 2)``, spoof first, of a feature map ``(B, C, F', N'')``."""
        features = self.last_selu(self.first_bn1(features))
        scores = self.attention(features)
        spectral = (features * self.softmax_over_times(scores)).sum(dim=3)
        temporal = (features * self.softmax_over_bands(scores)).sum(dim=2)
        return self.classify_nodes(spectral.transpose(1, 2), temporal.transpose(1, 2))

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-odds that each clip ``(B, T)`` is spoof, ``(B,)``: class 0 of the checkpoints against class 1."""
        logits = self.classify(self.encode(waveform))
        return logits[:, 0] - logits[:, 1]


@DETECTORS.register("wav2vec2_aasist_tiny")
class Wav2Vec2AASISTTiny(Wav2Vec2AASIST):
    """The same detector in small, for any machine.

    Args:
        weights: As for ``wav2vec2_aasist``; by default the shipped ones.
        seed: Seed of what is untrained.
        back_end: As for ``wav2vec2_aasist``.
        config: Sizes of an untrained detector.
    """

    preset = TINY

    def __init__(
        self, weights: str | Path = "minivoc", seed: int = 0, back_end: str = "", config: Wav2Vec2AASISTConfig | None = None
    ) -> None:
        super().__init__(weights, seed, back_end, config)


def sizes(preset: Wav2Vec2AASISTConfig, given: dict[str, Any] | None, source: str) -> Wav2Vec2AASISTConfig:
    """Return the sizes that a checkpoint tells, the preset's where it does not.

    Raises:
        WeightsError: If a size is unknown or missing.
    """
    try:
        told = {key: _tuples(value) for key, value in (given or {}).items()}
        front = Wav2Vec2Config(**{key: _tuples(value) for key, value in told.pop("front").items()}) if "front" in told else preset.front
        return replace(preset, front=front, **told)
    except (TypeError, AttributeError) as error:
        raise WeightsError(f"weights must store a readable configuration, got {source}: {error}; train them again") from error


def _tuples(value: Any) -> Any:
    """Return JSON lists as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
