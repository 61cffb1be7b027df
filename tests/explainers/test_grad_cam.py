"""Grad-CAM against its definition, its place on both axes, and the detectors that it refuses."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xaibench.benchmark.check import check_explainer, example_clips
from xaibench.errors import NotApplicableError
from xaibench.explainers.grad_cam import enlarge, rows
from xaibench.registry import EXPLAINERS
from xaibench.tasks.detectors.aasist import AASIST, band_pass_filters
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, stft
from xaibench.types import SAMPLE_RATE, Detector

GRID = STFTConfig(256, 64)
SAMPLES = 8192


class Energy(Detector):
    """Convolution over the magnitude, then the mean: hears a burst wherever it is."""

    name = "energy"
    input_samples = SAMPLES
    grid = GRID

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.last = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        for layer in (self.first, self.last):
            nn.init.constant_(layer.weight, 0.1)
            nn.init.zeros_(layer.bias)
        self.eval()

    def forward(self, waveform: Tensor) -> Tensor:
        return self.last(self.first(stft(waveform, GRID).abs()[:, None]).relu()).relu().mean(dim=(1, 2, 3))


def burst(hz: float, second: float) -> Tensor:
    time = torch.arange(SAMPLES) / SAMPLE_RATE
    return (0.5 * torch.sin(2 * torch.pi * hz * time) * torch.exp(-(((time - second) / 0.02) ** 2)))[None]


def test_map_is_channels_times_mean_gradient_by_slow_count():
    detector, clip = Energy(), burst(3000, 0.2)
    features = detector.first(stft(clip, GRID).abs()[:, None]).relu()
    features = detector.last(features).detach().requires_grad_(True)
    slope = torch.autograd.grad(features.relu().mean(dim=(1, 2, 3)).sum(), features)[0]
    expected = torch.zeros(features.shape[-2:])
    for channel in range(3):
        expected += slope[0, channel].mean() * features[0, channel].detach()
    heatmap = EXPLAINERS.load("grad_cam", stft=GRID, relu=False).explain(clip, detector)
    place = torch.linspace(0, 1, GRID.bins)
    assert torch.allclose(heatmap, enlarge(expected[None], place, GRID.frames(SAMPLES)), atol=1e-7)


def test_enlarging_keeps_a_plane_and_its_corners():
    plane = torch.arange(4.0)[:, None] + 10 * torch.arange(6.0)
    out = enlarge(plane[None], torch.linspace(0, 1, 41), 61)[0]
    assert torch.allclose(out[:, 30].diff()[8:-8], torch.full((24,), 0.1), atol=1e-5)
    assert torch.allclose(out[20].diff()[8:-8], torch.full((44,), 1.0), atol=1e-4)
    assert torch.equal(out[[0, -1]][:, [0, -1]], plane[[0, -1]][:, [0, -1]])


@pytest.mark.parametrize(("hz", "second"), [(1000, 0.1), (3000, 0.4), (6500, 0.25)])
def test_a_burst_is_found_in_frequency_and_time(hz, second):
    heatmap = EXPLAINERS.load("grad_cam", stft=GRID).explain(burst(hz, second), Energy())[0]
    row, column = divmod(int(heatmap.argmax()), heatmap.shape[1])
    assert abs(GRID.frequencies_hz()[row] - hz) < 300
    assert abs(column * GRID.hop_samples / SAMPLE_RATE - second) < 0.03


def test_rows_of_a_filter_bank_lie_at_their_own_frequencies():
    place = rows(AASIST("random"), DEFAULT_STFT)
    spectra = torch.fft.rfft(band_pass_filters(70, 129), 1024).abs()  # (70, 513)
    for band in (5, 30, 60):
        center = (spectra[band] * torch.arange(513)).sum() / spectra[band].sum() if band > 50 else spectra[band].argmax()
        assert abs(float(place[int(center)]) * 70 - (band + 0.5)) < 1.5


class Raw(Detector):
    name = "raw"

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, waveform: Tensor) -> Tensor:
        return functional.relu(self.layer(waveform[:, None])).mean(dim=(1, 2))


@pytest.mark.parametrize(
    ("layer", "reason"), [(nn.Conv1d(1, 2, 5), "has no 2-D convolution"), (nn.Conv2d(1, 2, 5), "neither an STFT grid")]
)
def test_detectors_without_a_map_are_refused(layer, reason):
    explainer, detector = EXPLAINERS.load("grad_cam"), Raw(layer)
    applicable, why = explainer.applicable(detector)
    assert not applicable
    assert reason in why
    with pytest.raises(NotApplicableError, match="detector must have a convolutional map"):
        explainer.explain(torch.zeros(1, SAMPLES), detector)


def test_the_contract():
    detector = SpectrogramCNN("random", config=SpectrogramCNNConfig((4, 6, 8, 8), 256, 64))
    assert not check_explainer(EXPLAINERS.load("grad_cam", stft=GRID), detector, samples=example_clips(SAMPLES))
    assert EXPLAINERS.load("grad_cam").explain(example_clips(8_000)[:1], AASIST("random")).shape == (1, 513, 32)
