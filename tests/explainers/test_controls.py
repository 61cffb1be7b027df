"""Controls know what they claim to know and nothing else; oracles are the ceiling."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from xaibench.errors import DataError, WeightsError
from xaibench.explainers.controls import priors
from xaibench.explainers.controls.fitting import fit_tables
from xaibench.registry import EXPLAINERS
from xaibench.tasks.masks import mask, top_cells, truth
from xaibench.tasks.spectrogram import STFTConfig, inverse, magnitude, stft
from xaibench.types import Clip, Detector, Pair, Task, clip_generators

SMALL = STFTConfig(64, 16)
SAMPLES = 2048


class EnergyDetector(Detector):
    """Weighted sum of energies, smooth everywhere, so that a path integral converges fast."""

    name = "toy"

    def forward(self, waveform: Tensor) -> Tensor:
        weights = torch.linspace(-1, 3, SMALL.bins)[:, None]
        return (weights * magnitude(waveform, SMALL) ** 2).mean(dim=(1, 2))


def clip(number: int, speaker: str = "a", valid: int = SAMPLES) -> Clip:
    noise = torch.Generator().manual_seed(number)
    real = torch.randn(SAMPLES, generator=noise) * 0.1
    fake = real + 0.05 * torch.randn(SAMPLES, generator=noise)
    return Clip(Pair(f"p{number}", f"u{number}", speaker, "v", "", ""), real, fake, valid)


class Toy(Task):
    name = "toy"

    def __init__(self, train: list[Clip], test: list[Clip]):
        object.__setattr__(self, "clips", {"train": train, "dev": [], "test": test})

    def pairs(self, split):
        return [c.pair for c in self.clips[split]]

    def load(self, pair):
        return next(c for part in self.clips.values() for c in part if c.pair == pair)

    def references(self, pair):
        return torch.zeros(20, SAMPLES)

    def fingerprint(self):
        return "toy" + "".join(c.pair.id for part in self.clips.values() for c in part)


def test_energy_and_its_inverse_rank_cells_in_opposite_order():
    waveform = clip(0).spoof[None]
    energy = EXPLAINERS.load("energy", stft=SMALL).explain(waveform, EnergyDetector())
    inverse_energy = EXPLAINERS.load("inverse_energy", stft=SMALL).explain(waveform, EnergyDetector())
    assert torch.equal(energy.flatten().argsort(), inverse_energy.flatten().argsort(descending=True))
    assert torch.equal(energy, magnitude(waveform, SMALL))


def test_edge_is_largest_at_the_rim_of_a_tone_and_zero_on_a_flat_spectrum():
    t = torch.arange(SAMPLES) / 16_000
    tone = torch.sin(2 * torch.pi * 4000 * t) + 1e-4 * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(0))
    edges = EXPLAINERS.load("edge", stft=SMALL).explain(tone[None], EnergyDetector())[0, :, 10:-10].mean(1)
    assert abs(int(edges.argmax()) - 16) in (1, 2, 3)  # 4 kHz is bin 16; the rim lies beside it
    assert edges[16] < edges.max() / 2


def test_random_draws_clip_by_clip():
    explainer = EXPLAINERS.load("random", stft=SMALL)
    waveform = torch.zeros(2, SAMPLES)
    seeds = [torch.Generator().manual_seed(s) for s in (1, 2)]
    both = explainer.explain(waveform, EnergyDetector(), generator=seeds)
    alone = explainer.explain(waveform[:1], EnergyDetector(), generator=torch.Generator().manual_seed(2))
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])
    with pytest.raises(ValueError, match=r"one torch.Generator per clip \(2\), got 1"):
        clip_generators(torch.Generator(), 2)


def test_prior_is_the_share_of_training_masks_by_slow_count():
    clips = [clip(1), clip(2, valid=1600)]
    prior = EXPLAINERS.load("frequency_level_prior", stft=SMALL)
    fitted = prior.fit(clips)
    counts = torch.zeros(2, SMALL.bins, priors.LEVELS, dtype=torch.float64)
    for c in clips:
        known = truth(c, prior.recipe, SMALL)
        levels = prior.levels(c.spoof[None])[0]
        for f in range(SMALL.bins):
            for n in range(known.mask.shape[1]):
                if known.valid[f, n]:
                    counts[0, f, levels[f, n]] += float(known.mask[f, n])
                    counts[1, f, levels[f, n]] += 1
    torch.testing.assert_close(fitted["sum"], counts[0])
    torch.testing.assert_close(fitted["count"], counts[1])
    assert fitted["sum"].sum() == sum(int(truth(c, prior.recipe, SMALL).mask.sum()) for c in clips)


def test_frequency_prior_is_one_picture_for_every_clip_and_frame():
    prior = EXPLAINERS.load("frequency_prior", stft=SMALL)
    prior = replace(prior, weights=prior.fit([clip(1), clip(2)]))
    heatmaps = prior.explain(torch.stack([clip(3).spoof, clip(4).spoof]), EnergyDetector())
    assert torch.equal(heatmaps[0], heatmaps[1])
    assert torch.equal(heatmaps[0], heatmaps[0][:, :1].expand_as(heatmaps[0]))


def test_without_a_train_split_the_speaker_is_left_out():
    test = [clip(1, "a"), clip(2, "b"), clip(3, "b"), clip(4, "c")]
    prior = EXPLAINERS.load("frequency_level_prior", stft=SMALL)
    bound = prior.prepare(Toy([], test), test[1].pair)
    expected = prior.fit([test[0], test[3]])
    for key in expected:
        torch.testing.assert_close(bound.weights[key], expected[key])
    assert bound.table.endswith("speaker left out")
    assert bound.state_hash() != prior.prepare(Toy([], test), test[0].pair).state_hash()
    with pytest.raises(WeightsError, match="at least two speakers"):
        prior.prepare(Toy([], [clip(9)]), clip(9).pair)


def test_a_train_split_is_used_whole_and_test_clips_never():
    task = Toy([clip(1), clip(2)], [clip(3, "z")])
    prior = EXPLAINERS.load("frequency_prior", stft=SMALL)
    bound = prior.prepare(task, clip(3, "z").pair)
    torch.testing.assert_close(bound.weights["count"], prior.fit([clip(1), clip(2)])["count"])


def test_tables_are_written_for_every_recipe_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(priors, "TABLES", tmp_path)
    priors._shipped.cache_clear()
    clips = [Clip(c.pair, c.bonafide.repeat(4), c.spoof.repeat(4), 4 * SAMPLES) for c in (clip(1), clip(2))]
    paths = fit_tables(Toy(clips, []), tmp_path)
    assert [p.name for p in paths] == ["frequency_prior-toy.safetensors", "frequency_level_prior-toy.safetensors"]
    for recipe in Toy.recipes:
        read = EXPLAINERS.load("frequency_level_prior", recipe=recipe, table="toy").means()
        fresh = replace(p := EXPLAINERS.load("frequency_level_prior", recipe=recipe), weights=p.fit(clips)).means()
        torch.testing.assert_close(read, fresh)
    with pytest.raises(WeightsError, match="got 'nowhere'; available: toy"):
        EXPLAINERS.load("frequency_prior", table="nowhere").means()
    with pytest.raises(DataError, match="without one"):
        fit_tables(Toy([], clips), tmp_path)
    priors._shipped.cache_clear()


def test_oracle_mask_is_the_truth_itself():
    c = clip(5)
    for recipe in Toy.recipes:
        heatmap = EXPLAINERS.load("oracle_mask", stft=SMALL, recipe=recipe).explain(
            c.spoof[None], EnergyDetector(), references=c.bonafide[None]
        )
        expected = mask(c.bonafide[None], c.spoof[None], recipe, SMALL)
        assert torch.equal(top_cells(heatmap, int(expected.sum()))[0], expected)
    with pytest.raises(ValueError, match="references must hold the bona fide twin of each of the 1 clips, got none"):
        EXPLAINERS.load("oracle_mask", stft=SMALL).explain(c.spoof[None], EnergyDetector())


def test_oracle_ig_sums_to_the_log_odds_lost_on_the_way_to_the_twins_magnitudes():
    c = clip(6)
    detector = EnergyDetector()
    oracle = EXPLAINERS.load("oracle_ig", stft=SMALL, n_steps=64)
    attributions = oracle.explain(c.spoof[None], detector, references=c.bonafide[None])
    phase = stft(c.spoof[None], SMALL).angle()
    swapped = inverse(torch.polar(magnitude(c.bonafide[None], SMALL), phase), SAMPLES, SMALL)
    lost = detector(c.spoof[None]) - detector(swapped)
    torch.testing.assert_close(attributions.sum().reshape(1), lost.detach(), rtol=1e-3, atol=1e-5)
