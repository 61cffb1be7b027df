"""One clip under one occluder: cells are taken away or kept, and the detector is asked again.

Cells are taken away in the linear magnitude of the clip's STFT; what replaces them is the occluder's (its phase is the clip's own, but
for ``twin_complex`` and ``noise``). The result goes back to a waveform by inverse STFT, and the detector hears that as it would any clip.
Since the inverse is linear, one inverse of the removed part per step serves both curves: deletion is the clip minus the part, insertion
the occluded clip plus the part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xaibench.benchmark.metrics.inputs import check_heatmap, check_mask
from xaibench.benchmark.metrics.occluders import OCCLUDERS, Occluder, Scene
from xaibench.benchmark.metrics.ranking import rank
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, inverse_frames
from xaibench.tasks.spectrogram import stft as transform
from xaibench.types import Detector

Floats = NDArray[np.float64]


BATCH = 16
"""Clips per forward on an accelerator; on a CPU the detector says which number is fastest."""


def _nothing() -> Floats:
    return np.empty(0)


class ProbeOptions(TypedDict, total=False):
    """Keyword arguments of ``Probe``."""

    occluder: str | Occluder
    valid: Any
    valid_samples: int | None
    twin: Tensor | None
    references: Tensor | None
    stft: STFTConfig
    seed: int


@dataclass(frozen=True)
class Curves:
    """Spoof log-odds of one clip while cells are removed or restored."""

    occluder: str
    fractions: Floats
    """(K + 1,) shares of the valid cells, 0 to 1 in equal steps."""
    deletion: Floats
    """(K + 1,) most relevant cells removed first."""
    insertion: Floats
    """(K + 1,) most relevant cells restored first into the occluded clip."""
    random_deletion: Floats
    """(K + 1,) cells removed in a random order, the same for every heatmap of the clip."""
    random_insertion: Floats
    budgets: tuple[float, ...] = ()
    """Further shares, at which only the most relevant cells are kept or removed."""
    masked_in: Floats = field(default_factory=_nothing)
    """(budgets,) log-odds of the kept cells alone."""
    masked_out: Floats = field(default_factory=_nothing)
    """(budgets,) log-odds without them."""
    random_in: Floats = field(default_factory=_nothing)
    random_out: Floats = field(default_factory=_nothing)
    soft: tuple[float, float] | None = None
    """Log-odds of the clip times the min-max scaled heatmap, and times its complement."""

    @property
    def least_first(self) -> Floats:
        """(K + 1,) least relevant cells removed first: the insertion curve from its end."""
        return self.insertion[::-1]

    @property
    def original(self) -> float:
        """Log-odds of the clip as it is."""
        return float(self.deletion[0])

    @property
    def occluded(self) -> float:
        """Log-odds with every valid cell occluded."""
        return float(self.deletion[-1])

    @property
    def masked_scores(self) -> Floats:
        """Log-odds of all distinct inputs but the clip itself that this heatmap and occluder produced."""
        return np.concatenate([self.deletion[1:], self.insertion[1:-1], self.masked_in, self.masked_out])


class Probe:
    """One clip, one detector and one occluder, on which any number of heatmaps are tried; end points and random order are computed once.

    Args:
        waveform: The clip, (T,).
        detector: In ``eval()`` mode; runs without gradients, on its own device, ``batch`` clips at a time.
        occluder: Name, spec (``"floor:level_db=-50"``) or instance.
        valid: Cells that may be occluded, (F, N) bool; all by default.
        valid_samples: Where tiling began; masked clips are tiled again from there, so that no copy keeps what was removed.
        twin: The real recording, (T,), for the twin occluders.
        references: Bona fide recordings, (R, T), for the mean occluder.
        stft: The grid.
        seed: Of the random order and of random occluders.

    Raises:
        ValueError: If a shape is wrong, or the occluder lacks what it needs.
    """

    def __init__(
        self,
        waveform: Tensor,
        detector: Detector,
        *,
        occluder: str | Occluder = "zero",
        valid: Any = None,
        valid_samples: int | None = None,
        twin: Tensor | None = None,
        references: Tensor | None = None,
        stft: STFTConfig = DEFAULT_STFT,
        seed: int = 0,
    ):
        if waveform.ndim != 1:
            raise ValueError(f"waveform must be one clip (T,), got shape {tuple(waveform.shape)}; pass clips one at a time")
        if twin is not None and twin.shape != waveform.shape:
            raise ValueError(f"twin must have waveform's shape {tuple(waveform.shape)}, got {tuple(twin.shape)}; align and crop the pair")
        self.detector, self.config, self.seed = detector, stft, seed
        self.device = next((p.device for p in detector.parameters()), waveform.device)
        self.batch = detector.cpu_batch if self.device.type == "cpu" else BATCH
        self.waveform = waveform.detach().to(self.device, torch.float32)
        self.valid_samples = valid_samples or len(waveform)
        self.occluder: Occluder = OCCLUDERS.load(occluder) if isinstance(occluder, str) else occluder
        self.shape = (stft.bins, stft.frames(len(waveform)))
        self.valid = np.ones(self.shape, np.bool_) if valid is None else check_mask(valid, self.shape, "valid")
        self.cells = int(self.valid.sum())
        self._numbers = np.arange(self.valid.size).reshape(self.shape[::-1]).T[self.valid]  # of the valid cells, frame by frame
        with torch.inference_mode():
            spectrum = transform(self.waveform, stft)
            scene = Scene(spectrum, self._moved(twin), self._moved(references), stft, seed)
            change = spectrum - self.occluder(scene)
            self.change = torch.where(torch.tensor(self.valid, device=self.device), change, torch.zeros_like(change))
            self._frames = self.change.T.contiguous()  # frame by frame, as the inverse transform reads it
            self.blank = self.waveform - inverse_frames(self._frames[None], len(waveform), stft)[0]
        self._ends: Floats | None = None
        self._random: dict[tuple[float, ...], tuple[Floats, Floats]] = {}

    def _moved(self, clips: Tensor | None) -> Tensor | None:
        return None if clips is None else clips.detach().to(self.device, torch.float32)

    @property
    def ends(self) -> Floats:
        """Log-odds of the clip and of the fully occluded clip, (2,)."""
        if self._ends is None:
            self._ends = self.log_odds(torch.stack([self.waveform, self._tiled(self.blank)]))
        return self._ends

    def log_odds(self, clips: Tensor) -> Floats:
        """Ask the detector about waveforms (n, T), ``batch`` at a time, (n,)."""
        with torch.inference_mode():
            scores = [self.detector.spoof_logit(part) for part in torch.split(clips, self.batch)] if len(clips) else [clips.new_empty(0)]
            found: Floats = torch.cat(scores).double().cpu().numpy()
        if not np.isfinite(found).all():
            raise ValueError(f"log-odds must be finite, got NaN or infinity under the occluder {self.occluder.name!r}; check the detector")
        return found

    def order(self, heatmap: Any) -> NDArray[np.int64]:
        """Return the valid cells from the most relevant on, as numbers into them in memory order, (cells,).

        Raises:
            ValueError: If the heatmap is not on the clip's grid or not finite.
        """
        values = check_heatmap(heatmap, ndim=2)
        if values.shape != self.shape:
            raise ValueError(f"heatmap must have the clip's grid {self.shape}, got {values.shape}; explain the same clip on the same STFT")
        relevance = values.reshape(-1) if self.cells == values.size else values[self.valid]
        return rank(relevance.astype(np.float32) if values.dtype == np.bool_ else relevance).order

    def follow(self, order: NDArray[np.int64], fractions: Sequence[float]) -> tuple[Floats, Floats]:
        """Remove, and keep alone, the first cells of an order: log-odds without and with them, (fractions,) each."""
        cells = torch.from_numpy(self._numbers[order]).to(self.device)
        counts = np.array([round(q * self.cells) for q in fractions], int)
        clips = self.waveform.new_empty(len(counts), 2, len(self.waveform))
        with torch.inference_mode():
            part, done = torch.zeros_like(self._frames), 0
            for place in np.argsort(counts):  # ascending, so that each cell is copied once
                fresh = cells[done : counts[place]]
                part.view(-1)[fresh] = self._frames.view(-1)[fresh]
                self._blend(part, clips[place])
                done = counts[place]
        scores = self.log_odds(self._tiled(clips.flatten(0, 1))).reshape(-1, 2)
        return scores[:, 0], scores[:, 1]

    def _blend(self, part: Tensor, clips: Tensor) -> None:
        """Write the clip without, then the occluded clip with, a part of the change, (N, F), into ``clips``, (2, T)."""
        moved = inverse_frames(part[None], len(self.waveform), self.config)[0]
        torch.sub(self.waveform, moved, out=clips[0])
        torch.add(self.blank, moved, out=clips[1])

    def _tiled(self, clips: Tensor) -> Tensor:
        samples = clips.shape[-1]
        if self.valid_samples >= samples:
            return clips
        index = torch.arange(samples, device=clips.device) % self.valid_samples
        return clips[..., index]

    def random(self, fractions: Sequence[float]) -> tuple[Floats, Floats]:
        """Follow a random order, drawn from the seed; computed once for all heatmaps."""
        key = tuple(fractions)
        if key not in self._random:
            self._random[key] = self.follow(np.random.default_rng([self.seed, self.cells]).permutation(self.cells), key)
        return self._random[key]

    def curves(self, heatmap: Any, *, steps: int = 10, budgets: Sequence[float] = (), soft: bool = False) -> Curves:
        """Trace deletion and insertion of one heatmap.

        Args:
            heatmap: (F, N), real, finite; larger is more relevant.
            steps: Equal steps from nothing to everything.
            budgets: Further shares of the cells, between 0 and 1, for the confidence metrics.
            soft: Also weigh the clip by the min-max scaled heatmap, as the papers on confidence metrics do.

        Raises:
            ValueError: If an option is out of range, or the heatmap is not on the grid or not finite.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}; use 10")
        if not all(0 < q < 1 for q in budgets):
            raise ValueError(f"budgets must lie between 0 and 1, got {tuple(budgets)}; use for example (0.05,)")
        grid = np.arange(steps + 1) / steps
        wanted = [*grid[1:-1].tolist(), *budgets]
        removed, kept = self.follow(self.order(heatmap), wanted)
        random_removed, random_kept = self.random(wanted)
        first, last = self.ends
        inner = slice(0, steps - 1)
        return Curves(
            occluder=self.occluder.name,
            fractions=grid,
            deletion=np.concatenate([[first], removed[inner], [last]]),
            insertion=np.concatenate([[last], kept[inner], [first]]),
            random_deletion=np.concatenate([[first], random_removed[inner], [last]]),
            random_insertion=np.concatenate([[last], random_kept[inner], [first]]),
            budgets=tuple(budgets),
            masked_in=kept[steps - 1 :],
            masked_out=removed[steps - 1 :],
            random_in=random_kept[steps - 1 :],
            random_out=random_removed[steps - 1 :],
            soft=self.soft(heatmap) if soft else None,
        )

    def soft(self, heatmap: Any) -> tuple[float, float]:
        """Return the log-odds of the clip times the heatmap scaled to [0, 1] by its extremes, and of the rest; a flat map keeps half."""
        values = check_heatmap(heatmap, ndim=2).astype(np.float64)
        low, high = values[self.valid].min(initial=np.inf), values[self.valid].max(initial=-np.inf)
        share = (values - low) / (high - low) if high > low else np.full(self.shape, 0.5)
        weights = torch.from_numpy(np.where(self.valid, share, 0).astype(np.float32)).to(self.device)
        clips = self.waveform.new_empty(2, len(self.waveform))
        with torch.inference_mode():
            self._blend(weights.T * self._frames, clips)
        out, kept = self.log_odds(self._tiled(clips))
        return float(kept), float(out)
