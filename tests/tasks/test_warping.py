"""Lags that drift or jump, planted into real recordings and their real copies, and recovered where there is speech."""

import csv
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import soxr
import torch

from xaibench.errors import PairError
from xaibench.tasks.alignment import align, constant_lag, match_level
from xaibench.tasks.audio import read_audio
from xaibench.tasks.dtw import _argmin_suffix
from xaibench.tasks.masks import mask
from xaibench.tasks.warping import Alignment, _knot_lags, aligned, measure, warped
from xaibench.types import SAMPLE_RATE

PAIRS = (
    ("freev/gt/LJ001-0072", "freev/hifigan_v1/LJ001-0072"),
    ("univnet_mindslab/gt/1089_134686_000007_000005", "univnet_mindslab/univnet_c32/1089_134686_000007_000005"),
    ("freev/gt/LJ010-0219", "freev/vocos/LJ010-0219"),
)


@pytest.fixture(
    scope="module", params=[PAIRS[0], pytest.param(PAIRS[1], marks=pytest.mark.slow), PAIRS[2]], ids=["hifigan", "univnet", "vocos"]
)
def twins(request, shared_data):
    real, fake = (read_audio(shared_data / "public_pairs" / f"{name}.flac") for name in request.param)
    return align(real, fake, constant_lag(real, fake))


def drifted(waveform, rate):
    return torch.from_numpy(soxr.resample(waveform.numpy(), SAMPLE_RATE, SAMPLE_RATE * rate)).float()


def loud(waveform, at, reach=1600):
    """Tell at which samples there is speech nearby: within 20 dB of the mean power."""
    power = torch.stack([waveform[max(0, i - reach) : i + reach].square().mean() for i in at.tolist()])
    return (power > 0.01 * waveform.square().mean()).numpy()


def errors_ms(found, waveform, true, margin=4000):
    at = np.arange(margin, len(waveform) - margin, 800)
    at = at[loud(waveform, at)]
    lags = _knot_lags(found.knots, at) if found.knots else np.full(len(at), found.lag)
    return np.abs(lags - true(at)) / 16


def test_one_lag_stays_where_it_is_enough(twins):
    found = measure(*twins)
    assert not found.knots
    assert abs(found.lag) <= 2
    assert found.residual_p50_ms < 0.5
    assert found.residual_p95_ms < 2
    assert found.matched > 0.95
    assert found.score > 0.9
    assert Alignment.of_json(found.as_json()) == found


@pytest.mark.parametrize("rate", [1.002, 1.01, 0.995])
def test_a_planted_drift_is_followed(twins, rate):
    real, fake = twins
    late = drifted(fake, rate)
    found = measure(real, late)
    assert found.knots
    assert found.constant_p95_ms > 4
    assert found.residual_p95_ms < 2
    apart = errors_ms(found, late, lambda at: at - at / rate)
    assert np.median(apart) < 1
    assert np.percentile(apart, 95) < 3.5


