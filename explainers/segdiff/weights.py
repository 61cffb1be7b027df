"""Weights of SegDiff networks: one safetensors file (half precision) that says how to build its network, and a card beside it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from xaibench.errors import WeightsError
from xaibench.explainers.segdiff.backbone import backbone_config
from xaibench.explainers.segdiff.diffusion import Diffusion
from xaibench.explainers.segdiff.frontend import FrontEnd
from xaibench.explainers.segdiff.network import CONFIGS, NetworkConfig, SegDiffNetwork
from xaibench.tasks.cache import atomic_write
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Weights, tensors_hash

SHIPPED = Path(__file__).parent / "weights"
FORMAT = "xaibench-segdiff-1"
DETECTOR_METHODS = ("addsegdiff", "addsegdiff_random")
PAPER_LEVELS = FrontEnd(channels=("level", "level", "level"), floor_db=60.0, frame_multiple=64)
FEW_STEPS = Diffusion(schedule="cosine", zero_terminal_snr=True, prediction="logit", shift=0.2, variance="posterior", empty_start=True)


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build and use a network, stored in its weights file."""

    method: str = "specsegdiff"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    diffusion: Diffusion = field(default_factory=Diffusion)
    front: FrontEnd = field(default_factory=FrontEnd)
    recipes: tuple[str, ...] = ("sym-floor60-v1", "grinberg-rel-linear-v1")
    stft: STFTConfig = DEFAULT_STFT
    detector: str = ""
    """Fingerprint of the detector whose features are read; empty for networks that see the spectrogram alone."""

    def to_json(self) -> str:
        """Return canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Read what ``to_json`` wrote."""
        raw = json.loads(text)
        parts = {"network": NetworkConfig, "diffusion": Diffusion, "front": FrontEnd, "stft": STFTConfig}
        built = {name: part(**{k: _tuples(v) for k, v in raw[name].items()}) for name, part in parts.items()}
        return cls(method=raw["method"], recipes=tuple(raw["recipes"]), detector=raw.get("detector", ""), **built)

    def build(self) -> SegDiffNetwork:
        """Return an untrained network."""
        return SegDiffNetwork(self.network)


def preset(
    method: str,
    config: str = "small",
    recipes: tuple[str, ...] = ("sym-floor60-v1", "grinberg-rel-linear-v1"),
    *,
    features: tuple[tuple[int, int], ...] = (),
    detector: str = "",
    backbone: str = "",
) -> ModelConfig:
    """Return a model configuration by the name of its network; ``paper`` is the published one (noise prediction, linear schedule).

    Args:
        method: ``specsegdiff``, ``one_shot``, ``addsegdiff`` or ``addsegdiff_random``.
        config: A name of ``CONFIGS``.
        recipes: One output channel each.
        features: (D, H) of each layer of the detector that is read; for the ``addsegdiff`` pair, which sees no spectrogram.
        detector: Fingerprint of that detector.
        backbone: Folder of a pretrained diffusers ``UNet2DModel`` that becomes the denoiser.

    Raises:
        ValueError: If there is no such network, or features are missing or given where none are read.
    """
    if config not in CONFIGS:
        raise ValueError(f"config must be one of {', '.join(CONFIGS)}, got {config!r}; use small on a CPU")
    if (method in DETECTOR_METHODS) != bool(features):
        raise ValueError(
            f"features must be given for {' and '.join(DETECTOR_METHODS)} alone, got {features} for {method!r}; read a detector"
        )
    network = replace(CONFIGS[config], mask_channels=len(recipes))
    if config == "paper":
        front, diffusion = PAPER_LEVELS, Diffusion()
    else:
        front, diffusion = FrontEnd(frame_multiple=network.multiple[1]), FEW_STEPS
    if backbone:
        network = _on_backbone(network, backbone_config(Path(backbone)))
        front = replace(front, frame_multiple=network.multiple[1])
    if features:
        front, network = _blind(config, front, network, features)
    return ModelConfig(method, network, diffusion, front, recipes, detector=detector)


def _on_backbone(network: NetworkConfig, config: str) -> NetworkConfig:
    """Fit the encoder's width and the grid to a pretrained denoiser, which brings its own embedding of time and so has no table."""
    widths = json.loads(config)["block_out_channels"]
    return replace(network, backbone=config, model_channels=int(widths[0]), channel_mult=(1,) * len(widths), table_levels=0, detail=0)


