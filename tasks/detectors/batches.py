"""Training batches of twins: both members in the same batch, cut at the same place and disturbed in the same way.

What is equal in both twins cannot tell them apart, so a random gain, spectral tilt and noise floor, drawn once per pair, take the value
from the shortcuts that level, tilt and digital silence would be.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.tasks.augmentation.rawboost import RawBoost
from xaibench.types import SAMPLE_RATE, Clip, Pair, Task

CACHED_CLIPS = 1200
"""Pairs kept in memory, half a megabyte each; the others are read again."""


@dataclass(frozen=True)
class BatchRecipe:
    """How batches are drawn and disturbed; stored in the card of the weights."""

    n_pairs: int = 6
    shortest_s: float = 1.0
    longest_s: float = 3.0
    """Each batch is cut to a random length between the two; pooling makes the answer nearly independent of it."""
    gain_db: float = 12.0
    """Largest change of level, both ways."""
    tilt_db: float = 9.0
    """Largest change of each of the knots of a smooth equalizer over frequency, both ways."""
    n_knots: int = 5
    noise_db: tuple[float, float] = (-75.0, -40.0)
    """Range of the noise floor under the clip's level."""
    noise_share: float = 0.5
    """Share of pairs that get a noise floor."""
    speed: float = 0.0
    """Largest relative change of speed, which shifts pitch and formants: other voices for a training set of few speakers."""
    rawboost: int = 0
    """Number of the RawBoost combination that each pair is drawn, one draw for both twins (``tasks/augmentation``); 0 for none."""
    per_speaker: int = 0
    """Learn from the first so many recordings of each speaker alone; 0 for all."""
    n_empty: int = 2
    """Clips without speech per batch, half silence and noise, half phase-randomized recordings, with the target log-odds 0."""


def beginning(pairs: list[Pair], per_speaker: int) -> list[Pair]:
    """Return the pairs of the first so many recordings of each speaker, by their names; 0 for all."""
    if not per_speaker:
        return pairs
    spoken: dict[str, set[str]] = {}
    for pair in pairs:
        spoken.setdefault(pair.speaker, set()).add(pair.utterance)
    chosen = {utterance for utterances in spoken.values() for utterance in sorted(utterances)[:per_speaker]}
    return [pair for pair in pairs if pair.utterance in chosen]


