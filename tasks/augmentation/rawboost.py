"""RawBoost for twins: one draw per pair, applied to both members with one common gain (Tak et al. 2022, arXiv:2111.04433).

Three disturbances of telephone and codec channels: linear and non-linear convolution (LnL), impulsive signal-dependent noise (ISD), and
stationary signal-independent noise (SSI). "Identical noise vectors for paired samples" (Grinberg et al. 2025, arXiv:2506.03425) means here:
filters, places, factors, noise and its absolute level are drawn once, from a generator and never from global state. Peaks above 1 lower
both twins by the same gain, after each stage, where published code normalizes each recording by its own peak. So equal twins stay equal,
and under SSI the difference of the twins is the clean one times that gain.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xaibench.tasks.augmentation.notch import NotchRanges, amplitude, draw_notch, filtered, uniform
from xaibench.types import Clip

Stage = Literal["lnl", "isd", "ssi", "lnl+isd"]
STAGES: dict[int, tuple[Stage, ...]] = {
    1: ("lnl",),
    2: ("isd",),
    3: ("ssi",),
    4: ("lnl", "isd", "ssi"),
    5: ("lnl", "isd"),
    6: ("lnl", "ssi"),
    7: ("isd", "ssi"),
    8: ("lnl+isd",),
}
"""The published combinations by their numbers: in series, and for 8 in parallel."""


class Boosted(NamedTuple):
    """A disturbed pair."""

    bonafide: Tensor
    """(T,) float32."""
    spoof: Tensor
    """(T,) float32."""
    gain: float
    """Product of the common gains of all stages, at most 1."""


class Impulses(NamedTuple):
    """Where signal-dependent noise falls and how strong it is."""

    positions: Tensor
    """(n,) int64, each at most once."""
    factors: Tensor
    """(n,) float64: added share of the sample's own value."""


@dataclass(frozen=True)
class RawBoostParams:
    """Everything random of one pair; applying it twice gives equal results."""

    filters: tuple[Tensor, ...] = ()
    """LnL: one filter for each power of the signal, the first power first."""
    impulses: Impulses | None = None
    noise: Tensor | None = None
    """SSI: noise of unit norm, (T,) float64."""
    snr_db: float = 0.0
    """SSI: ratio of the recording's norm to the noise's."""


