"""Alignment of twins: one constant lag from spectral envelopes, crop to the overlap, equal level, and refusal of false twins.

Vocoders do not keep phase, so waveforms are never compared: twins are aligned by the normalised cross-correlation of their band energies
(40 bands, 1-ms hop, logarithmic, mean removed per band), summed over bands, with the peak interpolated between hops.
"""

import torch
from torch import Tensor

from xaibench.errors import PairError
from xaibench.types import SAMPLE_RATE

MAX_LAG_S = 0.5
"""Largest lag that is searched, either way."""
MIN_OVERLAP_S = 0.25
"""Shortest overlap from which a lag is estimated."""
MIN_SIMILARITY = 0.7
"""Envelope correlation under which two recordings are not twins; real twins have .83 to 1, other speech under .69 (docs/masks.md)."""
SILENCE_RMS = 1e-4
_HOP = 16
_WINDOW = 512
_BANDS = 40
_RANGE_DB = 35.0  # below it noise decides, and vocoders make their own noise
_LISTEN_S = 20.0


def constant_lag(bonafide: Tensor, spoof: Tensor) -> int:
    """Estimate by how many samples the spoof is late.

    Args:
        bonafide: Real recording, (T,), 16 kHz.
        spoof: Vocoded twin, (T',), 16 kHz.

    Returns:
        Lag in samples at 16 kHz: ``spoof[n + lag]`` sounds like ``bonafide[n]``; positive where the spoof is late.

    Raises:
        PairError: If one is silent or shorter than a quarter of a second.
    """
    return _best_lag(bonafide, spoof)[0]


def similarity(bonafide: Tensor, spoof: Tensor) -> tuple[float, int]:
    """Return the band-envelope correlation at the best lag, in [-1, 1] and 1 for equal speech, and that lag in samples."""
    lag, value = _best_lag(bonafide, spoof)
    return value, lag


