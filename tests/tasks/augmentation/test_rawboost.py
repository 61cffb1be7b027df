"""RawBoost for twins: equal twins stay equal, noise keeps the difference, and each algorithm against its published definition."""

import numpy as np
import pytest
import torch
from scipy.signal import firwin, freqz, lfilter

from xaibench.tasks.augmentation.notch import NotchRanges, draw_notch, filtered
from xaibench.tasks.augmentation.rawboost import STAGES, RawBoost, RawBoostParams
from xaibench.tasks.masks import truth
from xaibench.types import Clip, Pair

SAMPLES = 9_000


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def twins(level: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    speech, artifact = torch.randn(2, SAMPLES, generator=seeded(99))
    return level * speech.cumsum(0).sin(), level * (speech.cumsum(0).sin() + 0.1 * artifact)


@pytest.mark.parametrize("algorithm", STAGES)
@pytest.mark.parametrize("level", [0.05, 0.3, 1.5])
def test_equal_twins_stay_equal_and_seeds_decide(algorithm: int, level: float):
    bonafide, spoof = twins(level)
    boost = RawBoost(algorithm)
    one = boost(bonafide, bonafide.clone(), seeded(algorithm))
    assert torch.equal(one.bonafide, one.spoof)
    assert one.bonafide.dtype == torch.float32
    assert not torch.allclose(one.bonafide, bonafide * one.gain, atol=1e-4)
    pair = boost(bonafide, spoof, seeded(algorithm))
    assert max(float(t.abs().max()) for t in pair[:2]) <= 1
    assert torch.equal(boost(bonafide, spoof, seeded(algorithm)).spoof, pair.spoof)
    assert not torch.equal(boost(bonafide, spoof, seeded(algorithm + 1)).spoof, pair.spoof)


@pytest.mark.parametrize("level", [0.05, 1.0])
def test_under_noise_the_difference_is_the_clean_one_times_the_common_gain(level: float):
    bonafide, spoof = twins(level)
    for seed in range(5):
        boosted = RawBoost(3)(bonafide, spoof, seeded(seed))
        assert (boosted.gain < 1) == (level == 1.0)
        difference = boosted.spoof - boosted.bonafide
        torch.testing.assert_close(difference, boosted.gain * (spoof - bonafide), rtol=0, atol=1e-6)
        noise = boosted.bonafide.double() / boosted.gain - bonafide.double()
        snr_db = 20 * torch.log10(bonafide.double().norm() / noise.norm())
        assert 10 <= snr_db <= 40


def published_filter(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Filter as published, less the one sample by which the published code comes early."""
    delay = (len(taps) - 1) // 2
    return lfilter(taps, 1, np.pad(x, (0, delay)))[delay:]


def published(algorithm: int, x: np.ndarray, params: RawBoostParams, norm: float) -> np.ndarray:
    """Disturb one recording by the paper's definitions and the drawn values; ``norm`` is the recording's where noise is added."""

    def lnl(signal: np.ndarray) -> np.ndarray:
        total = np.zeros_like(signal)
        for power, taps in enumerate(params.filters):
            total = total + published_filter(np.power(signal, power + 1), taps.numpy())
        return total - np.mean(total)

    def isd(signal: np.ndarray) -> np.ndarray:
        out = signal.copy()
        places, factors = (t.numpy() for t in params.impulses)
        out[places] = signal[places] + factors * signal[places]
        return out

    def ssi(signal: np.ndarray) -> np.ndarray:
        return signal + params.noise.numpy() * norm / 10 ** (0.05 * params.snr_db)

    if algorithm == 8:
        return lnl(x) + isd(x)
    for step in {1: [lnl], 2: [isd], 3: [ssi], 4: [lnl, isd, ssi], 5: [lnl, isd], 6: [lnl, ssi], 7: [isd, ssi]}[algorithm]:
        x = step(x)
    return x


@pytest.mark.parametrize("algorithm", STAGES)
def test_each_algorithm_follows_its_published_definition(algorithm: int):
    bonafide, spoof = twins(0.02)  # quiet: no peak reaches 1
    params = RawBoost(algorithm).draw(SAMPLES, seeded(7))
    before_noise = {4: 5, 6: 1, 7: 2}.get(algorithm)  # the noise's level is that of the recording as it arrives there
    arriving = bonafide.double().numpy() if before_noise is None else published(before_noise, bonafide.double().numpy(), params, 0.0)
    boosted = RawBoost(algorithm).apply(bonafide, spoof, params)
    assert boosted.gain == 1
    for given, out in ((bonafide, boosted.bonafide), (spoof, boosted.spoof)):
        expected = published(algorithm, given.double().numpy(), params, float(np.linalg.norm(arriving)))
        np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=2e-7)


def test_filters_are_normalized_cascades_of_band_stops():
    assert len(draw_notch(NotchRanges(n_bands=0), (0, 0), seeded(0))) == 1
    for seed in range(8):
        one = NotchRanges(n_bands=1, center_hz=(2000, 2000), bandwidth_hz=(400, 400), taps=(10 + seed, 10 + seed))
        taps = draw_notch(one, (-6, -6), seeded(seed)).numpy()
        expected = firwin((10 + seed) | 1, [1800, 2200], window="hamming", pass_zero=True, fs=16_000)
        response = np.abs(freqz(taps, 1, fs=16_000)[1])
        assert len(taps) % 2 == 1
        assert response.max() == pytest.approx(10 ** (-6 / 20), rel=1e-3)
        np.testing.assert_allclose(taps / taps[len(taps) // 2], expected / expected[len(expected) // 2], atol=1e-9)
    many = [draw_notch(NotchRanges(), (0, 0), seeded(seed)) for seed in range(30)]
    assert all(5 * 11 - 4 <= len(taps) <= 5 * 101 - 4 and len(taps) % 2 for taps in many)
    assert len({len(taps) for taps in many}) > 10


def test_filtering_does_not_move_the_signal():
    click = torch.zeros(2001, dtype=torch.float64)
    click[1000] = 1
    out = filtered(click, draw_notch(NotchRanges(), (0, 0), seeded(3)))
    assert out.abs().argmax() == 1000
    torch.testing.assert_close(out, out.flip(0), rtol=0, atol=1e-12)


def test_ranges_are_the_published_ones():
    draws = [RawBoost(4).draw(1000, seeded(seed)) for seed in range(60)]
    assert {len(d.filters) for d in draws} == {5}
    linear, higher = (
        torch.tensor([20 * torch.log10(torch.fft.rfft(f, 1024).abs().max()) for d in draws for f in d.filters[s]])
        for s in (slice(0, 1), slice(1, 5))
    )
    assert linear.abs().max() < 1e-6
    assert -20 <= higher.min() < -19
    assert -6 < higher.max() <= -5
    reached = torch.tensor([len(d.impulses.positions) for d in draws])
    assert 0 <= reached.min() < 10
    assert 90 < reached.max() <= 100
    factors = torch.cat([d.impulses.factors for d in draws])
    assert 1.9 < factors.abs().max() <= 2
    assert abs(factors.mean()) < 0.1
    assert factors.abs().mean() == pytest.approx(0.5, abs=0.05)  # 2 E|U| E|U|
    assert all(len(d.impulses.positions.unique()) == len(d.impulses.positions) for d in draws)


def test_masks_come_from_the_clean_pair_unless_asked_otherwise():
    bonafide, spoof = twins(0.2)
    clip = Clip(Pair("p", "u", "s", "v", "a", "b"), bonafide, spoof, SAMPLES)
    heard, source = RawBoost(5).clip(clip, seeded(0))
    assert source is clip
    assert not torch.equal(heard.bonafide, bonafide)
    assert heard.valid_samples == SAMPLES
    again, own = RawBoost(5, masks="augmented").clip(clip, seeded(0))
    assert own is again
    assert torch.equal(again.spoof, heard.spoof)
    recipe = "sym-floor60-v1"
    assert not torch.equal(truth(source, recipe).mask, truth(own, recipe).mask)
    noisy, _ = RawBoost(3).clip(Clip(clip.pair, bonafide, bonafide, SAMPLES), seeded(0))
    assert torch.equal(noisy.bonafide, noisy.spoof)


def test_nonsense_is_refused():
    bonafide, spoof = twins()
    with pytest.raises(ValueError, match=r"algorithm must be 1 to 8, got 9; use for example 5"):
        RawBoost(9)
    with pytest.raises(ValueError, match="masks must be clean or augmented, got 'both'"):
        RawBoost(masks="both")
    with pytest.raises(ValueError, match=r"must both have shape \(T,\), got \(9000,\) and \(8999,\)"):
        RawBoost()(bonafide, spoof[1:], seeded(0))
    with pytest.raises(ValueError, match=r"params must be drawn for 9000 samples"):
        RawBoost(3).apply(bonafide, spoof, RawBoost(3).draw(100, seeded(0)))
    with pytest.raises(ValueError, match=r"params must be drawn for 9000 samples"):
        RawBoost(2).apply(bonafide, spoof, RawBoost(2).draw(900_000, seeded(1)))
