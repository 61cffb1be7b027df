"""The grid: exact both ways, differentiable, and the cells that count."""

import math

import numpy as np
import pytest
import torch

from xaibench.tasks.spectrogram import (
    DEFAULT_STFT,
    LOG_FLOOR,
    STFTConfig,
    inverse,
    inverse_frames,
    log_magnitude,
    magnitude,
    stft,
    valid_cells,
)

GRIDS = [STFTConfig(1024, 256), STFTConfig(640, 320)]


def noise(batch: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("samples", [64_600, 16_001, 1_025])
def test_inverse_rebuilds_the_waveform(grid: STFTConfig, samples: int) -> None:
    waveform = noise(2, samples)
    rebuilt = inverse(stft(waveform, grid), samples, grid)
    assert rebuilt.shape == waveform.shape
    assert (rebuilt - waveform).abs().max() < 1e-5


@pytest.mark.parametrize("grid", [*GRIDS, STFTConfig(32, 8), STFTConfig(30, 7)], ids=str)
@pytest.mark.parametrize("samples", [16_001, 1_025])
def test_inverse_frame_by_frame_is_the_inverse_also_of_what_no_waveform_has(grid: STFTConfig, samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(3, grid.bins, grid.frames(samples), dtype=torch.complex64, generator=generator)
    expected = inverse(spectrum, samples, grid)
    found = inverse_frames(spectrum.transpose(1, 2).contiguous(), samples, grid)
    assert found.shape == expected.shape == (3, samples)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    weights = noise(3, samples)
    spectrum.requires_grad_()
    derivatives = [
        torch.autograd.grad((rebuild * weights).sum(), spectrum)[0]
        for rebuild in (inverse(spectrum, samples, grid), inverse_frames(spectrum.transpose(1, 2), samples, grid))
    ]
    torch.testing.assert_close(*derivatives, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("grid", "shape"), list(zip(GRIDS, [(513, 253), (321, 202)], strict=True)), ids=str)
def test_shape_of_a_clip(grid: STFTConfig, shape: tuple[int, int]) -> None:
    assert tuple(stft(noise(1, 64_600), grid).shape[1:]) == shape == (grid.bins, grid.frames(64_600))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_frame_is_the_windowed_fourier_sum(grid: STFTConfig) -> None:
    waveform, frame = noise(1, 8_000).double(), 9
    window, hop = grid.window_samples, grid.hop_samples
    n = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
    start = frame * hop - window // 2
    segment = waveform[0].numpy()[start : start + window] * hann
    expected = np.array([(segment * np.exp(-2j * np.pi * k * n / window)).sum() for k in range(grid.bins)])
    np.testing.assert_allclose(stft(waveform, grid)[0, :, frame].numpy(), expected, atol=1e-9)


def test_first_frame_mirrors_the_start() -> None:
    waveform = noise(1, 4_000)
    mirrored = torch.cat([waveform[:, 1:513].flip(1), waveform], dim=1)
    torch.testing.assert_close(stft(waveform)[:, :, 0], stft(mirrored)[:, :, 2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gradients_flow_both_ways(grid: STFTConfig) -> None:
    waveform = noise(1, 4_000).requires_grad_()
    weights = noise(1, 4_000, seed=1)
    (inverse(stft(waveform, grid), 4_000, grid) * weights).sum().backward()
    torch.testing.assert_close(waveform.grad, weights, atol=1e-5, rtol=0)  # inverse(stft(x)) is the identity, and so is its derivative


def test_log_magnitude_has_the_gradient_of_a_finite_difference() -> None:
    waveform = noise(1, 2_048).double().requires_grad_()
    direction = noise(1, 2_048, seed=2).double()
    log_magnitude(waveform).sum().backward()
    with torch.no_grad():
        step = 1e-6
        numeric = (log_magnitude(waveform + step * direction).sum() - log_magnitude(waveform - step * direction).sum()) / (2 * step)
    assert waveform.grad is not None
    assert float((waveform.grad * direction).sum()) == pytest.approx(float(numeric), rel=1e-5)


def test_silence_has_a_finite_log_and_no_nan_gradient() -> None:
    silent = torch.zeros(1, 2_048, requires_grad=True)
    logs = log_magnitude(silent)
    logs.sum().backward()
    torch.testing.assert_close(logs, torch.full_like(logs, math.log(LOG_FLOOR)))
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


def test_magnitude_of_a_tone_peaks_at_its_bin() -> None:
    tone = torch.sin(2 * math.pi * 1_000 * torch.arange(16_000) / 16_000)[None]
    grid = magnitude(tone)[0]
    assert set(grid[:, 5:-5].argmax(0).tolist()) == {64}
    assert float(grid[64, 30]) == pytest.approx(256, rel=1e-3)  # a quarter of the window for a unit sine under Hann
    assert float(DEFAULT_STFT.frequencies_hz()[64]) == 1_000


def test_a_batch_equals_its_singles() -> None:
    batch = noise(3, 5_000)
    assert torch.equal(stft(batch)[1], stft(batch[1:2])[0])
    assert torch.equal(stft(batch[1]), stft(batch)[1])


def test_valid_cells_end_where_a_window_meets_the_tile() -> None:
    valid = valid_cells(10_000, 64_600)
    assert valid.shape == (513, 253)
    frames = [n for n in range(253) if n * 256 + 512 <= 10_000]
    assert valid[0].nonzero().squeeze(1).tolist() == frames
    assert bool((valid == valid[0]).all())


@pytest.mark.parametrize("samples", [64_600, 70_000])
def test_all_cells_are_valid_where_nothing_is_tiled(samples: int) -> None:
    assert bool(valid_cells(samples, 64_600).all())


def test_tiled_samples_cannot_reach_a_valid_cell() -> None:
    clip = noise(1, 10_000)
    one, other = torch.cat([clip, clip, clip], 1), torch.cat([clip, -clip, noise(1, 10_000, seed=3)], 1)
    same = (stft(one) == stft(other)).all(0)
    valid = valid_cells(10_000, 30_000)
    assert bool(same[valid].all())
    assert not bool(same[~valid].all())


def test_the_hash_names_the_grid() -> None:
    assert STFTConfig.parse("640/320") == STFTConfig(640, 320)
    assert STFTConfig(1024, 256).content_hash() == DEFAULT_STFT.content_hash() != STFTConfig(640, 320).content_hash()


@pytest.mark.parametrize(
    ("window", "hop", "message"),
    [
        (1023, 256, "window_samples must be even"),
        (0, 1, "window_samples must be even"),
        (1024, 513, r"hop_samples must be in 1\.\.512"),
        (8, 0, "hop_samples"),
    ],
)
def test_grids_that_lose_samples_are_refused(window: int, hop: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STFTConfig(window, hop)


@pytest.mark.parametrize("text", ["1024", "1024/", "a/b", "1024/256/1"])
def test_malformed_grid_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="stft must be WINDOW/HOP"):
        STFTConfig.parse(text)


def test_a_clip_shorter_than_half_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 512 samples, got 512"):
        stft(torch.zeros(1, 512))


def test_a_grid_first_used_under_inference_mode_can_be_differentiated_later() -> None:
    grid = STFTConfig(48, 12)
    with torch.inference_mode():
        stft(torch.zeros(1, 480), grid)
    waveform = torch.randn(1, 480, generator=torch.Generator().manual_seed(0), requires_grad=True)
    magnitude(waveform, grid).sum().backward()
    assert waveform.grad is not None