class PairBatches:
    """An endless stream of disturbed twins, vocoder by vocoder with equal weight.

    Args:
        task: Source of the training split.
        recipe: How to draw and disturb.
        seed: Two streams with equal seeds are equal.

    Raises:
        ValueError: If the task has no training pairs.
    """

    def __init__(self, task: Task, recipe: BatchRecipe, seed: int) -> None:
        self.task = task
        self.recipe = recipe
        self.generator = torch.Generator().manual_seed(seed)
        self.by_vocoder: dict[str, list[Pair]] = {}
        for pair in beginning(task.pairs("train"), recipe.per_speaker):
            self.by_vocoder.setdefault(pair.vocoder, []).append(pair)
        if not self.by_vocoder:
            raise ValueError(f"task must have training pairs, got none in {task.name!r}; choose a task with a train split")
        self._cache: dict[str, Clip] = {}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield waveforms ``(2P + E, T)`` and targets ``(2P + E,)``: P recordings (0), their P spoofs (1), E empty clips (0.5)."""
        while True:
            yield self.batch()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw the next batch."""
        recipe = self.recipe
        clips = [self._draw() for _ in range(recipe.n_pairs)]
        longest = min(int(recipe.longest_s * SAMPLE_RATE), *(len(clip.spoof) for clip in clips))
        shortest = min(int(recipe.shortest_s * SAMPLE_RATE), longest)
        fixed = shortest == longest
        samples = longest if fixed else self._integer(shortest // 256, longest // 256 + 1) * 256  # lengths that transform fast
        twins = torch.stack([self._disturb(self._boost(self._speed(self._cut(clip, samples)))) for clip in clips])  # (P, 2, T)
        empty = [self._empty(twins[i % recipe.n_pairs, 0], i) for i in range(recipe.n_empty)]
        waveform = torch.cat([twins[:, 0], twins[:, 1], *(e[None] for e in empty)])
        targets = [0.0] * recipe.n_pairs + [1.0] * recipe.n_pairs + [0.5] * recipe.n_empty
        return waveform, torch.tensor(targets)

    def _draw(self) -> Clip:
        vocoders = list(self.by_vocoder)
        pairs = self.by_vocoder[vocoders[self._integer(0, len(vocoders))]]
        pair = pairs[self._integer(0, len(pairs))]
        clip = self._cache.get(pair.id) or self.task.load(pair)
        if len(self._cache) < CACHED_CLIPS:
            self._cache[pair.id] = clip
        return clip

    def _cut(self, clip: Clip, samples: int) -> Tensor:
        """Cut both twins at the same place, ``(2, samples)``."""
        offset = self._integer(0, len(clip.spoof) - samples + 1)
        return torch.stack([clip.bonafide, clip.spoof])[:, offset : offset + samples]

    def _speed(self, twins: Tensor) -> Tensor:
        """Play both twins faster or slower; the cut is repeated or shortened to its length, ``(2, T)``."""
        if not self.recipe.speed:
            return twins
        samples = twins.shape[1]
        played = int(samples / (1 + self._uniform(-self.recipe.speed, self.recipe.speed)))
        changed = torch.nn.functional.interpolate(twins[None], size=played, mode="linear", align_corners=True)[0]
        return changed.repeat(1, -(-samples // played))[:, :samples]

    def _boost(self, twins: Tensor) -> Tensor:
        """Apply one draw of RawBoost to both twins, ``(2, T)``."""
        if not self.recipe.rawboost:
            return twins
        boosted = RawBoost(self.recipe.rawboost)(twins[0], twins[1], self.generator)
        return torch.stack([boosted.bonafide, boosted.spoof])

    def _disturb(self, twins: Tensor) -> Tensor:
        """Apply one random equalizer, gain and noise floor to both twins, ``(2, T)``."""
        recipe = self.recipe
        if not any((recipe.tilt_db, recipe.gain_db, recipe.noise_share)):
            return twins
        noise = torch.zeros(twins.shape[1])
        if self._uniform(0, 1) < recipe.noise_share:
            decibels = self._uniform(*recipe.noise_db)
            noise = torch.randn(twins.shape[1], generator=self.generator) * 10 ** (decibels / 20) * twins[0].square().mean().sqrt()
        spectrum = torch.fft.rfft(twins + noise)
        knots = torch.tensor([[[self._uniform(-recipe.tilt_db, recipe.tilt_db) for _ in range(recipe.n_knots)]]])
        curve_db = torch.nn.functional.interpolate(knots, size=spectrum.shape[1], mode="linear", align_corners=True)[0, 0]
        curve_db = curve_db + self._uniform(-recipe.gain_db, recipe.gain_db)
        disturbed: Tensor = torch.fft.irfft(spectrum * 10 ** (curve_db / 20), n=twins.shape[1])
        return disturbed / disturbed.abs().max().clamp(min=1.0)

    def _empty(self, recording: Tensor, index: int) -> Tensor:
        """Return a clip without evidence: the recording's spectrum with random phases, or silence, or noise."""
        if index % 2:
            spectrum = torch.fft.rfft(recording)
            phase = torch.rand(len(spectrum), generator=self.generator) * 2 * torch.pi
            shuffled: Tensor = torch.fft.irfft(torch.polar(spectrum.abs(), phase), n=len(recording))
            return shuffled
        level_db = self._uniform(-120, -20)
        noise = torch.randn(len(recording), generator=self.generator) * 10 ** (level_db / 20)
        return noise if self._uniform(0, 1) < 0.5 else torch.zeros_like(recording)

    def _integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=self.generator))

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))
