"""A trained network as a vocoder: features of the levelled recording in, a copy of its length out."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from xaibench.tasks.vocoders.neural import weights
from xaibench.tasks.vocoders.neural.features import Condition, levelled, log_mel, pitch
from xaibench.tasks.vocoders.neural.network import Network
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder


@dataclass(frozen=True)
class NeuralVocoder(Vocoder):
    """Base of vocoders trained here; subclasses name their network."""

    network: ClassVar[type[Network]]
    trained: ClassVar[bool] = True

    weights: str = ""
    """File that ``xaibench train vocoder`` wrote; empty for those that ship."""
    device: str = "cpu"

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Generate from mel and, where the network listens to it, F0.

        Raises:
            WeightsError: If there are no weights or they do not fit.
        """
        network = weights.load(weights.locate(self.name, self.weights), self.name, self.network, self.device)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return copy_through(network, torch.from_numpy(samples).float(), generator, self.device).double().numpy()

    def state_hash(self) -> str:
        """Return the hash of the weights file, so that copies are made again when it changes."""
        path = weights.locate(self.name, self.weights)
        return _file_hash(path, path.stat().st_mtime_ns)


def copy_through(network: Network, waveform: torch.Tensor, generator: torch.Generator, device: str = "cpu") -> torch.Tensor:
    """Copy ``(T,)`` through a network; the copy ``(T,)`` has the network's level and lies on the CPU."""
    voice = levelled(waveform)
    f0 = pitch(voice) if network.pitched else torch.zeros(voice.numel() // 200 + 1)
    with torch.inference_mode():
        condition = Condition(log_mel(voice[None]).to(device), f0[None].to(device))
        return network.generate(condition, voice.numel(), [generator])[0].float().cpu()


@lru_cache(maxsize=16)
def _file_hash(path: Path, stamp: int) -> str:  # noqa: ARG001 - the time of change keeps what is remembered true
    return sha256(path.read_bytes()).hexdigest()
