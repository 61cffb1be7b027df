"""RawWrapper gives the detector's own answer, and its gradient is input x gradient of the spectrum."""

import pytest
import torch
from torch import Tensor

from xaibench.benchmark.check import example_clips
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN
from xaibench.tasks.spectrogram import STFTConfig, inverse, stft
from xaibench.types import CLIP_SAMPLES, Detector

SAMPLES = 4000
GRIDS = [STFTConfig(), STFTConfig(640, 320)]


class Uneven(Detector):
    """Not linear, not invariant to level, not invariant to time: nothing cancels by chance."""

    def forward(self, waveform: Tensor) -> Tensor:
        weights = torch.linspace(-1, 2, waveform.shape[-1], dtype=waveform.dtype)
        return torch.tanh(waveform * 3 * weights).sum(-1) + 5 * (weights * waveform**2).sum(-1)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_wrapped_detector_answers_as_on_the_waveform(grid: STFTConfig):
    detector, clips = SpectrogramCNN("random"), example_clips(CLIP_SAMPLES)
    wrapper = RawWrapper(detector, grid)
    magnitude, phase = wrapper.split(clips)
    assert magnitude.shape == (2, grid.bins, grid.frames(CLIP_SAMPLES))
    torch.testing.assert_close(wrapper.waveform(magnitude, phase), clips, rtol=0, atol=2e-6)
    torch.testing.assert_close(wrapper(magnitude, phase), detector(clips), rtol=0, atol=1e-4)


def test_silence_is_rebuilt_as_silence():
    wrapper = RawWrapper(Uneven(), samples=SAMPLES)
    assert not wrapper.waveform(*wrapper.split(torch.zeros(1, SAMPLES))).any()


@pytest.mark.parametrize("grid", GRIDS)
def test_gradient_by_log_magnitude_is_input_times_gradient_of_spectrum_and_waveform(grid: STFTConfig):
    clips, detector = example_clips(SAMPLES).double(), Uneven()
    wrapper = RawWrapper(detector, grid, SAMPLES)
    magnitude, phase = wrapper.split(clips)
    magnitude.requires_grad_(True)
    (by_magnitude,) = torch.autograd.grad(wrapper(magnitude, phase).sum(), magnitude)

    spectrum = torch.view_as_real(stft(clips, grid)).clone().requires_grad_(True)
    logits = detector(inverse(torch.view_as_complex(spectrum), SAMPLES, grid))
    (slope,) = torch.autograd.grad(logits.sum(), spectrum)
    torch.testing.assert_close(by_magnitude, (spectrum * slope).sum(-1).detach(), rtol=1e-4, atol=1e-6)

    heard = clips.clone().requires_grad_(True)
    (by_sample,) = torch.autograd.grad(detector(heard).sum(), heard)
    torch.testing.assert_close(by_magnitude.sum((1, 2)), (clips * by_sample).sum(-1), rtol=1e-5, atol=1e-5)


def test_another_grid_or_length_is_refused():
    wrapper = RawWrapper(Uneven(), samples=SAMPLES)
    magnitude, phase = wrapper.split(example_clips(SAMPLES))
    with pytest.raises(ValueError, match=r"must both have shape \(B, 513, 16\), got \(2, 513, 15\)"):
        wrapper(magnitude[..., :-1], phase[..., :-1])
    with pytest.raises(ValueError, match="must both have shape"):
        wrapper(magnitude, phase[:1])
