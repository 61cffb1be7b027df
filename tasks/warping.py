"""Alignment of twins whose lag drifts or jumps: dynamic time warping onto the spoof's grid, within a band around the constant lag.

After Sakoe and Chiba 1978 (doi:10.1109/TASSP.1978.1163055), asymmetric: every frame of the spoof gets one frame of the recording, so the
mask keeps the spoof's grid. The recording may be held (a silence that the copy inserted) or skipped (one that it lost). The path runs on
band envelopes at a 4-ms hop; between jumps its lag is then refined by local correlation at 1 ms.

The constant lag stays where it is good enough: the path is taken only where local lags leave it by more than 3 ms for a twentieth of the
speech, and only if it leaves at most half of that.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xaibench.errors import PairError
from xaibench.tasks.alignment import MIN_SIMILARITY, align, band_energies, check_twins, similarity
from xaibench.tasks.dtw import path_lags, refined
from xaibench.tasks.local_lags import HOP, Floats, residuals

VERSION = "alignment-v2"
DRIFT_MS = 3.0
"""A 95th percentile of local lags beyond it asks for a path: 2 ms cost a fifth of a mask (docs/masks.md), local lags scatter by 1 to 2."""
MIN_MATCHED = 0.93
"""Share of windows with speech that must find their twin near the constant lag (real twins: .96 and above); fewer ask for a path, since the
lag may have jumped."""
MAX_RESIDUAL_MS = 20.0
"""Residual that stays after the path (95th percentile) beyond which twins are refused: they are not frame by frame the same speech."""
MAX_LENGTH_RATIO = 1.25
TRY_SIMILARITY = 0.38
"""Envelope correlation at the best constant lag from which a path is tried; other words stay under it (.37 in 80 pairs)."""
PATH_SIMILARITY = 0.84
"""What a path must reach where no constant lag makes twins: real ones with a pause inserted in their middle have .85 and above (33 pairs),
the same sentence by another speaker .82 and below (54 pairs)."""

OVERSAMPLING = 8
FADE = 256

Knots = tuple[tuple[int, int], ...]
"""Spoof sample and lag there, in samples; linear in between, two knots at one sample are a jump."""


NUMBERS = ("score", "residual_p50_ms", "residual_p95_ms", "matched", "constant_p95_ms")


@dataclass(frozen=True)
class Alignment:
    """How two twins lie to each other."""

    lag: int
    """Constant lag in samples, positive where the spoof is late."""
    score: float
    """Envelope correlation at that lag, or along the path."""
    residual_p50_ms: float
    """Median distance of local lags from the lags that are used; NaN where no window has enough speech."""
    residual_p95_ms: float
    matched: float = 1.0
    """Share of the windows with speech that find their twin within 40 ms of the lags that are used."""
    knots: Knots = ()
    """The path, where the lag drifts; empty where one lag is enough."""
    constant_p95_ms: float = float("nan")
    """What the constant lag alone would leave."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values; undefined ones are None."""
        numbers = {n: getattr(self, n) for n in NUMBERS}
        return {"lag": self.lag, "knots": list(map(list, self.knots)), **{n: v if np.isfinite(v) else None for n, v in numbers.items()}}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "Alignment":
        """Undo ``as_json``."""
        numbers = {n: float("nan") if v is None else v for n, v in value.items() if n not in ("lag", "knots")}
        return cls(lag=value["lag"], knots=tuple((int(a), int(b)) for a, b in value["knots"]), **numbers)


def measure(bonafide: Tensor, spoof: Tensor) -> Alignment:
    """Align two recordings: one lag where that is enough, else a path.

    Args:
        bonafide: Real recording, (T,), 16 kHz.
        spoof: Vocoded twin, (T',), 16 kHz.

    Raises:
        PairError: With the number that shows why, if they are not twins: silence, other lengths, other speech, or a residual over 20 ms.
    """
    score, lag = _similar(bonafide, spoof)
    real, fake = _energies(bonafide), _energies(spoof)
    straight = np.full(fake.shape[1], lag / HOP)
    p50, p95, matched = residuals(real, fake, straight)
    plain = Alignment(lag, score, p50, p95, matched, constant_p95_ms=p95)
    if score >= MIN_SIMILARITY and not p95 > DRIFT_MS and matched >= MIN_MATCHED:
        return plain
    knots = _simplify(refined(real, fake, path_lags(real, fake, lag / HOP)))
    lags = _lags_at(knots, fake.shape[1])
    warped50, warped95, found_again = residuals(real, fake, lags)
    along = _correlation(real, fake, lags)
    lost = max(1 - matched, 1e-9)
    better = warped95 <= p95 / 2 or (1 - found_again <= lost / 2 and warped95 <= max(p95, DRIFT_MS))
    best = Alignment(lag, along, warped50, warped95, found_again, knots, p95) if along > score and better else plain
    least = MIN_SIMILARITY if score >= MIN_SIMILARITY else PATH_SIMILARITY
    if best.score < least:
        found = f"an envelope correlation of {score:.2f} at the best lag and {along:.2f} along the best path (twins reach {least})"
        raise PairError(f"spoof must be the same speech as its twin, got {found}; pair it with its own recording")
    if best.residual_p95_ms > MAX_RESIDUAL_MS:
        found = f"local lags {best.residual_p95_ms:.0f} ms apart (95th percentile; twins stay within {MAX_RESIDUAL_MS:.0f})"
        raise PairError(f"spoof must be frame by frame the speech of its twin, got {found}; pair it with its own recording")
    return best


