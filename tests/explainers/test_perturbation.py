"""Occlusion and RISE against detectors whose answer is known cell by cell."""

import pytest
import torch
from torch import Tensor

from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import STFTConfig, inverse, magnitude, stft
from xaibench.types import Detector

GRID = STFTConfig(64, 16)
SAMPLES = 2048


class BandDetector(Detector):
    """Energy of bins 16 to 23, frames 64 to 96: a detector that looks at one place."""

    name = "band"

    def forward(self, waveform: Tensor) -> Tensor:
        return (magnitude(waveform, GRID)[:, 16:24, 64:96] ** 2).mean(dim=(1, 2))


def noise(seed: int = 0, clips: int = 1) -> Tensor:
    return 0.1 * torch.randn(clips, SAMPLES, generator=torch.Generator().manual_seed(seed))


def test_occlusion_is_the_loss_of_each_tile_by_slow_count():
    clip = noise()
    explainer = EXPLAINERS.load("occlusion", bands=4, segments=5, chunk_size=3, stft=GRID)
    heatmap = explainer.explain(clip, BandDetector())[0]
    spectrum = stft(clip, GRID)
    loudest = spectrum.abs().max()
    for row in (0, 15, 16):
        for column in (64, 128):
            edited = spectrum.clone()
            tile = (row * 4 // 33, column * 5 // 129)
            for f in range(33):
                for n in range(129):
                    size = float(spectrum[0, f, n].abs())
                    if (f * 4 // 33, n * 5 // 129) == tile and size > 1e-3 * float(loudest):
                        edited[0, f, n] *= 1e-3 * float(loudest) / size
            lost = BandDetector()(clip) - BandDetector()(inverse(edited, SAMPLES, GRID))
            torch.testing.assert_close(heatmap[row, column], lost[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["occlusion:bands=8,segments=8", "rise:n_masks=400"])
def test_perturbation_points_at_the_place_that_the_detector_uses(name: str):
    heatmap = EXPLAINERS.load(name, stft=GRID).explain(noise(), BandDetector(), generator=torch.Generator().manual_seed(0))[0]
    inside = heatmap[16:24, 64:96].mean()
    assert inside > 5 * heatmap[:8].abs().mean()
    assert inside > 3 * heatmap[16:24, :32].abs().mean()


def test_rise_draws_its_masks_clip_by_clip():
    explainer = EXPLAINERS.load("rise", n_masks=8, stft=GRID)
    clips = noise(clips=2)
    both = explainer.explain(clips, BandDetector(), generator=[torch.Generator().manual_seed(s) for s in (3, 4)])
    alone = explainer.explain(clips[1:], BandDetector(), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(both[1], alone[0])


def test_rise_converges_on_a_linear_detector():
    """For log-odds linear in the mask, the covariance with the mask is the weight times the mask's variance."""
    clip = noise(1)
    wide = EXPLAINERS.load("rise", n_masks=1000, stft=GRID, bands=3, segments=3).explain(clip, _LinearInMagnitude(clip))[0]
    top, bottom = wide[:10].mean(), wide[-10:].mean()
    assert top > 0.8 * wide.max() / 2
    assert abs(float(bottom)) < 0.15 * float(top)


class _LinearInMagnitude(Detector):
    """Correlation with the clip's own low band: linear in the mask of that band."""

    name = "linear"

    def __init__(self, clip: Tensor):
        super().__init__()
        spectrum = stft(clip, GRID)
        spectrum[:, 12:] = 0
        self.register_buffer("template", inverse(spectrum, SAMPLES, GRID)[0])

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform @ self.template


@pytest.mark.parametrize("spec", ["occlusion:bands=0", "rise:n_masks=1", "rise:keep=1.0"])
def test_settings_without_information_are_refused(spec: str):
    with pytest.raises(ValueError, match="must be"):
        EXPLAINERS.load(spec)
