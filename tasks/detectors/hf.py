"""Any audio classifier of Hugging Face's transformers, from a folder on this machine, as a detector.

The folder is what ``save_pretrained`` wrote for the model and its feature extractor. Nothing is fetched and no code of the folder is run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaibench.errors import MissingExtraError, WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.hf_front import Front, front_of
from xaibench.tasks.detectors.hf_labels import spoof_labels
from xaibench.types import Detector

PLACES = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Entries of a configuration that change no answer."""


@dataclass(frozen=True)
class HFConfig:
    """What decides the answer beside the weights; part of the fingerprint."""

    model: str
    """Configuration of the model, as JSON."""
    front: Front
    spoof: tuple[int, ...]
    """Numbers of the classes that mean spoof."""
    sign: int = 1
    """-1 where the only output is a log-odds of bona fide."""


@DETECTORS.register("hf")
class HuggingFaceDetector(Detector):
    """A model of ``AutoModelForAudioClassification`` that hears 16 kHz waveforms or AST's filter banks.

    Args:
        weights: Folder with ``config.json``, ``preprocessor_config.json`` and the weights.
        spoof: Label that means spoof, several joined by ``+``; by default found by name (``hf_labels``).
    """

    def __init__(self, weights: str | Path = "", spoof: str = "") -> None:
        super().__init__()
        folder = Path(weights).expanduser()
        if not str(weights) or not (folder / "config.json").is_file():
            raise WeightsError(f"weights of hf must be a folder with config.json, got {str(weights)!r}; use hf:weights=DIR,spoof=LABEL")
        model = _load(folder)
        labels = {int(number): str(label) for number, label in model.config.id2label.items()}
        chosen, sign = spoof_labels(labels, spoof)
        settings = {key: value for key, value in model.config.to_dict().items() if key not in PLACES}
        front = front_of(folder, model.config.model_type)
        self.config = HFConfig(json.dumps(settings, sort_keys=True, default=str), front, chosen, sign)
        self.model = model
        self.eval()

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-odds that each clip ``(B, T)`` is spoof, ``(B,)``: the spoof classes against all others."""
        logits: Tensor = self.model(input_values=self.config.front(waveform)).logits
        if logits.shape[1] == 1:
            return self.config.sign * logits[:, 0]
        others = [c for c in range(logits.shape[1]) if c not in self.config.spoof]
        return logits[:, list(self.config.spoof)].logsumexp(dim=1) - logits[:, others].logsumexp(dim=1)

    def hidden_states(self, waveform: Tensor) -> Tensor:
        """Return what transformers calls hidden states, ``(L, B, N', D)``, without the first: the input of the first block."""
        states = self.model(input_values=self.config.front(waveform), output_hidden_states=True).hidden_states
        return torch.stack(states[1:])


def _load(folder: Path) -> Any:
    """Load the model in float32 with attention as plain matrix products.

    Raises:
        MissingExtraError: If transformers is not installed.
        WeightsError: If the folder cannot be read, or its weights do not fit key by key.
    """
    try:
        from transformers import AutoModelForAudioClassification
    except ImportError as error:
        raise MissingExtraError("detector hf needs transformers; run: pip install 'xaibench[hf]'") from error
    options = {"local_files_only": True, "trust_remote_code": False, "attn_implementation": "eager", "dtype": torch.float32}
    with _quiet(), torch.random.fork_rng(devices=[]):
        try:
            model, found = AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True, **options)
        except Exception as error:  # transformers raises its own, safetensors', JSON and value errors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"weights must be a readable audio classifier, got {folder.name}: {reason}; save it again") from error
    faults = {kind: sorted(map(str, found.get(f"{kind}_keys") or ())) for kind in ("missing", "unexpected", "mismatched")}
    told = "; ".join(f"{len(keys)} {kind} keys: {', '.join(keys)}" for kind, keys in faults.items() if keys)
    if told:
        raise WeightsError(f"weights must fit the classifier key by key, got {folder.name} with {told}; give a fine-tuned classifier")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars and advice, and give both back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
