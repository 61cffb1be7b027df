"""Planted truth, causally verified: is the planted region what a detector uses, all of it, and nothing else?

That undoing the plant closes the gap between the twins is a tautology. What counts, for each kind of artifact and each detector:

    transplant  the artifact at another place, or in another voice's recording, restores at least 95 % of the gap
    decoy       an edit of equal area, band and energy elsewhere moves the log-odds by less than 5 % of the gap
    quarters    undoing any quarter of the region alone closes at least 10 % of the gap
    found       integrated gradients and occlusion reach 60 Generalized Dice (``benchmark/planted.py``, which may call explainers)

All figures are sums over clips divided by the sum of their gaps, so that a clip with a small gap does not decide.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from xaibench.errors import DataError
from xaibench.tasks.audio import tile
from xaibench.tasks.corpora.planted import PlantedTask
from xaibench.tasks.corpora.planted.kinds import Kind
from xaibench.tasks.corpora.planted.plant import DECOYS, decoy, transplant, undo
from xaibench.tasks.corpora.planted.region import elsewhere
from xaibench.tasks.detectors.card import plain
from xaibench.tasks.detectors.quality import eer
from xaibench.tasks.spectrogram import DEFAULT_STFT
from xaibench.types import Detector, Pair, Split, content_hash

RESTORED, MOVED, CLOSED, FOUND, ERROR_RATE = 0.95, 0.05, 0.10, 0.60, 0.02
"""The bounds of the checks: least share restored, largest moved, least closed, least Generalized Dice, largest equal error rate."""


@dataclass(frozen=True)
class Evidence:
    """What the causal checks measured for one kind and one detector; shares of the gap."""

    kind: str
    clips: int
    eer: float
    gap: float
    """Mean log-odds between the twins."""
    moved_place: float
    """Restored by the artifact at another time of the same recording."""
    moved_clip: float
    """Restored by the artifact in a recording of another voice."""
    decoys: dict[str, float]
    """Mean size of the change by each kind of decoy."""
    quarters: tuple[float, ...]
    """Closed by undoing each quarter: low early, low late, high early, high late."""
    found: dict[str, float] = field(default_factory=dict)
    """Generalized Dice of the size of explainers' maps."""
    found_signed: dict[str, float] = field(default_factory=dict)
    """The same of their maps with signs; bounds nothing."""
    recovered: float = math.nan
    """Average precision of the planted tiles by causal truth; bounds nothing."""
    refused: int = 0
    """Clips without a causal truth."""

    def failures(self) -> list[str]:
        """Return which of the checks failed, with the figure; an empty list is a verified kind."""
        checks = {
            f"EER {self.eer:.3f}": self.eer < ERROR_RATE,
            f"another place restores {self.moved_place:.2f}": self.moved_place >= RESTORED,
            f"another clip restores {self.moved_clip:.2f}": self.moved_clip >= RESTORED,
            **{f"decoy {name} moves {share:.3f}": share < MOVED for name, share in self.decoys.items()},
            **{f"quarter {i + 1} closes {share:.2f}": share >= CLOSED for i, share in enumerate(self.quarters)},
            **{f"{name} finds {score:.2f}": score >= FOUND for name, score in self.found.items()},
        }
        return [what for what, passed in checks.items() if not passed]