@dataclass(frozen=True)
class RawBoost:
    """Which disturbances, and their ranges; the defaults are those of the published recipe for logical access."""

    algorithm: int = 5
    """1 LnL, 2 ISD, 3 SSI, 4 all in series, 5 LnL then ISD, 6 LnL then SSI, 7 ISD then SSI, 8 LnL and ISD in parallel."""
    notch: NotchRanges = field(default_factory=NotchRanges)
    n_powers: int = 5
    linear_gain_db: tuple[float, float] = (0.0, 0.0)
    nonlinear_bias_db: tuple[float, float] = (5.0, 20.0)
    """How far the gains of all higher powers lie under those of the linear part: least and largest."""
    impulse_percent: float = 10.0
    """Largest share of samples that impulses reach."""
    impulse_gain: float = 2.0
    snr_db: tuple[float, float] = (10.0, 40.0)
    masks: Literal["clean", "augmented"] = "clean"
    """Which pair a mask is made from: on disturbed twins LnL and ISD add differences that no vocoder made."""

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.algorithm not in STAGES:
            raise ValueError(f"algorithm must be 1 to {max(STAGES)}, got {self.algorithm}; use for example 5, LnL then ISD")
        if self.masks not in ("clean", "augmented"):
            raise ValueError(f"masks must be clean or augmented, got {self.masks!r}; use clean")

    def draw(self, samples: int, generator: torch.Generator) -> RawBoostParams:
        """Draw what one pair of ``samples`` samples needs."""
        needed = "+".join(STAGES[self.algorithm])
        return RawBoostParams(
            filters=self._draw_filters(generator) if "lnl" in needed else (),
            impulses=self._draw_impulses(samples, generator) if "isd" in needed else None,
            noise=self._draw_noise(samples, generator) if "ssi" in needed else None,
            snr_db=uniform(self.snr_db, generator) if "ssi" in needed else 0.0,
        )

    def _draw_filters(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        low, high = self.linear_gain_db
        nonlinear = (low - self.nonlinear_bias_db[0], high - self.nonlinear_bias_db[1])
        return tuple(draw_notch(self.notch, (low, high) if power == 1 else nonlinear, generator) for power in range(1, self.n_powers + 1))

    def _draw_impulses(self, samples: int, generator: torch.Generator) -> Impulses:
        count = int(samples * uniform((0.0, self.impulse_percent), generator) / 100)
        positions = torch.randperm(samples, generator=generator)[:count]
        first, second = 2 * torch.rand(2, count, generator=generator, dtype=torch.float64) - 1
        return Impulses(positions, self.impulse_gain * first * second)

    def _draw_noise(self, samples: int, generator: torch.Generator) -> Tensor:
        white = torch.randn(samples, generator=generator, dtype=torch.float64)
        noise = filtered(white, draw_notch(self.notch, self.linear_gain_db, generator))
        unit: Tensor = noise / torch.linalg.vector_norm(noise)
        return unit

    def apply(self, bonafide: Tensor, spoof: Tensor, params: RawBoostParams) -> Boosted:
        """Disturb both twins by what was drawn.

        Args:
            bonafide: Recording, (T,), in [-1, 1].
            spoof: Its twin, (T,).
            params: From ``draw`` with the same number of samples.

        Raises:
            ValueError: If the twins differ in shape, or the draw was for another length.
        """
        if bonafide.ndim != 1 or bonafide.shape != spoof.shape:
            got = f"{tuple(bonafide.shape)} and {tuple(spoof.shape)}"
            raise ValueError(f"bonafide and spoof must both have shape (T,), got {got}; align the pair first")
        samples, drawn = len(bonafide), params.noise
        furthest = int(params.impulses.positions.max()) if params.impulses and len(params.impulses.positions) else 0
        if furthest >= samples or (drawn is not None and len(drawn) != samples):
            raise ValueError(f"params must be drawn for {samples} samples, got a draw for another length; draw with samples={samples}")
        twins, gain = torch.stack([bonafide, spoof]).double(), 1.0
        for stage in STAGES[self.algorithm]:
            twins = STAGE[stage](twins, params)
            lowered = 1 / max(float(twins.abs().max()), 1.0)
            twins, gain = twins * lowered, gain * lowered
        return Boosted(twins[0].float(), twins[1].float(), gain)

    def __call__(self, bonafide: Tensor, spoof: Tensor, generator: torch.Generator) -> Boosted:
        """Draw once and disturb both twins, each (T,)."""
        return self.apply(bonafide, spoof, self.draw(len(bonafide), generator))

    def clip(self, clip: Clip, generator: torch.Generator) -> tuple[Clip, Clip]:
        """Return the disturbed clip that a network hears, and the clip that its mask is made from: the clean one by default."""
        boosted = self(clip.bonafide, clip.spoof, generator)
        heard = replace(clip, bonafide=boosted.bonafide, spoof=boosted.spoof)
        return heard, heard if self.masks == "augmented" else clip


def lnl(twins: Tensor, params: RawBoostParams) -> Tensor:
    """Add filtered powers of the signals ``(2, T)`` and remove each mean."""
    total: Tensor = torch.stack([filtered(twins**power, taps) for power, taps in enumerate(params.filters, start=1)]).sum(0)
    return total - total.mean(dim=1, keepdim=True)


def isd(twins: Tensor, params: RawBoostParams) -> Tensor:
    """Add to some samples of ``(2, T)`` a share of their own value."""
    if params.impulses is None:
        return twins
    scale = torch.ones(twins.shape[1], dtype=twins.dtype)
    scale[params.impulses.positions] += params.impulses.factors
    return twins * scale


def ssi(twins: Tensor, params: RawBoostParams) -> Tensor:
    """Add the same noise to both of ``(2, T)``, at a level that the recording's norm alone decides."""
    if params.noise is None:
        return twins
    level: Tensor = torch.linalg.vector_norm(twins[0]) * amplitude(-params.snr_db)
    return twins + params.noise * level


def parallel(twins: Tensor, params: RawBoostParams) -> Tensor:
    """Add both signal-dependent disturbances of the same ``(2, T)``."""
    return lnl(twins, params) + isd(twins, params)


STAGE: dict[Stage, Callable[[Tensor, RawBoostParams], Tensor]] = {"lnl": lnl, "isd": isd, "ssi": ssi, "lnl+isd": parallel}
