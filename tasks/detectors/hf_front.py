"""What transformers' feature extractors do to a waveform, in torch, so that gradients reach the waveform."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from xaibench.errors import WeightsError
from xaibench.types import SAMPLE_RATE

WAVEFORM_MODELS = ("wav2vec2", "hubert", "wavlm", "sew", "sew-d", "unispeech", "unispeech-sat", "data2vec-audio")
FILTER_BANK_MODELS = ("audio-spectrogram-transformer",)


@dataclass(frozen=True)
class Front:
    """A feature extractor with its settings."""

    kind: Literal["waveform", "filter_bank"]
    normalize: bool
    """Bring each waveform to mean 0 and variance 1, or filter banks to those of the pre-training corpus."""
    bins: int = 128
    frames: int = 1024
    mean: float = 0.0
    deviation: float = 0.5

    def __call__(self, waveform: Tensor) -> Tensor:
        """Return what the model takes: ``(B, T)``, or filter banks ``(B, frames, bins)``, of waveforms ``(B, T)``."""
        if self.kind == "filter_bank":
            return torch.stack([self._filter_bank(clip) for clip in waveform])
        if not self.normalize:
            return waveform
        centered = waveform - waveform.mean(dim=1, keepdim=True)
        return centered / (centered.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()

    def _filter_bank(self, clip: Tensor) -> Tensor:
        """Return Kaldi's log filter banks of a clip ``(T,)``, cut or filled with zeros to ``frames``."""
        banks: Tensor = kaldi.fbank(clip[None], sample_frequency=SAMPLE_RATE, window_type="hanning", num_mel_bins=self.bins)
        banks = banks[: self.frames]
        banks = torch.nn.functional.pad(banks, (0, 0, 0, self.frames - len(banks)))
        return (banks - self.mean) / (2 * self.deviation) if self.normalize else banks


def front_of(folder: Path, model_type: str) -> Front:
    """Read the settings of the feature extractor that was saved beside a model.

    Raises:
        WeightsError: If there are none, or they are for another rate or a model that hears neither waveforms nor these filter banks.
    """
    if model_type not in (*WAVEFORM_MODELS, *FILTER_BANK_MODELS):
        known = ", ".join((*WAVEFORM_MODELS, *FILTER_BANK_MODELS))
        raise WeightsError(f"weights of hf must be a model of type {known}, got {model_type}; wrap it as docs/detectors.md shows")
    path = folder / "preprocessor_config.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rate = int(settings.get("sampling_rate", SAMPLE_RATE))
        front = _front(settings, model_type)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"weights of hf must lie beside a readable preprocessor_config.json, got {folder.name}: {error}; save the extractor there"
        ) from error
    if rate != SAMPLE_RATE:
        raise WeightsError(f"sampling_rate must be {SAMPLE_RATE}, got {rate} in {folder.name}; use a model of that rate")
    return front


def _front(settings: dict[str, Any], model_type: str) -> Front:
    normalize = bool(settings.get("do_normalize", True))
    if model_type in WAVEFORM_MODELS:
        return Front("waveform", normalize)
    return Front(
        "filter_bank",
        normalize,
        bins=int(settings.get("num_mel_bins", 128)),
        frames=int(settings.get("max_length", 1024)),
        mean=float(settings.get("mean", -4.2677393)),
        deviation=float(settings.get("std", 4.5689974)),
    )