def _blind(config: str, front: FrontEnd, network: NetworkConfig, features: tuple[tuple[int, int], ...]) -> tuple[FrontEnd, NetworkConfig]:
    """Replace the spectrogram by a detector's features, and twelve RRDB by one, as the paper does; what is left is each row's frequency."""
    if config == "paper":
        return replace(front, channels=()), replace(network, image_channels=0, rrdb_blocks=1, features=features)
    network = replace(network, image_channels=1, rrdb_blocks=1, features=features, table_levels=1, table_channel=0)
    if config == "small":  # the features carry less than a spectrogram, and two of these files ship per task
        network = replace(network, model_channels=16)
    if config != "base":
        network = replace(network, feature_hidden=64)
    return replace(front, channels=("frequency",)), network


@dataclass(frozen=True)
class Model:
    """A network with its configuration, in ``eval()`` mode, and the hash of its weights."""

    config: ModelConfig
    network: SegDiffNetwork
    sha256: str


def dump(config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> bytes:
    """Return the bytes of a weights file; floats become half precision."""
    tensors = {name: t.detach().cpu().to(torch.float16 if t.is_floating_point() else t.dtype).contiguous() for name, t in weights.items()}
    return save(tensors, metadata={"format": FORMAT, "config": config.to_json()})


def write(path: Path, config: ModelConfig, weights: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write weights to ``path`` and their card to the same name with ``.json``, each whole or not at all."""
    atomic_write(Path(path), dump(config, weights))
    atomic_write(Path(path).with_suffix(".json"), (json.dumps(card, indent=2, sort_keys=True) + "\n").encode())


def read(path: Path) -> tuple[ModelConfig, Weights]:
    """Return configuration and tensors (float32) of a weights file.

    Raises:
        WeightsError: If the file is missing, damaged, or not a SegDiff network.
    """
    if not Path(path).is_file():
        raise WeightsError(f"weights must name a shipped file or a path, got {path}, which does not exist; {_remedy()}")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"weights must be a readable safetensors file, got {path} ({error}); train or fetch it again") from error
    if meta.get("format") != FORMAT:
        raise WeightsError(f"weights must be of format {FORMAT}, got {meta.get('format')!r} in {path}; {_remedy()}")
    return ModelConfig.from_json(meta["config"]), tensors


def assemble(config: ModelConfig, tensors: Weights) -> Model:
    """Build the network and fill it.

    Raises:
        WeightsError: If tensors are missing, left over, or of another shape.
    """
    with torch.device("meta"):
        network = config.build()
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(
            f"weights must fit the network of their configuration, got a file that does not ({reason}); train it again"
        ) from error
    network.requires_grad_(False)
    return Model(config, network.eval(), tensors_hash(tensors))


def shipped(method: str) -> list[str]:
    """Return the tasks for which weights of a method ship."""
    return sorted(p.stem.removeprefix(f"{method}-") for p in SHIPPED.glob(f"{method}-*.safetensors"))


def locate(method: str, weights: str) -> Path:
    """Turn the field ``weights`` into a path: a task's name is looked up among the shipped files, anything with a suffix is a path."""
    return Path(weights).expanduser() if weights.endswith(".safetensors") else SHIPPED / f"{method}-{weights}.safetensors"


def load(method: str, weights: str) -> Model:
    """Return the model of a method, read once per process and file version.

    Raises:
        WeightsError: If it is missing, damaged, or of another method.
    """
    path = locate(method, weights)
    if not path.is_file():
        raise WeightsError(
            f"weights must name a task with shipped {method} weights or a .safetensors file, got {weights!r}; {_remedy(method)}"
        )
    model = _load(path, path.stat().st_mtime_ns)
    if model.config.method != method:
        raise WeightsError(f"weights must be of {method}, got {path} of {model.config.method}; choose that explainer or another file")
    return model


@lru_cache(maxsize=8)
def _load(path: Path, _modified: int) -> Model:
    return assemble(*read(path))


def _remedy(method: str = "specsegdiff") -> str:
    return f"available: {', '.join(shipped(method)) or 'none'}; or train with `xaibench train {method}`"


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
