"""The card of trained weights: where they come from, how well they separate twins, and what they say of clips without evidence."""

import math
import platform
from typing import Any

import torch

from xaibench.tasks.detectors.quality import average_spectrum_control, figures_by_slice, score_pairs
from xaibench.tasks.pairs import spread
from xaibench.tasks.spectrogram import inverse
from xaibench.types import CLIP_SAMPLES, Clip, Detector, Pair, Task

CONTROL_PAIRS = 240
"""Training pairs on which the shortcut control is fitted, at most."""


def assess(detector: Detector, task: Task, training: list[Pair] | None = None) -> dict[str, Any]:
    """Return the figures of a card: quality on dev and test, the shortcut control, and the log-odds of clips without evidence.

    Args:
        detector: What was trained.
        task: Task with dev and test splits.
        training: Pairs that it was trained on, from which the control learns; by default the whole train split.
    """
    train = [task.load(p) for p in spread(task.pairs("train") if training is None else training)[:CONTROL_PAIRS]]
    splits = {split: [task.load(p) for p in task.pairs(split)] for split in ("dev", "test")}
    return {
        "quality": {split: figures_by_slice(score_pairs(detector, clips)) for split, clips in splits.items()},
        "average_spectrum_control": {
            split: figures_by_slice(average_spectrum_control(train, clips)) for split, clips in splits.items() if clips
        },
        "log_odds": baseline_log_odds(detector, splits["test"]),
    }


def baseline_log_odds(detector: Detector, clips: list[Clip]) -> dict[str, float]:
    """Return what the detector says of clips that attributions start from: a baseline must not be very spoof by accident.

    Silence, noise, the flat spectrum of magnitude one with the spoof's phase, and the mean over recordings and over spoofs.
    """
    device = next(detector.parameters()).device
    generator = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(1, CLIP_SAMPLES, generator=generator)
    phase = torch.rand(1, 513, CLIP_SAMPLES // 256 + 1, generator=generator) * 2 * torch.pi
    flat = inverse(torch.polar(torch.ones_like(phase), phase), CLIP_SAMPLES)
    sounds = {"silence": torch.zeros(1, CLIP_SAMPLES), "white_noise": noise, "flat_spectrum": flat}
    with torch.no_grad():
        answers = {name: float(detector.spoof_logit(sound.to(device))[0]) for name, sound in sounds.items()}
    scores = score_pairs(detector, clips)
    for name in ("bonafide", "spoof"):
        answers[name] = float(torch.tensor([getattr(s, name) for s in scores]).mean()) if scores else float("nan")
    return answers


def hardware(device: str) -> str:
    """Name the hardware without naming the machine."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def plain(value: Any) -> Any:
    """Return JSON-ready values: floats with 6 decimals, NaN as null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