@pytest.mark.parametrize("milliseconds", [60, 150, -150])
def test_a_planted_silence_or_cut_in_a_pause_is_found(twins, milliseconds):
    real, fake = twins
    power = fake.square().unfold(0, 3200, 160).mean(1)
    middle = slice(len(power) // 4, 3 * len(power) // 4)
    place = (int(power[middle].argmin()) + middle.start) * 160 + 1600
    size = 16 * milliseconds
    noise = torch.randn(max(0, size), generator=torch.Generator().manual_seed(0)) * power.min().sqrt()
    other = torch.cat([fake[:place], noise, fake[place + max(0, -size) :]])
    found = measure(real, other)
    assert found.knots
    far = 4800
    at = np.arange(4000, len(other) - 4000, 800)
    at = at[loud(other, at) & ((at < place - far) | (at > place + max(0, size) + far))]
    apart = np.abs(_knot_lags(found.knots, at) - np.where(at < place, 0, size)) / 16
    assert np.percentile(apart, 90) < 3, apart
    assert found.matched > 0.9


def test_the_mask_after_warping_is_the_mask_without_the_drift(twins):
    """On the spoof's grid: the drifted copy against the drifted recording is the truth, which the path must come near."""
    real, fake = twins
    rate = 1.004
    late = drifted(fake, rate)
    found = measure(real, late)

    def difference(first, second):
        size = min(len(first), len(second), 64000)
        return mask(first[None, :size], match_level(first[:size], second[:size])[None])[0]

    truth = difference(drifted(real, rate), late)
    moved, spoof = aligned(real, late, found)
    offset = len(late) - len(spoof)
    assert offset < 800
    ours = difference(moved, spoof)
    fixed = difference(*align(real, late, found.lag))

    def dice(first):
        size = min(first.shape[1], truth.shape[1])
        return float(2 * (first[:, :size] & truth[:, :size]).sum() / (first[:, :size].sum() + truth[:, :size].sum()))

    assert dice(ours) > 0.7
    assert dice(ours) > dice(fixed) + 0.3


def test_a_constant_path_gives_the_recording_back():
    sound = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    for lag in (0, 37, -500):
        moved, first, last = warped(sound, ((0, lag), (21_000, lag)), 20_000)
        assert last - first > 18_000
        torch.testing.assert_close(moved, sound[first - lag : last - lag], atol=1e-5, rtol=0)


def test_a_path_that_leaves_nothing_is_an_error():
    with pytest.raises(PairError, match=r"path must leave an overlap of at least 2 samples"):
        warped(torch.ones(5000), ((0, 9000), (5000, 9000)), 5000)


def test_other_speech_is_refused_with_a_number(shared_data):
    """Other words by the same voice, and two read alike: no path makes them twins."""
    groups = defaultdict(list)
    with (shared_data / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["set"] == "public_pairs" and row["vocoder"] == "bonafide" and row["source"] in ("freev", "univnet_mindslab"):
                groups[row["source"]].append(read_audio(shared_data / row["path"], max_seconds=5))
    for recordings in groups.values():
        for first, second in pairwise(recordings[:6]):
            size = min(len(first), len(second))
            with pytest.raises(PairError, match=r"envelope correlation of 0\.[0-6]\d"):
                measure(first[:size], second[:size])


def test_the_same_sentence_by_another_speaker_is_refused_with_the_number(shared_data):
    groups = defaultdict(list)
    with (shared_data / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["source"] == "vctk_autovc":
                groups[row["utterance_id"].rpartition("_")[2]].append(read_audio(shared_data / row["path"]))
    pairs = [p for group in groups.values() for p in pairwise(group)]
    alike = [p for p in pairs if max(map(len, p)) < 1.2 * min(map(len, p))][:8]
    assert len(alike) == 8
    for first, second in alike:
        with pytest.raises(PairError, match=r"envelope correlation of 0\.[0-4]\d"):
            measure(first, second)


def test_lengths_that_differ_are_refused():
    sound = torch.randn(32_000, generator=torch.Generator().manual_seed(1))
    with pytest.raises(PairError, match=r"got 1\.00 s and 2\.00 s"):
        measure(sound, sound[:16_000])


def test_smallest_at_or_after_each_place():
    values = np.array([3.0, 1.0, 2.0, 1.0, 5.0])
    assert _argmin_suffix(values).tolist() == [1, 1, 3, 3, 4]


def test_undefined_numbers_survive_the_cache():
    found = Alignment(3, 0.9, float("nan"), float("nan"), 1.0, ((0, 3), (10, 4)))
    again = Alignment.of_json(found.as_json())
    assert np.isnan(again.residual_p95_ms)
    assert replace(again, residual_p50_ms=0, residual_p95_ms=0, constant_p95_ms=0) == replace(
        found, residual_p50_ms=0, residual_p95_ms=0, constant_p95_ms=0
    )
