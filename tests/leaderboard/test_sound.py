import io

import pytest
import soundfile
import torch

from xaibench.leaderboard.sound import flac_bytes, match_level, split
from xaibench.tasks.spectrogram import stft

TIME = torch.arange(16_000) / 16_000
LOW, HIGH = 0.3 * torch.sin(2 * torch.pi * 500 * TIME), 0.05 * torch.sin(2 * torch.pi * 5000 * TIME)


def share(waveform: torch.Tensor, low: int, high: int) -> float:
    power = stft(waveform).abs().square()
    return float(power[low:high].sum() / power.sum())


def test_split_separates_bands_and_matches_the_level() -> None:
    clip = LOW + HIGH
    mask = torch.zeros(513, 63, dtype=torch.bool)
    mask[256:] = True
    only, rest = split(clip, mask)
    assert share(only.waveform, 300, 340) > 0.99
    assert share(rest.waveform, 20, 50) > 0.99
    for sound in (only, rest):
        assert float(sound.waveform.square().mean().sqrt()) == pytest.approx(float(clip.square().mean().sqrt()), rel=1e-3)
    assert only.gain_db == pytest.approx(15.7, abs=0.3)


def test_parts_without_level_match_add_up_to_the_clip() -> None:
    clip = LOW + HIGH
    mask = torch.rand(513, 63, generator=torch.Generator().manual_seed(0)) < 0.05
    only, rest = split(clip, mask)
    total = only.waveform / 10 ** (only.gain_db / 20) + rest.waveform / 10 ** (rest.gain_db / 20)
    torch.testing.assert_close(total, clip, atol=1e-4, rtol=0)


def test_level_match_never_clips_and_keeps_silence() -> None:
    click = torch.zeros(16_000)
    click[8000] = 0.1
    assert float(match_level(click, LOW).waveform.abs().max()) <= 0.98 + 1e-6
    silent = match_level(torch.zeros(100), LOW)
    assert silent.silent
    assert not silent.waveform.any()


def test_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask must have the grid's shape \(513, 63\), got \(513, 64\)"):
        split(LOW, torch.zeros(513, 64, dtype=torch.bool))


def test_flac_is_lossless_and_repeatable() -> None:
    content = flac_bytes(LOW)
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    assert rate == 16_000
    torch.testing.assert_close(torch.from_numpy(samples), LOW, atol=1 / 32_768, rtol=0)
    assert flac_bytes(LOW) == content