def _similar(bonafide: Tensor, spoof: Tensor) -> tuple[float, int]:
    """Return similarity and lag; refuse what no path could make twins."""
    if max(len(bonafide), len(spoof)) > MAX_LENGTH_RATIO * min(len(bonafide), len(spoof)):
        check_twins(bonafide, spoof, MAX_LENGTH_RATIO)
    score, lag = similarity(bonafide, spoof)
    if score < TRY_SIMILARITY:
        check_twins(bonafide, spoof, MAX_LENGTH_RATIO)
    return score, lag


def _correlation(real: Floats, fake: Floats, lags: Floats) -> float:
    """Return the envelope correlation along a path, over the frames of the spoof that the recording covers."""
    at = np.round(np.arange(fake.shape[1]) - lags).astype(int)
    inside = (at >= 0) & (at < real.shape[1])
    first, second = real[:, at[inside]], fake[:, inside]
    return float((first * second).sum() / max(np.sqrt(np.square(first).sum() * np.square(second).sum()), 1e-9))


def warped(bonafide: Tensor, knots: Knots, length: int) -> tuple[Tensor, int, int]:
    """Lay a recording onto the spoof's time: ``bonafide(n - lag(n))`` by interpolation, cross-faded over 16 ms where the lag jumps.

    The recording is oversampled eightfold by its spectrum and read between samples in a straight line (0.1 dB lost at 8 kHz), so a drift
    neither clicks nor combs. Nothing is padded: what the recording does not cover is cut off at the ends.

    Args:
        bonafide: (T,).
        knots: The path.
        length: Samples of the spoof, (T',).

    Returns:
        The recording on the spoof's time, and the first and one past the last spoof sample that it covers.

    Raises:
        PairError: If nothing overlaps.
    """
    at = np.arange(length)
    oversampled = _oversampled(bonafide.double().numpy())
    total, weight = np.zeros(length), np.zeros(length)
    for piece in _pieces(knots):
        start, stop = max(0, piece[0][0] - FADE // 2), min(length, piece[-1][0] + FADE // 2)
        inside = at[start:stop]
        source = (inside - _knot_lags(piece, inside)) * OVERSAMPLING
        share = np.minimum(1, np.minimum(inside - (piece[0][0] - FADE // 2) + 1, piece[-1][0] + FADE // 2 - inside) / FADE)
        share = np.where((source >= 0) & (source <= len(oversampled) - OVERSAMPLING), share, 0)
        total[start:stop] += share * np.interp(source, np.arange(len(oversampled)), oversampled)
        weight[start:stop] += share
    covered = np.flatnonzero(weight > 0)
    if len(covered) < 2:
        raise PairError(f"path must leave an overlap of at least 2 samples, got {len(covered)}; check that the two recordings are twins")
    first, last = int(covered[0]), int(covered[-1]) + 1
    found = total[first:last] / np.maximum(weight[first:last], 1e-9)
    return torch.from_numpy(found).to(bonafide.dtype), first, last


def _oversampled(samples: Floats) -> Floats:
    """Return the samples at eight times the rate; mirrored at the ends first, so that the spectrum sees no edge."""
    edge = min(1024, len(samples) - 1)
    mirrored = np.pad(samples, edge, mode="reflect")
    spectrum = np.fft.rfft(mirrored)
    if len(mirrored) % 2 == 0:
        spectrum[-1] /= 2  # at the higher rate it stands for two frequencies
    found: Floats = np.fft.irfft(spectrum, OVERSAMPLING * len(mirrored)) * OVERSAMPLING
    return found[OVERSAMPLING * edge : OVERSAMPLING * (edge + len(samples))]


def _pieces(knots: Knots) -> list[Knots]:
    """Cut a path at its jumps; the first and last pieces go on beyond their ends."""
    cuts = [i + 1 for i, (left, right) in enumerate(pairwise(knots)) if left[0] == right[0]]
    pieces = [list(knots[start:stop]) for start, stop in pairwise([0, *cuts, len(knots)])]
    pieces[0].insert(0, (-FADE, pieces[0][0][1]))
    pieces[-1].append((pieces[-1][-1][0] + FADE, pieces[-1][-1][1]))
    return [tuple(piece) for piece in pieces]


def aligned(bonafide: Tensor, spoof: Tensor, alignment: Alignment) -> tuple[Tensor, Tensor]:
    """Return the twins on one time axis, the spoof's, cropped to their overlap."""
    if not alignment.knots:
        return align(bonafide, spoof, alignment.lag)
    moved, first, last = warped(bonafide, alignment.knots, len(spoof))
    return moved, spoof[first:last]


def _energies(waveform: Tensor) -> Floats:
    found: Floats = band_energies(waveform).double().numpy()
    return found


def _simplify(knots: list[tuple[float, float]]) -> Knots:
    """Turn envelope frames into samples."""
    return tuple((round(at * HOP), round(lag * HOP)) for at, lag in knots)


def _knot_lags(knots: Knots, at: NDArray[np.int64]) -> Floats:
    """Interpolate the lag at spoof samples; at a jump the later knot holds."""
    places, lags = (np.array(column, np.float64) for column in zip(*knots, strict=True))
    places = places + 1e-6 * np.arange(len(places))
    found: Floats = np.interp(at, places, lags)
    return found


def _lags_at(knots: Knots, frames: int) -> Floats:
    return _knot_lags(knots, np.arange(frames) * HOP) / HOP
