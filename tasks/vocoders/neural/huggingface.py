"""Vocoders of Hugging Face transformers from a local folder: SpeechT5's HiFi-GAN and UnivNet; nothing is downloaded or unpickled.

Features are made by the extractor that belongs to the model, with the settings that lie beside it or else its defaults.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soxr
import torch

from xaibench.errors import MissingExtraError, WeightsError
from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder
from xaibench.types import SAMPLE_RATE

CLASSES = {
    "speecht5_hifigan": ("SpeechT5HifiGan", "SpeechT5FeatureExtractor"),
    "univnet": ("UnivNetModel", "UnivNetFeatureExtractor"),
}


@VOCODERS.register("huggingface")
@dataclass(frozen=True)
class HuggingFace(Vocoder):
    """A vocoder that ``save_pretrained`` wrote."""

    title: ClassVar[str] = "Hugging Face vocoder (SpeechT5 HiFi-GAN, UnivNet)"
    kind: ClassVar[str] = "neural-gan-pretrained"
    reference: ClassVar[str] = "Kong et al. 2020, arXiv:2010.05646; Jang et al. 2021, arXiv:2106.07889"
    trained: ClassVar[bool] = True

    folder: str = ""
    """Folder with ``config.json`` and ``model.safetensors``."""

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Extract features at the model's rate and generate.

        Raises:
            MissingExtraError: If transformers is not installed.
            WeightsError: If the folder holds no vocoder that is known here.
        """
        folder = self._path()
        model, extractor = _load(folder, folder.stat().st_mtime_ns)
        rate = int(extractor.sampling_rate)
        voice = soxr.resample(samples / np.abs(samples).max(), SAMPLE_RATE, rate, quality="VHQ").astype(np.float32)
        with torch.inference_mode():
            if model.config.model_type == "univnet":
                features = extractor(voice, sampling_rate=rate, generator=rng, return_tensors="pt")
                wave = model(features["input_features"], features["noise_sequence"]).waveforms[0]
            else:
                features = extractor(audio_target=voice, sampling_rate=rate, return_tensors="pt")
                wave = model(features["input_values"][0])
        copied: Samples = soxr.resample(wave.double().numpy(), rate, SAMPLE_RATE, quality="VHQ")
        return copied

    def state_hash(self) -> str:
        """Return the hash of the weights file."""
        return sha256((self._path() / "model.safetensors").read_bytes()).hexdigest()

    def _path(self) -> Path:
        folder = Path(self.folder).expanduser()
        if not self.folder or not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
            raise WeightsError(
                f"folder must hold config.json and model.safetensors, got {self.folder!r}; save the vocoder with save_pretrained and pass "
                "huggingface:folder=DIR"
            )
        return folder


@lru_cache(maxsize=2)
def _load(folder: Path, stamp: int) -> tuple[Any, Any]:  # noqa: ARG001 - the time of change keeps what is remembered true
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in CLASSES:
        raise WeightsError(f"folder must hold one of {', '.join(CLASSES)}, got {kind!r} in {folder.name}; use another vocoder")
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("vocoder 'huggingface' needs transformers; run `pip install 'xaibench[hf]'`") from error
    model_class, extractor_class = (getattr(transformers, name) for name in CLASSES[kind])
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and overwritten
            model = model_class.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"folder must hold a whole {kind}, got {folder.name}: {error}; save it again") from error
    if (folder / "preprocessor_config.json").is_file():
        extractor = extractor_class.from_pretrained(folder, local_files_only=True)
    else:
        bands = model.config.model_in_dim if kind == "speecht5_hifigan" else model.config.num_mel_bins
        extractor = extractor_class(num_mel_bins=bands)
    _require_one_hop(model, extractor, folder.name)
    return model.eval(), extractor


def _require_one_hop(model: Any, extractor: Any, folder: str) -> None:
    """Refuse an extractor whose frames are not those that the model turns into samples."""
    config = model.config
    made = int(np.prod(config.upsample_rates if config.model_type == "speecht5_hifigan" else config.resblock_stride_sizes))
    given = int(extractor.hop_length * (extractor.sampling_rate // 1000 if config.model_type == "speecht5_hifigan" else 1))
    if made != given:
        raise WeightsError(
            f"folder must hold a model of the extractor's hop, {given} samples, got {made} in {folder}; add its preprocessor"
        )