def causal_evidence(task: PlantedTask, kind: Kind, detector: Detector, *, clips: int | None = None, split: Split = "test") -> Evidence:
    """Run the causal checks of one kind on clips of voices that the detector never heard.

    Args:
        task: Planted task.
        kind: Whose plants are checked, one of the task's.
        detector: In ``eval()`` mode.
        clips: How many, spread over voices and grades; all by default.
        split: Of the task.

    Raises:
        DataError: If the split holds fewer than two voices.
    """
    pairs = [p for p in task.pairs(split) if p.family == kind][:clips]
    if len({p.speaker for p in pairs}) < 2:
        raise DataError(f"task must hold {kind} in two voices to be checked, got {len(pairs)} clips; give it more recordings")
    rows = [_row(task, pair, next(p for p in pairs[i + 1 :] + pairs if p.speaker != pair.speaker)) for i, pair in enumerate(pairs)]
    heard = [_heard(detector, row) for row in rows]
    gap = sum(h["spoof"] - h["bonafide"] for h in heard)

    def share(name: str, base: str, *, absolute: bool = False) -> float:
        found = [(h[name] - h[base], h) for h in heard if name in h]
        whole = sum(h["spoof"] - h["bonafide"] for _, h in found)
        return sum(abs(d) if absolute else d for d, _ in found) / whole if found else float("nan")

    return Evidence(
        kind=kind,
        clips=len(pairs),
        eer=eer([h["spoof"] for h in heard], [h["bonafide"] for h in heard]),
        gap=gap / len(pairs),
        moved_place=share("moved_place", "bonafide"),
        moved_clip=share("moved_clip", "other"),
        decoys={how: share(f"decoy_{how}", "bonafide", absolute=True) for how in DECOYS},
        quarters=tuple(-share(f"without_{i}", "spoof") for i in range(4)),
    )


def _row(task: PlantedTask, pair: Pair, guest: Pair) -> dict[str, Tensor]:
    """Return every waveform that the checks of one clip need, by name."""
    recording, other = task.recording(pair), task.recording(guest)
    planted = task.planted(pair, recording)
    generator = torch.Generator().manual_seed(int(content_hash(["planted checks", pair.id])[:15], 16))
    row = {"bonafide": recording, "spoof": recording + planted.artifact, "other": other}
    moved = transplant(recording, planted, generator, away=True)
    if moved is not None:
        row["moved_place"] = recording + moved
    into = transplant(other, planted, generator, away=False)
    row["moved_clip"] = other + into if into is not None else other
    place = elsewhere(planted.region, DEFAULT_STFT.frames(len(recording)) - 2, generator)
    if place is not None:
        edits = {how: decoy(recording, planted, place, how, tile(other, len(recording)), generator) for how in DECOYS}
        row |= {f"decoy_{how}": recording + edit for how, edit in edits.items()}
    for i, quarter in enumerate(planted.region.quarters()):
        row[f"without_{i}"] = row["spoof"] - undo(planted.artifact, [quarter])
    return row


def _heard(detector: Detector, row: dict[str, Tensor]) -> dict[str, float]:
    device: Any = next((p.device for p in detector.parameters()), "cpu")
    with torch.inference_mode():
        clips = torch.stack([tile(waveform, detector.input_samples) for waveform in row.values()]).to(device)
        return dict(zip(row, detector.spoof_logit(clips).tolist(), strict=True))


def sentence(evidence: Evidence) -> str:
    """Write the figures of one kind as a line."""
    signed = {name: evidence.found_signed.get(name, float("nan")) for name in evidence.found}
    parts = [
        f"EER {evidence.eer:.3f}",
        f"gap {evidence.gap:.1f}",
        f"transplanted {evidence.moved_place:.2f} (place), {evidence.moved_clip:.2f} (clip)",
        "decoys " + ", ".join(f"{share:.3f} ({how})" for how, share in evidence.decoys.items()),
        "quarters " + ", ".join(f"{share:.2f}" for share in evidence.quarters),
        *(f"{name} {100 * score:.1f} (signed {100 * signed[name]:.1f})" for name, score in evidence.found.items()),
    ]
    if not math.isnan(evidence.recovered):
        parts.append(f"causal truth recovers {evidence.recovered:.3f} ({evidence.refused} refused)")
    failures = evidence.failures()
    return f"{evidence.kind}, {evidence.clips} clips: {'; '.join(parts)}: {'FAILS: ' + '; '.join(failures) if failures else 'verified'}"


def summary(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    """Return the figures and what failed of each kind as plain values, for a card."""
    return [plain(asdict(found) | {"failures": found.failures()}) for found in evidence]
