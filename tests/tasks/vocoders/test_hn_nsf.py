import math

import pytest
import torch
from scipy.signal import firwin
from torch import Tensor

from xaibench.tasks.vocoders.neural.features import HOP
from xaibench.tasks.vocoders.neural.hn_nsf import HARMONICS, SINE, filtered, phase_cycles, sinc_filters, sine_source


def seeded(seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed)]


def test_a_constant_pitch_gives_the_sines_of_a_textbook() -> None:
    f0, samples = 200.0, 8000
    source = sine_source(torch.full((1, 41), f0), samples, seeded(0))[0].double()
    time = torch.arange(samples, dtype=torch.double) / 16_000
    for k in range(1, HARMONICS + 1):
        probe = torch.polar(torch.ones(samples, dtype=torch.double), -2 * math.pi * k * f0 * time)
        amplitude = 2 * (source[k - 1] * probe).mean().abs()  # a whole number of periods
        assert float(amplitude) == pytest.approx(SINE, rel=0.01)
        residue = source[k - 1].square().mean() - amplitude**2 / 2
        assert float(residue) == pytest.approx((SINE / 30) ** 2, rel=0.2)


def test_the_phase_never_jumps_where_pitch_moves_or_pauses() -> None:
    f0 = torch.tensor([[100.0] * 10 + [300.0] * 10 + [0.0] * 10 + [150.0] * 11])
    cycles, voiced = phase_cycles(f0, 8000)
    steps = torch.diff(cycles[0]) * 16_000
    assert float(steps.min()) >= 0
    assert float(steps.max()) <= 300 + 1e-6
    assert float(steps[10 * HOP : 19 * HOP - 1].max() - steps[10 * HOP : 19 * HOP - 1].min()) < 1e-6
    assert float(torch.diff(steps[8 * HOP : 11 * HOP]).abs().max()) <= 200 / HOP + 1e-6  # the glide from 100 to 300 Hz lasts one frame
    assert not steps[21 * HOP : 28 * HOP].any()  # the phase rests in the pause
    assert voiced[0].float().mean() == pytest.approx(31 / 41, abs=0.03)
    # An instantaneous frequency that is integrated: 200 Hz for one second are 200 cycles.
    assert float(phase_cycles(torch.full((1, 81), 200.0), 16_000)[0][0, -1]) == pytest.approx(200)


def test_harmonics_above_the_nyquist_frequency_are_silent() -> None:
    source = sine_source(torch.full((1, 41), 1500.0), 8000, seeded(0))[0]
    power = source.square().mean(-1)
    assert (power[:5] > SINE**2 / 3).all()
    assert (power[5:] < 2 * (SINE / 30) ** 2).all()


def test_unvoiced_speech_is_excited_by_noise_alone() -> None:
    source = sine_source(torch.zeros(1, 41), 8000, seeded(0))
    assert source.std() == pytest.approx(SINE / 3, rel=0.02)
    assert torch.equal(source, sine_source(torch.zeros(1, 41), 8000, seeded(0)))
    assert not torch.equal(source, sine_source(torch.zeros(1, 41), 8000, seeded(1)))


@pytest.mark.parametrize("corner", [0.2, 0.7])
def test_filters_are_scipys_and_complete_each_other(corner: float) -> None:
    low, high = sinc_filters(torch.tensor([corner], dtype=torch.double))
    torch.testing.assert_close(low[0], torch.from_numpy(firwin(31, corner, window="hamming")), rtol=0, atol=1e-12)
    signal = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    taps = [t[:, None].expand(1, 16, 31) for t in (low, high)]
    torch.testing.assert_close(filtered(signal, taps[0]) + filtered(signal, taps[1]), signal)
    tone: Tensor = torch.sin(math.pi * (corner + 0.2) * torch.arange(3000, dtype=torch.double))[None]
    assert filtered(tone, taps[0])[0, 50:-50].std() < 0.02 * tone.std()
