"""Fundamental frequency by normalized autocorrelation and a Viterbi path (Boersma 1993, Proc. IFA 17, 97-110)."""

from dataclasses import dataclass

import numpy as np

from xaibench.tasks.vocoders.frames import Frames, split_frames
from xaibench.tasks.vocoders.vocoder import Samples
from xaibench.types import SAMPLE_RATE

FFT_SIZE = 2048
OCTAVE_COST = 0.03
JUMP_COST = 0.5
VOICING_COST = 0.2


@dataclass(frozen=True)
class PitchTracker:
    """Settings of the tracker; times in seconds, frequencies in Hz."""

    hop: int = 80
    window: int = 640
    low_hz: float = 65.0
    high_hz: float = 450.0
    voicing_threshold: float = 0.45
    candidates: int = 5

    def track(self, samples: Samples) -> tuple[Samples, Samples]:
        """Return F0 in Hz (0 where unvoiced) and harmonicity in [0, 1], both ``(N,)`` with ``N = T // hop + 1``."""
        correlation = self._correlation(samples)
        lags, strength = self._peaks(correlation)
        path = self._viterbi(lags, strength)
        rows = np.arange(path.size)
        lag = np.pad(lags, ((0, 0), (1, 0)))[rows, path]
        harmonicity = np.clip(np.pad(strength, ((0, 0), (1, 0)))[rows, path], 0, 1)
        return np.where(path > 0, SAMPLE_RATE / np.maximum(lag, 1), 0.0), np.where(path > 0, harmonicity, 0.0)

    def _correlation(self, samples: Samples) -> Frames:
        """Autocorrelation of each frame over that of its window, ``(N, lags)``, 1 at lag 0."""
        window = np.hanning(self.window + 2)[1:-1]
        frames = split_frames(samples, self.window, self.hop)
        frames = (frames - frames.mean(1, keepdims=True)) * window
        power = np.fft.irfft(np.abs(np.fft.rfft(frames, FFT_SIZE)) ** 2)
        own = np.fft.irfft(np.abs(np.fft.rfft(window, FFT_SIZE)) ** 2)
        last = int(SAMPLE_RATE / self.low_hz) + 2
        energy = power[:, :1]
        # Frames far under the loudest are noise, whatever their correlation says.
        quiet = energy < 1e-4 * energy.max()
        correlation: Frames = np.where(quiet, 0.0, power[:, :last] / np.maximum(energy, 1e-12) / (own[:last] / own[0]))
        return correlation

    def _peaks(self, correlation: Frames) -> tuple[Frames, Frames]:
        """Return lags (parabolic interpolation) and strengths of the best local maxima, ``(N, K)`` each.

        The strength is -1 where a frame has fewer maxima.
        """
        first = int(SAMPLE_RATE / self.high_hz)
        left, centre, right = correlation[:, first - 1 : -2], correlation[:, first:-1], correlation[:, first + 1 :]
        peak = (centre > left) & (centre >= right) & (centre > 0)
        lag = np.arange(first, first + centre.shape[1])
        score = np.where(peak, centre - OCTAVE_COST * np.log2(lag * self.low_hz / SAMPLE_RATE * 2 + 1e-9), -1.0)
        best = np.argsort(-score, axis=1, kind="stable")[:, : self.candidates]
        pick = [np.take_along_axis(a, best, 1) for a in (left, centre, right, score)]
        curvature = np.minimum(pick[0] - 2 * pick[1] + pick[2], -1e-9)
        shift = np.clip(0.5 * (pick[0] - pick[2]) / curvature, -0.5, 0.5)
        return lag[best] + shift, np.where(pick[3] > -1, pick[3], -1.0)

    def _viterbi(self, lags: Frames, strength: Frames) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return per frame 0 for unvoiced or 1 + index of the candidate on the best path, ``(N,)``."""
        count, _ = lags.shape
        local = np.concatenate([np.full((count, 1), self.voicing_threshold), strength], axis=1)
        log_lag = np.log2(np.maximum(lags, 1.0))
        total, back = local[0].copy(), np.zeros(local.shape, dtype=np.int64)
        for n in range(1, count):
            cost = np.full((local.shape[1], local.shape[1]), VOICING_COST)
            cost[0, 0] = 0.0
            cost[1:, 1:] = JUMP_COST * np.abs(log_lag[n - 1][:, None] - log_lag[n][None, :])
            reach = total[:, None] - cost
            back[n] = reach.argmax(0)
            total = reach.max(0) + local[n]
        path = np.zeros(count, dtype=np.int64)
        path[-1] = total.argmax()
        for n in range(count - 1, 0, -1):
            path[n - 1] = back[n, path[n]]
        return path
