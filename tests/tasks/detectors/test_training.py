"""Training: twins are disturbed alike, equal seeds give equal weights, and a detector learns what differs."""

import json

import pytest
import torch

from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.batches import BatchRecipe, PairBatches
from xaibench.tasks.detectors.card import baseline_log_odds
from xaibench.tasks.detectors.training import train_detector
from xaibench.types import Clip, Pair, Task

SAMPLES = 12_000


class Clicks(Task):
    """A chord, and its twin with clicks; ``strength`` 0 makes equal twins."""

    name = "clicks"

    def __init__(self, strength: float = 1.0, splits: tuple[str, ...] = ("train", "dev", "test")):
        object.__setattr__(self, "strength", strength)
        object.__setattr__(self, "splits", splits)

    def pairs(self, split):
        count = {"train": 12, "dev": 4, "test": 6}[split] if split in self.splits else 0
        return [
            Pair(f"{split}{n}", f"{split}{n}", f"{split}{n}", "click", f"{split}{n}", f"{split}{n}s", split=split) for n in range(count)
        ]

    def load(self, pair):
        generator = torch.Generator().manual_seed(sum(map(ord, pair.id)))
        pitches = 0.02 + 0.1 * torch.rand(4, 1, generator=generator)
        chord = 0.05 * torch.sin(pitches * torch.arange(SAMPLES)).sum(0) + 0.001 * torch.randn(SAMPLES, generator=generator)
        spoof = chord.clone()
        spoof[::400] += self.strength * 0.5
        return Clip(pair, chord, spoof, SAMPLES)

    def references(self, pair):
        return torch.zeros(20, SAMPLES)

    def fingerprint(self):
        return "clicks"


def test_equal_twins_stay_equal_whatever_is_drawn_and_empty_clips_have_even_targets():
    batches = PairBatches(Clicks(strength=0), BatchRecipe(n_pairs=3, noise_share=1.0, shortest_s=0.3), seed=1)
    lengths = set()
    for _ in range(5):
        waveform, target = batches.batch()
        lengths.add(waveform.shape[1])
        assert target.tolist() == [0, 0, 0, 1, 1, 1, 0.5, 0.5]
        assert torch.equal(waveform[:3], waveform[3:6])
        assert waveform[:6].abs().max() <= 1
        assert not torch.equal(waveform[0], waveform[1])
    assert len(lengths) > 1


def test_batches_depend_on_the_seed_alone():
    streams = [iter(PairBatches(Clicks(), BatchRecipe(n_pairs=2), seed=s)) for s in (3, 3, 4)]
    first, again, other = (next(s)[0] for s in streams)
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_a_detector_learns_clicks_reproducibly_and_its_card_says_so(tmp_path):
    shares = []
    card = train_detector(Clicks(), "spectrogram_cnn", out=tmp_path, steps=12, seed=0, progress=lambda share, figures: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert card["quality"]["test"]["all"]["auc"] > 0.95
    assert card["quality"]["test"]["vocoder:click"]["pairs"] == 6
    assert card["steps"] == 12
    assert set(card["average_spectrum_control"]) == {"dev", "test"}
    path = tmp_path / "spectrogram_cnn-clicks.safetensors"
    detector = DETECTORS.load("spectrogram_cnn", weights=str(path))
    assert detector.fingerprint() == card["fingerprint"]
    assert json.loads(path.with_suffix(".json").read_text())["fingerprint"] == card["fingerprint"]
    with torch.no_grad():
        assert baseline_log_odds(detector, [])["silence"] == pytest.approx(card["log_odds"]["silence"], abs=1e-5)

    few = [
        train_detector(Clicks(), "spectrogram_cnn", out=tmp_path / n, steps=2, seed=s)["fingerprint"]
        for n, s in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert few[0] == few[1] != few[2]


def test_a_training_without_budget_or_pairs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="steps or minutes must be given, got neither"):
        train_detector(Clicks(), "spectrogram_cnn", out=tmp_path)
    with pytest.raises(ValueError, match="task must have training pairs, got none in 'clicks'"):
        train_detector(Clicks(splits=("test",)), "spectrogram_cnn", out=tmp_path, steps=1)
