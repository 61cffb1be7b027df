"""torchaudio's WaveRNN with weights of the user's: one sample after another (Kalchbrenner et al. 2018, arXiv:1802.08435).

The sizes are read from the shapes of the weights. Mel bands are those of torchaudio's published LJSpeech weights: 22.05 kHz, windows
of 4 hops in 2048 points, 40 Hz upwards on Slaney's scale, 20 log10 held in [-100, 0] dB and scaled to [0, 1]; output is mu-law.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soxr
import torch
from torch import Tensor

from xaibench.errors import WeightsError
from xaibench.registry import VOCODERS
from xaibench.tasks.detectors.weights import fill, read_checkpoint, read_safetensors
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder
from xaibench.types import SAMPLE_RATE, Weights

MIN_DB = -100.0


@VOCODERS.register("wavernn")
@dataclass(frozen=True)
class WaveRNN(Vocoder):
    """Autoregressive: one evaluation of the network per sample, 22 050 for a second of speech."""

    title: ClassVar[str] = "WaveRNN of torchaudio"
    kind: ClassVar[str] = "neural-autoregressive"
    reference: ClassVar[str] = "Kalchbrenner et al. 2018, arXiv:1802.08435"
    trained: ClassVar[bool] = True

    weights: str = ""
    """State dict of ``torchaudio.models.WaveRNN``, as safetensors or as a checkpoint of plain tensors."""
    sample_rate: int = 22_050

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Generate sample by sample.

        Raises:
            WeightsError: If there are no weights or they are not those of a WaveRNN.
        """
        from torchaudio.functional import mu_law_decoding

        model, hop, bands = _load(self._path(), self._path().stat().st_mtime_ns)
        voice = torch.from_numpy(soxr.resample(samples, SAMPLE_RATE, self.sample_rate, quality="VHQ")).float()
        peak = voice.abs().max()
        mel = normalised_mel(voice / peak, self.sample_rate, hop, bands)
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            generated, _ = model.infer(mel[None])
            wave = mu_law_decoding(torch.round((generated[0, 0] + 1) / 2 * (model.n_classes - 1)), model.n_classes)
        copied: Samples = soxr.resample(wave.double().numpy(), self.sample_rate, SAMPLE_RATE, quality="VHQ")
        return copied

    def state_hash(self) -> str:
        """Return the hash of the weights file."""
        return sha256(self._path().read_bytes()).hexdigest()

    def _path(self) -> Path:
        path = Path(self.weights).expanduser()
        if not self.weights or not path.is_file():
            raise WeightsError(f"weights of wavernn must be a file, got {self.weights!r}; save a state dict and pass wavernn:weights=FILE")
        return path


def normalised_mel(waveform: Tensor, rate: int, hop: int, bands: int) -> Tensor:
    """Return ``(bands, N)`` in [0, 1] of ``(T,)``."""
    from torchaudio.functional import melscale_fbanks

    spectrum = torch.stft(waveform, 2048, hop, 4 * hop, torch.hann_window(4 * hop), center=True, return_complex=True).abs()
    filters = melscale_fbanks(1025, 40.0, rate / 2, bands, rate, norm="slaney", mel_scale="slaney")
    level = 20 * torch.log10((filters.T @ spectrum).clamp(min=1e-5))
    scaled: Tensor = ((level - MIN_DB) / -MIN_DB).clamp(0, 1)
    return scaled


def sizes(state: Weights) -> dict[str, Any]:
    """Read the arguments of ``torchaudio.models.WaveRNN`` from the shapes of its weights.

    Raises:
        WeightsError: If they are not those of a WaveRNN.
    """
    resnet, layers = "upsample.resnet.melresnet_model", "upsample.upsample_layers"
    try:
        first = state[f"{resnet}.0.weight"]
        blocks = [k for k in state if k.startswith(resnet) and k.endswith(".resblock_model.0.weight")]
        last = max(int(k.split(".")[3]) for k in state if k.startswith(resnet) and k.count(".") == 4)
        kernels = sorted((int(k.split(".")[2]), t.shape[-1]) for k, t in state.items() if k.startswith(layers) and k.endswith("weight"))
        scales = [(width - 1) // 2 for _, width in kernels]
        return {
            "upsample_scales": scales,
            "n_classes": state["fc3.weight"].shape[0],
            "hop_length": math.prod(scales),
            "n_res_block": len(blocks),
            "n_rnn": state["rnn1.weight_hh_l0"].shape[1],
            "n_fc": state["fc1.weight"].shape[0],
            "kernel_size": first.shape[2],
            "n_freq": first.shape[1],
            "n_hidden": first.shape[0],
            "n_output": state[f"{resnet}.{last}.weight"].shape[0],
        }
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"weights must be the state dict of torchaudio.models.WaveRNN, got {error} missing; pass its file") from error


@lru_cache(maxsize=2)
def _load(path: Path, stamp: int) -> tuple[Any, int, int]:  # noqa: ARG001 - the time of change keeps what is remembered true
    from torchaudio.models import WaveRNN as Model

    state = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_checkpoint(path)
    found = sizes(state)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and overwritten
        model = Model(**found)
    fill(model, state, path.name)
    return model.eval(), found["hop_length"], found["n_freq"]
