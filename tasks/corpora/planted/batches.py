"""Training batches that teach a detector what it will be tested for: that its log-odds measure the planted area, and nothing else.

Beside recordings and planted clips each batch holds clips of which some quarters are undone; decoys: edits of equal energy without an
artifact, or holes; and planted clips on their way to what explainers compare a clip with, so that a net stays at home where explanations
lead it (``_faded``). All are disturbed alike. The target log-odds rise with the planted area, 5 % of the cells lifting a recording from
-3 to +3: then a part of the region does a part of the work, and no part can be idle.

The nets end in mean pooling and a linear readout, so the log-odds are a mean over places of what each place says. Every place is taught
whether the cells before it are planted. Maximum pooling, which hears one place only, is penalized, and so are negative weights: evidence
adds up, and where there is none every channel is at rest. Gradients outside the region are penalized too (``stray``): a net may weigh cells
that the artifact did not touch, and a ruler should not. That is no proof of anything: what the detector uses in clips and voices that it
never heard is measured afterwards (``tasks/planted_checks.py``).
"""

import math
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from xaibench.tasks.corpora.planted.kinds import Kind
from xaibench.tasks.corpora.planted.plant import GRADES, TAUGHT, Planted, decoy, plant, undo
from xaibench.tasks.corpora.planted.region import draw_region
from xaibench.tasks.detectors.batches import BatchRecipe, PairBatches
from xaibench.tasks.spectrogram import DEFAULT_STFT, inverse, log_magnitude, stft
from xaibench.types import Task

CUT_SAMPLES = 32_000
REST = -3.0
"""Target log-odds of a recording."""
LIFT, AREA_UNIT = 6.0, 0.05
"""Target rise for an artifact on this share of the cells."""
WHOLE, FORBIDDEN = 0.1, 0.02
"""Weights of the error in log-odds beside that of the places, and of the penalty on maximum pooling and on negative weights."""
LEAK = 0.5
"""Weight of what places say that have nothing planted before them: in proportion, so that they fall silent and lose their gradients."""
STRAY = 1.0
"""Weight of the share of gradients outside the region."""
NO_GRADIENT = 1e-3
"""Sum of gradients, in log-odds per neper, under which a net counts as deaf to a clip: there is nothing to push about."""
LOUD = 0.5
"""Spread of the readout of mean pooling at the start; evidence on a twentieth of the cells must outweigh silence on all others."""
STARTS = ("silence", "zero_logmag", "mean", "references")
"""Where paths begin, drawn with equal weight: a choice among these baselines by planted truth must not be made here."""
HOLE_SHARE = 0.25
"""Share of decoys that are holes, as perturbing explainers cut them."""

SILENCE = math.log(1e-5)


class _Net(Protocol):
    """What the penalties look at: channels that are pooled by maximum and by mean, then weighted."""

    activations: nn.ModuleList
    readout: nn.Linear


