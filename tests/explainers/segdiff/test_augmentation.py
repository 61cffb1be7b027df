"""Disturbances treat twins alike, and mixtures keep every example of every part."""

import math
from dataclasses import replace

import pytest
import torch

from xaibench.errors import DataError
from xaibench.explainers.segdiff.augmentation import Augmentation, augment, resample
from xaibench.explainers.segdiff.data import Recipe, from_clips
from xaibench.explainers.segdiff.frontend import FrontEnd
from xaibench.explainers.segdiff.mixture import Mixture
from xaibench.types import SAMPLE_RATE, Clip, Pair

PAIR = Pair("p", "u", "s", "v", "", "")


def tone(frequency_hz: float, samples: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency_hz * torch.arange(samples).double() / SAMPLE_RATE).float()


def test_resampling_a_tone_gives_the_tone_of_the_other_pitch() -> None:
    twins = torch.stack([tone(1000, 16_000), 0.5 * tone(3000, 16_000)])
    faster = resample(twins, 12_800)
    torch.testing.assert_close(faster[0], tone(1250, 12_800), atol=1e-3, rtol=0)
    torch.testing.assert_close(faster[1], 0.5 * tone(3750, 12_800), atol=1e-3, rtol=0)
    assert float(resample(twins[:1] * 0 + tone(7000, 16_000), 12_800).abs().max()) < 1e-3  # beyond the new Nyquist frequency


def test_copies_are_cut_from_the_whole_pair_and_matched_in_level() -> None:
    samples, whole_samples = 16_200, 48_000
    bonafide = torch.linspace(0.1, 1, whole_samples) * torch.randn(whole_samples, generator=torch.Generator().manual_seed(0))
    gains = torch.where(torch.arange(whole_samples) < samples, 1.0, 2.0)
    whole = Clip(PAIR, bonafide, bonafide * gains, whole_samples)
    clip = Clip(PAIR, bonafide[:samples], bonafide[:samples], samples)
    plain = Augmentation(equaliser_db=0, gain_db=0)
    starts = set()
    for seed in range(8):
        made = augment(clip, torch.Generator().manual_seed(seed), plain, whole)
        assert made.valid_samples == samples == len(made.spoof)
        start = int((bonafide[: whole_samples - samples + 1, None] - made.bonafide[:1]).abs().argmin())
        torch.testing.assert_close(made.bonafide, bonafide[start : start + samples], atol=1e-5, rtol=0)
        torch.testing.assert_close(made.spoof.square().mean(), made.bonafide.square().mean(), rtol=1e-3, atol=0)
        starts.add(start)
    assert max(starts) > samples


def test_speed_moves_both_twins_alike() -> None:
    clip = Clip(PAIR, tone(1000, 32_000), 0.5 * tone(1000, 32_000), 32_000)
    settings = Augmentation(equaliser_db=0, gain_db=0, speed=0.3, speed_share=1.0)
    pitches = set()
    for seed in range(6):
        made = augment(clip, torch.Generator().manual_seed(seed), settings)
        torch.testing.assert_close(made.spoof, 0.5 * made.bonafide, atol=1e-5, rtol=0)
        spectrum = torch.fft.rfft(made.bonafide[: made.valid_samples] * torch.hann_window(made.valid_samples)).abs()
        pitches.add(round(int(spectrum.argmax()) * SAMPLE_RATE / made.valid_samples))
    assert all(690 < p < 1310 for p in pitches)
    assert len(pitches) == 6
    with pytest.raises(ValueError, match=r"speed must be in 0..0.5, got 0.7"):
        Augmentation(speed=0.7)


def test_rawboost_reaches_the_image_and_not_the_mask() -> None:
    clip = noise(0)
    plain = Recipe(front=FrontEnd(), copies=2, augmentation=Augmentation())
    loud = replace(plain, augmentation=Augmentation(rawboost=3, rawboost_share=1.0))
    first, second = (from_clips([clip], recipe).batch([0, 1]) for recipe in (plain, loud))
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.image[0], second.image[0])
    assert not torch.equal(first.image[1], second.image[1])
    with pytest.raises(ValueError, match="algorithm must be 1 to 8, got 9"):
        Augmentation(rawboost=9)


def noise(seed: int) -> Clip:
    drawn = torch.randn(2, 16_200, generator=torch.Generator().manual_seed(seed))
    return Clip(replace(PAIR, id=f"p{seed}"), drawn[0], drawn[1], 16_200)


def test_a_mixture_holds_every_example_as_often_as_told() -> None:
    recipe = Recipe(front=FrontEnd())
    first, second = from_clips([noise(0), noise(1)], recipe), from_clips([noise(2)], recipe)
    mixed = Mixture([first, second], [2, 3])
    assert len(mixed) == 7
    assert mixed.pairs == ["p0", "p1", "p0", "p1", "p2", "p2", "p2"]
    batch = mixed.batch([6, 3, 0])
    for row, (part, i) in enumerate([(second, 0), (first, 1), (first, 0)]):
        for mine, theirs in zip(batch[:3], part.batch([i])[:3], strict=True):
            assert torch.equal(mine[row], theirs[0])
    places = lambda image: torch.zeros(len(image), *image.shape[2:], dtype=torch.int64)  # noqa: E731
    assert torch.equal(mixed.log_odds(places, 1, 1), first.log_odds(places, 1, 1))
    other = from_clips([noise(3)], replace(recipe, recipes=("sym-floor60-v1",)))
    for parts, repeats in (([first, other], [1, 1]), ([first], [1, 1]), ([first], [0])):
        with pytest.raises(DataError, match="parts must be examples of one shape"):
            Mixture(parts, repeats)
