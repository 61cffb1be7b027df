"""What stands in a time-frequency cell that is taken away: each occluder fills the whole grid, and the curves blend it in cell by cell.

The choice decides rankings (Blücher et al. 2024, arXiv:2401.06654), so there are several, and every curve says how far its occluder takes
the detector out of the scores it gives to known clips. A third party adds one through the entry-point group of this module's name.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xaibench.registry import Registry
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude, stft

OCCLUDERS = Registry("occluder", "xaibench.benchmark.metrics.occluders")
_occluder = OCCLUDERS.register


@dataclass(frozen=True)
class Scene:
    """What an occluder may draw on."""

    spectrum: Tensor
    """(F, N) complex, of the clip."""
    twin: Tensor | None = None
    """(T,) the real recording behind the clip, aligned and level-matched."""
    references: Tensor | None = None
    """(R, T) bona fide recordings of the training split."""
    config: STFTConfig = DEFAULT_STFT
    seed: int = 0

    @property
    def phase(self) -> Tensor:
        """Unit phasors of the clip, (F, N) complex; 1 where a cell is zero."""
        return torch.polar(torch.ones_like(self.spectrum.real), self.spectrum.angle())


@dataclass(frozen=True)
class Occluder(ABC):
    """A replacement for every cell of a clip; fields are its options."""

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    needs: ClassVar[frozenset[Literal["twin", "references"]]] = frozenset()

    def __call__(self, scene: Scene) -> Tensor:
        """Return the replacement, (F, N) complex.

        Raises:
            ValueError: If the scene lacks what the occluder needs.
        """
        for need in sorted(self.needs):
            if getattr(scene, need) is None:
                raise ValueError(f"{need} must be given for the occluder {self.name!r}, got None; pass it or choose 'zero'")
        return self.fill(scene)

    @abstractmethod
    def fill(self, scene: Scene) -> Tensor:
        """Return the replacement, (F, N) complex; what ``needs`` names is present."""


@_occluder("zero")
@dataclass(frozen=True)
class Zero(Occluder):
    """Silence; far from all speech, so detectors often leave their range."""

    title = "silence"

    def fill(self, scene: Scene) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(scene.spectrum)


@_occluder("floor")
@dataclass(frozen=True)
class Floor(Occluder):
    """A level far below the clip's maximum, in the clip's phase; quieter cells stay, so that nothing is ever added."""

    title = "noise floor"
    level_db: float = -60.0

    def fill(self, scene: Scene) -> Tensor:
        """Return the clip with every cell lowered to the floor."""
        level = scene.spectrum.abs()
        return scene.phase * torch.minimum(level, level.max() * 10 ** (self.level_db / 20))


@_occluder("mean")
@dataclass(frozen=True)
class Mean(Occluder):
    """The mean magnitude of each frequency over the references, in the clip's phase."""

    title = "mean spectrum"
    needs = frozenset({"references"})

    def fill(self, scene: Scene) -> Tensor:
        """Return a stationary spectrum."""
        if scene.references is None:
            raise ValueError("references must be given, got None; pass bona fide recordings")
        spectrum = magnitude(scene.references, scene.config).mean((0, 2))
        return scene.phase * spectrum[:, None]


@_occluder("noise")
@dataclass(frozen=True)
class Noise(Occluder):
    """Gaussian noise with the clip's own mean power in each frequency: the long-term spectrum stays, everything local goes."""

    title = "shaped noise"

    def fill(self, scene: Scene) -> Tensor:
        """Return noise drawn from the scene's seed."""
        power = scene.spectrum.abs().square().mean(1, keepdim=True)
        generator = torch.Generator().manual_seed(scene.seed)
        noise = torch.randn(scene.spectrum.shape, dtype=scene.spectrum.dtype, generator=generator)
        return noise.to(scene.spectrum.device) * power.sqrt()


@_occluder("twin_complex")
@dataclass(frozen=True)
class TwinComplex(Occluder):
    """The real recording's cell, magnitude and phase: the only occluder that leads to a natural clip, and only paired data allow it."""

    title = "bona fide twin"
    needs = frozenset({"twin"})

    def fill(self, scene: Scene) -> Tensor:
        """Return the twin's spectrum."""
        if scene.twin is None:
            raise ValueError("twin must be given, got None; pass the real recording")
        return stft(scene.twin, scene.config)


@_occluder("twin_magnitude")
@dataclass(frozen=True)
class TwinMagnitude(Occluder):
    """The real recording's magnitude in the clip's phase; detectors of raw waveforms may hear the mismatch as a worse fake."""

    title = "twin's magnitude"
    needs = frozenset({"twin"})

    def fill(self, scene: Scene) -> Tensor:
        """Return the twin's magnitude with the clip's phase."""
        if scene.twin is None:
            raise ValueError("twin must be given, got None; pass the real recording")
        return scene.phase * magnitude(scene.twin, scene.config)