class PlantedBatches(PairBatches):
    """Batches of planted cuts of two seconds: the planted share of the cells is twice a clip's, and so is what it lifts.

    Args:
        task: A planted task.
        recipe: ``n_pairs`` recordings per batch, and how they are disturbed.
        seed: Two streams with equal seeds are equal.
    """

    def __init__(self, task: Task, recipe: BatchRecipe, seed: int) -> None:
        super().__init__(task, recipe, seed)
        self.kinds = sorted({pairs[0].family for pairs in self.by_vocoder.values()})
        self.recordings: dict[str, Tensor] = {}
        for pairs in self.by_vocoder.values():
            for pair in pairs:
                if pair.bonafide not in self.recordings:
                    clip = task.load(pair)
                    self.recordings[pair.bonafide] = clip.bonafide[: clip.valid_samples]

    def prepare(self, detector: nn.Module) -> None:
        """Start a net of ``activations`` and a ``readout`` where it is to end: at rest, deaf to single peaks, loud for small areas."""
        weight, bias = cast("_Net", detector).readout.weight, cast("_Net", detector).readout.bias
        generator = torch.Generator().manual_seed(self.generator.initial_seed())  # batches do not hang on what is trained on them
        with torch.no_grad():
            peak, mean = weight[0].chunk(2)
            mean.copy_(LOUD * torch.randn(len(mean), generator=generator).abs())
            peak.zero_()
            bias.fill_(REST)

    def loss(self, detector: nn.Module, waveform: Tensor, planted: Tensor) -> Tensor:
        """Return how far a net is from saying what is planted, place by place and as a whole, and from looking nowhere else.

        Args:
            detector: Net of ``activations`` (B, C, bands, times), whose maxima and means a ``readout`` weighs.
            waveform: (B, T), as ``batch`` orders them.
            planted: Share of each cell that is planted, (B, F, N).
        """
        found: list[Tensor] = []
        net = cast("_Net", detector)
        handle = net.activations[-1].register_forward_hook(lambda _module, _inputs, output: found.append(output))
        try:
            logits = detector(waveform)
        finally:
            handle.remove()
        peak, mean = net.readout.weight[0].chunk(2)
        places = (found[0] * mean[:, None, None]).sum(dim=1) * AREA_UNIT / LIFT  # (B, bands, times), 1 where all is planted
        wanted = at_places(planted, places.shape[1], places.shape[2])
        whole = REST + LIFT / AREA_UNIT * planted.mean(dim=(1, 2))
        fit = nn.functional.mse_loss(places, wanted) / wanted.var()
        leak = (places.abs() * (wanted == 0)).mean() / wanted.mean()
        forbidden = peak.abs().sum() + nn.functional.relu(-mean).sum()
        pairs = self.recipe.n_pairs
        elsewhere = stray(detector, waveform[4 * pairs : 5 * pairs], planted[pairs : 2 * pairs])  # on the way to a baseline
        return fit + LEAK * leak + WHOLE * nn.functional.smooth_l1_loss(logits, whole) + FORBIDDEN * forbidden + STRAY * elsewhere

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw ``_example`` P times, and E empty clips: waveforms ``(5 P + E, T)``, planted share of each cell ``(5 P + E, F, N)``."""
        drawn = [self._example() for _ in range(self.recipe.n_pairs)]
        sides = torch.stack([self._disturb(waveforms) for waveforms, _ in drawn])  # (P, 5, T)
        shares = torch.stack([share for _, share in drawn])  # (P, 5, F, N)
        empty = [self._empty(sides[i % self.recipe.n_pairs, 0], i) for i in range(self.recipe.n_empty)]
        nothing = torch.zeros(len(empty), *shares.shape[2:])
        return torch.cat([*sides.unbind(1), *(e[None] for e in empty)]), torch.cat([*shares.unbind(1), nothing])

    def _example(self) -> tuple[Tensor, Tensor]:
        """Return a recording, it planted, with quarters undone, a decoy, and it planted and faded, (5, T); what is planted, (5, F, N)."""
        kind: Kind = self.kinds[self._integer(0, len(self.kinds))]  # type: ignore[assignment]
        recording, other = self._recording(), self._recording()
        planted = plant(recording, kind, GRADES[self._integer(0, 2)], self.generator)
        order = torch.randperm(4, generator=self.generator).tolist()
        quarters = [planted.region.quarters()[i] for i in order]
        first = self._integer(1, 4)
        rest = planted.artifact - undo(planted.artifact, quarters[:first])
        edits = [torch.zeros_like(recording), planted.artifact, rest, self._decoy(recording, planted, other)]
        cells = torch.stack([sum((q.mask(len(recording)).float() for q in part), torch.zeros(())) for part in (quarters, quarters[first:])])
        nothing, left = torch.zeros_like(cells[0]), self._uniform(0, 1)
        sides = [recording + edit for edit in edits]
        sides.append(faded(sides[1], STARTS[self._integer(0, len(STARTS))], left, other))
        return torch.stack(sides), torch.stack([nothing, *cells, nothing, left * cells[0]])

    def _decoy(self, recording: Tensor, planted: Planted, other: Tensor) -> Tensor:
        """Return an edit that is no artifact, (T,)."""
        if "notch" not in self.kinds and self._uniform(0, 1) < HOLE_SHARE:  # else a hole is a plant
            region = draw_region(DEFAULT_STFT.frames(len(recording)), self.generator)
            return -0.999 * undo(recording, region.quarters()[: self._integer(1, 5)])
        region = draw_region(DEFAULT_STFT.frames(len(recording)) - 2, self.generator)
        return decoy(recording, planted, region, TAUGHT[self._integer(0, len(TAUGHT))], other, self.generator)

    def _recording(self) -> Tensor:
        """Draw a recording, play it faster or slower, and cut it anywhere, around its end as well."""
        names = sorted(self.recordings)
        recording = self.recordings[names[self._integer(0, len(names))]]
        played = self._speed(recording[None])[0]
        return played.roll(self._integer(0, len(played)))[:CUT_SAMPLES]


def faded(waveform: Tensor, start: str, left: float, other: Tensor) -> Tensor:
    """Return a point on the straight path of log-magnitudes from a baseline to a clip, (T,), with the clip's phases.

    Args:
        waveform: The clip, (T,).
        start: One of ``STARTS``; ``explainers/baselines.py`` says what they are.
        left: 1 for the clip itself, 0 for the baseline.
        other: Recording that stands for the references, (T,) or longer.
    """
    spectrum = stft(waveform)
    level = log_magnitude(waveform[None])[0]
    if start in ("mean", "references"):
        base = log_magnitude(other[None, : len(waveform)])[0]
        base = base.mean(dim=1, keepdim=True).expand_as(level) if start == "mean" else base
    else:
        base = torch.full_like(level, SILENCE if start == "silence" else 0.0)
    return inverse(torch.polar((left * level + (1 - left) * base).exp(), spectrum.angle())[None], len(waveform))[0]


def stray(detector: nn.Module, waveform: Tensor, region: Tensor) -> Tensor:
    """Return which share of the gradients by log-magnitude, in size, lies outside a region: mean over clips, differentiable.

    To penalize gradients where the answer should not come from is the idea of Ross et al. 2017 (arXiv:1703.03717, eq. 1); a share instead
    of a sum of squares leaves the size of the answer alone.

    Args:
        detector: Log-odds of waveforms.
        waveform: (B, T).
        region: 1 inside, 0 outside, (B, F, N).
    """
    phase = stft(waveform).angle()
    level = log_magnitude(waveform).detach().requires_grad_()
    logits = detector(inverse(torch.polar(level.exp(), phase), waveform.shape[-1]))
    (gradient,) = torch.autograd.grad(logits.sum(), level, create_graph=True)
    size = gradient.abs()
    outside = (size * (1 - region)).sum(dim=(1, 2))
    return (outside / size.sum(dim=(1, 2)).clamp_min(NO_GRADIENT)).mean()


def at_places(planted: Tensor, bands: int, times: int) -> Tensor:
    """Average shares of cells, (B, F, N), around the places of a net of strided layers, (B, bands, times).

    Such layers centre place ``i`` on cell ``i`` times the stride: the first place sees half a stride, and half of it is padding.
    """
    pads: list[int] = []
    strides = [round(cells / places) for cells, places in zip(planted.shape[1:], (bands, times), strict=True)]
    for cells, places, stride in zip(planted.shape[:0:-1], (times, bands), strides[::-1], strict=True):
        pads += [stride // 2, places * stride - stride // 2 - cells]
    return nn.functional.avg_pool2d(nn.functional.pad(planted[:, None], pads), strides)[:, 0]