def align(bonafide: Tensor, spoof: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Crop twins to their overlap; nothing is padded, since digital silence would give the class away.

    Args:
        bonafide: (T,).
        spoof: (T',).
        lag: Samples by which the spoof is late.

    Raises:
        PairError: If nothing overlaps.
    """
    bonafide, spoof = bonafide[max(0, -lag) :], spoof[max(0, lag) :]
    length = min(len(bonafide), len(spoof))
    if length < 2:
        raise PairError(f"lag must leave an overlap of at least 2 samples, got {lag}; check that the two recordings are twins")
    return bonafide[:length], spoof[:length]


def match_level(bonafide: Tensor, spoof: Tensor) -> Tensor:
    """Scale the spoof ``(T,)`` to the RMS of its twin; peaks may then exceed 1, since clipping would be a new artifact.

    Raises:
        PairError: If one of them is silent.
    """
    _require_sound(bonafide, spoof)
    gain = bonafide.double().square().mean().sqrt() / spoof.double().square().mean().sqrt()
    return spoof * gain.to(spoof.dtype)


def check_twins(bonafide: Tensor, spoof: Tensor, max_length_ratio: float = 1.2) -> float:
    """Make sure that two recordings are the same speech; return their envelope correlation at the best lag.

    Another speaker is told by another rhythm: a converted voice that keeps every frame in place would pass.

    Args:
        bonafide: Real recording, (T,), 16 kHz.
        spoof: Supposed twin, (T',), 16 kHz.
        max_length_ratio: Largest ratio of their lengths.

    Raises:
        PairError: With the number that shows why: silence, lengths that differ by more than a fifth, or envelopes that do not correlate.
    """
    _require_sound(bonafide, spoof)
    seconds, twin = len(spoof) / SAMPLE_RATE, len(bonafide) / SAMPLE_RATE
    if max(seconds, twin) > max_length_ratio * min(seconds, twin):
        raise PairError(f"spoof must last about as long as its twin, got {seconds:.2f} s and {twin:.2f} s; pair it with its own recording")
    value, _ = similarity(bonafide, spoof)
    if value < MIN_SIMILARITY:
        found = f"an envelope correlation of {value:.2f} (twins reach {MIN_SIMILARITY})"
        raise PairError(f"spoof must be the same speech as its twin, got {found}; pair it with its own recording")
    return value


def _require_sound(bonafide: Tensor, spoof: Tensor) -> None:
    for label, waveform in (("bonafide", bonafide), ("spoof", spoof)):
        if waveform.ndim != 1:
            raise ValueError(f"{label} must be one row of samples (T,), got shape {tuple(waveform.shape)}; pass a single clip")
        seconds = len(waveform) / SAMPLE_RATE
        if seconds < MIN_OVERLAP_S:
            raise PairError(f"{label} must last at least {MIN_OVERLAP_S} s, got {seconds:.3f} s; use a longer recording")
        rms = float(waveform.double().square().mean().sqrt())
        if not rms > SILENCE_RMS:
            raise PairError(f"{label} must not be silent, got an RMS of {rms:.1e}; check the file")


def _best_lag(bonafide: Tensor, spoof: Tensor) -> tuple[int, float]:
    _require_sound(bonafide, spoof)
    real, fake = (band_energies(w) for w in _loudest_part(bonafide, spoof))
    correlation = _correlate(real, fake)
    reach = len(correlation) // 2
    peak = int(correlation.argmax())
    value = float(correlation[peak])
    offset = 0.0
    if 0 < peak < len(correlation) - 1:
        left, right = float(correlation[peak - 1]), float(correlation[peak + 1])
        curve = left - 2 * value + right
        offset = 0.5 * (left - right) / curve if curve < 0 else 0.0
    return round((peak - reach + offset) * _HOP), value


def _loudest_part(bonafide: Tensor, spoof: Tensor) -> tuple[Tensor, Tensor]:
    """Cut long recordings to the 20 s where they are loudest together: a constant lag needs no more, and memory stays bounded."""
    length, shared = round(_LISTEN_S * SAMPLE_RATE), min(len(bonafide), len(spoof))
    if shared <= length:
        return bonafide[: shared + length], spoof[: shared + length]
    seconds = shared // SAMPLE_RATE
    power = sum((w[:shared].square() / w[:shared].square().mean().clamp(min=1e-12) for w in (bonafide, spoof)), torch.zeros(shared))
    steps = power[: seconds * SAMPLE_RATE].double().reshape(seconds, SAMPLE_RATE).sum(1)
    sums = torch.cat([torch.zeros(1, dtype=steps.dtype), steps.cumsum(0)])
    width = min(round(_LISTEN_S), seconds)
    start = int((sums[width:] - sums[:-width]).argmax()) * SAMPLE_RATE
    return bonafide[start : start + length], spoof[start : start + length]


def band_energies(waveform: Tensor) -> Tensor:
    """Return log band energies ``(40, N)`` at a 1-ms hop, flattening out 35 dB under the loudest cell, mean removed per band.

    The floor is added, not cut: a kink would alias between hops and cost the lag its last samples.
    """
    window = torch.hann_window(_WINDOW)
    spectrum = torch.stft(waveform.float(), _WINDOW, _HOP, window=window, center=True, pad_mode="constant", return_complex=True)
    energy = _filters() @ spectrum.abs().square()
    decibels = 10 * torch.log10(energy / energy.max() + 10 ** (-_RANGE_DB / 10))
    return decibels - decibels.mean(1, keepdim=True)


def _filters() -> Tensor:
    """Return triangular filters equally spaced in mel, ``(40, 257)``."""
    top = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), _BANDS + 2) / 2595) - 1)
    hz = torch.linspace(0, SAMPLE_RATE / 2, _WINDOW // 2 + 1)
    up = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.clamp(torch.minimum(up, down), min=0) + 1e-6


def _correlate(real: Tensor, fake: Tensor) -> Tensor:
    """Correlate ``(40, N)`` and ``(40, N')`` at all lags within reach, each normalised by the energies of its own overlap."""
    shortest = min(real.shape[1], fake.shape[1])
    reach = min(round(MAX_LAG_S * SAMPLE_RATE / _HOP), shortest - round(MIN_OVERLAP_S * SAMPLE_RATE / _HOP))
    reach = max(reach, 0)
    size = 1 << (real.shape[1] + fake.shape[1] - 1).bit_length()

    def cross(first: Tensor, second: Tensor) -> Tensor:
        product = torch.fft.rfft(first, size).conj() * torch.fft.rfft(second, size)
        full = torch.fft.irfft(product.sum(0), size)
        return torch.cat([full[size - reach :], full[: reach + 1]]) if reach else full[:1]

    products = cross(real, fake)
    ones_real, ones_fake = torch.ones(1, real.shape[1]), torch.ones(1, fake.shape[1])
    energy_real = cross(real.square().sum(0, keepdim=True), ones_fake)
    energy_fake = cross(ones_real, fake.square().sum(0, keepdim=True))
    return products / (energy_real * energy_fake).clamp(min=1e-9).sqrt()
