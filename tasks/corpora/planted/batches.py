"""Training batches that teach a detector what it will be tested for: that its log-odds measure the planted area, and nothing else.

Beside recordings and planted clips each batch holds clips of which some quarters are undone, and decoys: edits of equal area and energy
without an artifact, or holes. All are disturbed alike. The target log-odds rise with the planted area, 5 % of the cells lifting a
recording from -3 to +3: then a part of the region does a part of the work, and no part can be idle. What a clip says without a plant is
to come from nothing at all: idle evidence, for and against at once, is penalized, and so is maximum pooling, which hears one place only.
"""

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from xaibench.tasks.audio import tile
from xaibench.tasks.corpora.planted.kinds import Kind
from xaibench.tasks.corpora.planted.plant import DECOYS, GRADES, Planted, decoy, plant, undo
from xaibench.tasks.corpora.planted.region import draw_region
from xaibench.tasks.detectors.batches import BatchRecipe, PairBatches
from xaibench.tasks.spectrogram import DEFAULT_STFT
from xaibench.types import CLIP_SAMPLES, Task

REST = -3.0
"""Target log-odds of a recording."""
LIFT = 6.0
"""Target rise for an artifact on 5 % of the cells."""
IDLE, PEAK = 0.1, 0.01
"""Weights of the penalties on mean evidence of either sign, and on the readout of maximum pooling."""
HOLE_SHARE = 0.25
"""Share of decoys that are holes, as perturbing explainers cut them."""


class _Net(Protocol):
    """What the penalties look at: channels that are pooled by maximum and by mean, then weighted."""

    activations: nn.ModuleList
    readout: nn.Linear


class PlantedBatches(PairBatches):
    """Batches of planted clips; lengths of the recipe are ignored, since the share of the planted area depends on them.

    Args:
        task: A planted task.
        recipe: ``n_pairs`` recordings per batch, and how they are disturbed.
        seed: Two streams with equal seeds are equal.
    """

    def __init__(self, task: Task, recipe: BatchRecipe, seed: int) -> None:
        super().__init__(task, recipe, seed)
        self.recordings: dict[str, Tensor] = {}
        for pairs in self.by_vocoder.values():
            for pair in pairs:
                if pair.bonafide not in self.recordings:
                    clip = task.load(pair)
                    self.recordings[pair.bonafide] = clip.bonafide[: clip.valid_samples]

    def loss(self, detector: nn.Module, waveform: Tensor, target: Tensor) -> Tensor:
        """Return the smooth distance of log-odds to their targets, with the penalties for nets of ``activations`` and a ``readout``."""
        found: list[Tensor] = []
        net = cast("_Net", detector)
        handle = net.activations[-1].register_forward_hook(lambda _module, _inputs, output: found.append(output))
        try:
            logits = detector(waveform)
        finally:
            handle.remove()
        peak, mean = net.readout.weight[0].abs().chunk(2)
        idle = (found[0].mean(dim=(2, 3)) * mean).sum(dim=1)
        fit = nn.functional.smooth_l1_loss(logits, target)
        return fit + IDLE * idle.mean() + PEAK * peak.sum()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw recordings, planted clips, parts and decoys, ``(4 P + E, T)``, and their target log-odds ``(4 P + E,)``."""
        drawn = [self._example() for _ in range(self.recipe.n_pairs)]
        sides = torch.stack([self._disturb(waveforms) for waveforms, _ in drawn])  # (P, 4, T)
        areas = torch.stack([area for _, area in drawn])  # (P, 4)
        empty = [self._empty(sides[i % self.recipe.n_pairs, 0], i) for i in range(self.recipe.n_empty)]
        log_odds = torch.cat([(REST + LIFT * areas / 0.05).T.reshape(-1), torch.full((len(empty),), REST)])
        return torch.cat([*sides.unbind(1), *(e[None] for e in empty)]), log_odds

    def _example(self) -> tuple[Tensor, Tensor]:
        """Return a recording, its planted copy, one with quarters undone, and a decoy, (4, T), with the planted share of cells of each."""
        kinds = sorted({pairs[0].family for pairs in self.by_vocoder.values()})
        kind: Kind = kinds[self._integer(0, len(kinds))]  # type: ignore[assignment]
        recording, other = self._recording(), self._recording()
        planted = plant(recording, kind, GRADES[self._integer(0, 2)], self.generator)
        quarters = planted.region.quarters()
        order = torch.randperm(4, generator=self.generator)[: self._integer(1, 4)].tolist()
        undone = undo(planted.artifact, [quarters[i] for i in order])
        edits = [torch.zeros_like(recording), planted.artifact, planted.artifact - undone, self._decoy(recording, planted, other)]
        area = planted.region.cells / (DEFAULT_STFT.bins * DEFAULT_STFT.frames(len(recording)))
        shares = torch.tensor([0.0, 1.0, 1 - len(order) / 4, 0.0])
        return torch.stack([tile(recording + edit, CLIP_SAMPLES) for edit in edits]), area * shares

    def _decoy(self, recording: Tensor, planted: Planted, other: Tensor) -> Tensor:
        """Return an edit that is no artifact, (T,)."""
        if self._uniform(0, 1) < HOLE_SHARE:
            region = draw_region(DEFAULT_STFT.frames(len(recording)), self.generator)
            return -0.999 * undo(recording, region.quarters()[: self._integer(1, 5)])
        edit = decoy(recording, planted, DECOYS[self._integer(0, len(DECOYS))], other, self.generator)
        return torch.zeros_like(recording) if edit is None else edit

    def _recording(self) -> Tensor:
        """Draw a recording and play it faster or slower, turned in time by a random amount."""
        names = sorted(self.recordings)
        recording = self.recordings[names[self._integer(0, len(names))]]
        played = self._speed(recording[None])[0]
        return played.roll(self._integer(0, len(played)))
