"""Alignment on synthetic echoes of speech-like noise and on real twins: lag, overlap, level, and the refusal of false twins."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xaibench.errors import PairError
from xaibench.tasks import alignment
from xaibench.tasks.alignment import align, band_energies, check_twins, constant_lag, match_level, similarity
from xaibench.tasks.audio import read_audio
from xaibench.types import SAMPLE_RATE

SHIFTS = (5, 37, 250, -1, -90, -1000)


def syllables(seconds: float = 3.0, seed: int = 0) -> Tensor:
    """Bursts of differently colored noise, the poorest signal that has a rhythm to align by."""
    generator = torch.Generator().manual_seed(seed)
    length, pieces = round(seconds * SAMPLE_RATE), round(seconds * 6)
    waveform = 1e-3 * torch.randn(length, generator=generator)
    for _ in range(pieces):
        start = int(torch.randint(0, length - 2_000, (1,), generator=generator))
        size = int(torch.randint(800, 2_000, (1,), generator=generator))
        pitch = float(torch.rand(1, generator=generator)) * 3_000 + 100
        tone = torch.sin(2 * math.pi * pitch * torch.arange(size) / SAMPLE_RATE) * torch.hann_window(size)
        waveform[start : start + size] += 0.2 * tone
    return waveform


def new_phases(waveform: Tensor, radians: float = 1.3) -> Tensor:
    """Keep all envelopes and lose the waveform, as a vocoder does: every frequency turned by the same angle, which delays nothing."""
    spectrum = torch.fft.rfft(waveform)
    return torch.fft.irfft(spectrum * torch.polar(torch.tensor(1.0), torch.tensor(radians)), len(waveform))


def shifted(waveform: Tensor, other: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """Make ``other`` later by ``shift`` samples by cutting, never by padding."""
    return (waveform[shift:], other) if shift > 0 else (waveform, other[-shift:])


@pytest.fixture(scope="module")
def listing(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [{**r, "root": str(shared_data)} for r in csv.DictReader(file) if r["gt_path"]]


def load(row: dict[str, str], max_seconds: float | None = None) -> tuple[Tensor, Tensor]:
    real, fake = (read_audio(Path(row["root"]) / row[key], max_seconds=max_seconds) for key in ("gt_path", "path"))
    return real, fake


def a_dozen(listing: list[dict[str, str]]) -> list[dict[str, str]]:
    return [listing[round(i * (len(listing) - 1) / 11)] for i in range(12)]


@pytest.mark.parametrize("shift", [0, *SHIFTS])
def test_lag_of_a_twin_without_phase(shift: int) -> None:
    real = syllables()
    assert abs(constant_lag(*shifted(real, new_phases(real), shift)) - shift) <= 2


def test_sign_positive_means_late() -> None:
    real = syllables()
    late = torch.cat([1e-3 * torch.randn(400, generator=torch.Generator().manual_seed(3)), real])
    assert abs(constant_lag(real, late) - 400) <= 1
    assert abs(constant_lag(late, real) + 400) <= 1


def test_level_and_tone_do_not_move_the_lag() -> None:
    real = syllables()
    dull = 0.1 * (real + 0.9 * real.roll(1))
    assert abs(constant_lag(real, dull)) <= 2


@pytest.mark.shared
def test_imposed_shifts_on_real_twins_come_back_within_two_samples(listing: list[dict[str, str]]) -> None:
    for index, row in enumerate(a_dozen(listing)):
        real, fake = load(row, max_seconds=5)
        start, shift = constant_lag(real, fake), SHIFTS[index % len(SHIFTS)]
        assert abs(constant_lag(*shifted(real, fake, shift)) - (start + shift)) <= 2, row["path"]


@pytest.mark.shared
def test_lags_of_real_twins_agree_with_the_manifest(listing: list[dict[str, str]]) -> None:
    for row in a_dozen([r for r in listing if "wavenet" not in r["path"] and "vocos_mp3" not in r["path"]]):
        assert abs(constant_lag(*load(row)) - float(row["lag_samples_vs_gt"])) <= 16, row["path"]


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_lags_of_all_real_twins(listing: list[dict[str, str]]) -> None:
    """Outside WaveNet, whose clock wanders, and the fixed delay of MP3, at most 3 lags differ from the manifest by over 1 ms."""
    apart, lost, delays = [], [], []
    for index, row in enumerate(listing):
        real, fake = load(row)
        value, lag = similarity(real, fake)
        shift = SHIFTS[index % len(SHIFTS)]
        if index % 5 == 0 and abs(constant_lag(*shifted(real, fake, shift)) - (lag + shift)) > 2:
            lost.append(row["path"])
        if "vocos_mp3" in row["path"]:
            delays.append(lag)
        elif "wavenet" not in row["path"] and abs(lag - float(row["lag_samples_vs_gt"])) > 16:
            apart.append(row["path"])
        assert value > 0.8, row["path"]
    assert len(apart) <= 3, apart
    assert len(lost) <= 1, lost
    assert max(delays) - min(delays) <= 16  # one codec, one delay; the manifest has 646 to 755


@pytest.mark.shared
def test_false_twins_are_refused_and_true_ones_pass(listing: list[dict[str, str]]) -> None:
    rows = a_dozen(listing)
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):  # neighbors differ in recording, and often in speaker
        real, fake = load(row, max_seconds=4)
        assert check_twins(real, fake) > 0.8
        stranger = load(other, max_seconds=4)[0]
        length = min(len(stranger), len(fake))
        with pytest.raises(PairError, match=r"envelope correlation of 0\.[0-4]\d"):
            check_twins(stranger[:length], fake[:length])


def test_overlap_is_cropped_and_never_padded() -> None:
    real, fake = torch.arange(100.0), torch.arange(90.0) - 7
    for lag in (-20, -7, 0, 7, 20):
        left, right = align(real, fake, lag)
        assert len(left) == len(right) == min(100 - max(0, -lag), 90 - max(0, lag))
        assert torch.equal(left - left[0], right - right[0])
        assert float(right[0] - left[0]) == (lag - 7 if lag >= 0 else -7 + lag)
    left, right = align(real, fake, 7)
    assert torch.equal(left[: len(right)], right)
    with pytest.raises(PairError, match="lag must leave an overlap"):
        align(real, fake, 89)


def test_level_is_matched_to_the_twin() -> None:
    real = syllables()
    matched = match_level(real, -0.3 * new_phases(real))
    assert float(matched.square().mean()) == pytest.approx(float(real.square().mean()), rel=1e-5)
    torch.testing.assert_close(match_level(real, 0.3 * real), real)


@pytest.mark.parametrize("function", [constant_lag, check_twins, match_level])
def test_silence_and_scraps_are_refused(function) -> None:  # type: ignore[no-untyped-def]
    real = syllables()
    with pytest.raises(PairError, match="spoof must not be silent"):
        function(real, torch.zeros(len(real)))
    with pytest.raises(PairError, match=r"spoof must last at least 0.25 s, got 0.062 s"):
        function(real, real[:1_000])
    with pytest.raises(ValueError, match=r"bonafide must be one row of samples"):
        function(real[None], real)


def test_lengths_that_differ_are_refused_with_both_numbers() -> None:
    real = syllables(4.0)
    with pytest.raises(PairError, match=r"got 3\.00 s and 4\.00 s"):
        check_twins(real, real[:48_000])


def test_identical_recordings_have_no_lag_and_full_similarity() -> None:
    value, lag = similarity(syllables(), syllables())
    assert lag == 0
    assert value == pytest.approx(1, abs=1e-5)


def test_correlation_against_a_direct_sum() -> None:
    real, fake = band_energies(syllables(0.6)), band_energies(syllables(0.7, seed=4))
    found = alignment._correlate(real, fake)
    reach = len(found) // 2
    for lag in (-reach, -17, 0, 140, reach):
        left, right = real[:, max(0, -lag) :], fake[:, max(0, lag) :]
        size = min(left.shape[1], right.shape[1])
        left, right = left[:, :size], right[:, :size]
        expected = (left * right).sum() / (left.square().sum() * right.square().sum()).sqrt()
        assert float(found[reach + lag]) == pytest.approx(float(expected), abs=1e-5)


def test_long_recordings_are_judged_by_their_loudest_part() -> None:
    real = torch.cat([torch.zeros(30 * SAMPLE_RATE), syllables(21.0), torch.zeros(10 * SAMPLE_RATE)])
    assert abs(constant_lag(real, torch.cat([torch.zeros(123), 0.5 * real])) - 123) <= 1
