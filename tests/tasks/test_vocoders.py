import builtins
import shutil
import sys
import types
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from xaibench.errors import MissingExtraError
from xaibench.registry import VOCODERS
from xaibench.tasks.alignment import check_twins, constant_lag
from xaibench.tasks.corpora.minivoc import Minivoc
from xaibench.tasks.spectrogram import magnitude
from xaibench.tasks.vocoders.frames import overlap_add, pulse_train, split_frames
from xaibench.tasks.vocoders.lpc import all_pole
from xaibench.tasks.vocoders.mel import _inverse_filters, mel_filters, through_mel
from xaibench.tasks.vocoders.pghi import PGHI
from xaibench.tasks.vocoders.pitch import PitchTracker

NAMES = [name for name in VOCODERS.names() if not VOCODERS.get(name).trained]  # trained ones: tests/tasks/vocoders


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    task = Minivoc()
    return task.load(task.pairs("dev")[0]).bonafide[:32_000]


def copied(name: str, waveform: torch.Tensor, **options: Any) -> torch.Tensor:
    if name == "world":
        pytest.importorskip("pyworld", reason="pyworld is not installed", exc_type=ImportError)
    return VOCODERS.get(name)(**options).copy(waveform)


def mel_db(waveform: torch.Tensor) -> torch.Tensor:
    cells = torch.from_numpy(mel_filters(80, 1024)).float() @ magnitude(waveform)
    return 20 * torch.log10(cells + 1e-3 * cells.max())


CLASSICAL = ["channel_vocoder", "griffin_lim", "harmonic_noise", "lpc", "pghi", "world"]


def test_six_vocoders_of_six_kinds_two_modifications_and_a_family_of_codecs() -> None:
    assert set(NAMES) >= {*CLASSICAL, "mp3", "opus", "phase_vocoder", "stft_magnitude"}
    kinds = {name: VOCODERS.get(name).kind for name in NAMES}
    assert len({kinds[n] for n in [*CLASSICAL, "phase_vocoder", "stft_magnitude"]}) == 8
    assert kinds["mp3"] == kinds["opus"] == "codec"


@pytest.mark.filterwarnings("ignore:pkg_resources")
@pytest.mark.parametrize("name", NAMES)
def test_copy_is_faithful_aligned_and_repeatable(name: str, speech: torch.Tensor) -> None:
    torch.manual_seed(1)
    copy = copied(name, speech)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002 - global state must not matter
    assert torch.equal(copy, copied(name, speech))
    assert not torch.equal(copy, copied(name, speech, seed=1))
    assert copy.shape == speech.shape
    assert copy.dtype == torch.float32
    assert float(copy.square().mean()) == pytest.approx(float(speech.square().mean()), rel=1e-4)
    assert abs(constant_lag(speech, copy)) < 16
    distance = (mel_db(copy) - mel_db(speech)).abs().mean()
    assert 0.3 < distance < 4.0  # audible, and yet the same speech


@pytest.mark.filterwarnings("ignore:pkg_resources")
@pytest.mark.parametrize("name", NAMES)
def test_imposed_delay_is_kept(name: str, speech: torch.Tensor) -> None:
    late = torch.cat([speech[:200].flip(0), speech])[: len(speech)]
    assert abs(constant_lag(speech, copied(name, late)) - 200) < 20


@pytest.mark.filterwarnings("ignore:pkg_resources")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [2048, 2049, 5000])
def test_odd_lengths_noise_and_silence(name: str, samples: int) -> None:
    noise = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    copy = copied(name, noise)
    assert copy.shape == (samples,)
    assert torch.isfinite(copy).all()
    assert not copied(name, torch.zeros(samples)).any()


def test_recordings_do_not_share_noise() -> None:
    first = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[0] += 0.01
    a, b = copied("lpc", first)[2000:], copied("lpc", second)[2000:]
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.2


@pytest.mark.parametrize("waveform", [torch.zeros(2, 4000), torch.zeros(100)])
def test_copy_refuses_shapes(waveform: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"waveform must be \(T,\) with at least 2048 samples, got"):
        VOCODERS.get("lpc")().copy(waveform)


def test_copy_refuses_nan() -> None:
    with pytest.raises(ValueError, match="waveform must be finite"):
        VOCODERS.get("lpc")().copy(torch.full((4000,), torch.nan))


def test_world_without_pyworld_says_how_to_get_it(speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> types.ModuleType:
        if name == "pyworld":
            raise ImportError("No module named 'pyworld'", name="pyworld")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pyworld", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"vocoder 'world' needs pyworld, .* run `pip install 'xaibench\[vocode\]'`"):
        VOCODERS.get("world")().copy(speech)


@pytest.mark.parametrize("f0", [80.0, 150.0, 310.0])
def test_pitch_of_a_voice_like_tone(f0: float) -> None:
    time = np.arange(16_000) / 16_000
    samples = np.sum([np.cos(2 * np.pi * k * f0 * time + k) / k for k in range(1, int(4000 / f0))], axis=0)
    found, harmonicity = PitchTracker().track(samples)
    assert np.median(found[10:-10]) == pytest.approx(f0, rel=0.01)
    assert np.median(harmonicity) > 0.8


@pytest.mark.parametrize("f0", [80.0, 310.0])
def test_pulses_come_once_per_period_with_unit_power(f0: float) -> None:
    f0_hz = np.where(np.arange(201) < 100, f0, 0.0)
    train = pulse_train(f0_hz, 80, 16_000)
    assert not train[8100:].any()
    pulses = train[:7900]
    assert pulses.sum() / np.sqrt(16_000 / f0) == pytest.approx(f0 * 7900 / 16_000, abs=1.1)
    assert 0.5 < np.mean(pulses**2) <= 1.05  # a pulse split over two samples has down to half the power


def test_noise_has_no_pitch() -> None:
    found, _ = PitchTracker().track(np.random.default_rng(0).standard_normal(16_000))
    assert (found > 0).mean() < 0.1


def test_frames_add_up() -> None:
    signal = np.random.default_rng(0).standard_normal(4000)
    window = np.hanning(161)[:-1]
    rebuilt = overlap_add(split_frames(signal, 160, 80) * window, 80, 4000, 80)
    assert np.allclose(rebuilt[:3920], signal[:3920])


def test_levinson_agrees_with_a_toeplitz_solver() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    frame = np.random.default_rng(0).standard_normal((1, 480)) * np.hanning(480)
    a, residual = all_pole(frame, 20)
    r = np.correlate(frame[0], frame[0], "full")[479:500] * np.exp(-0.5 * (2 * np.pi * 60 / 16_000 * np.arange(21)) ** 2)
    r[0] = r[0] * 1.0001 + 1e-9
    expected = linalg.solve_toeplitz(r[:20], -r[1:])
    assert np.allclose(a[0, 1:], expected)
    assert residual[0] ** 2 == pytest.approx(r[0] + r[1:] @ expected)


def test_mel_keeps_flat_spectra_to_both_edges() -> None:
    coarse = through_mel(np.ones((401, 3)), 80, 800)
    assert np.allclose(coarse, 1.0, atol=0.12)


@pytest.mark.parametrize(("bands", "window"), [(80, 512), (100, 640), (128, 640), (128, 800), (160, 512), (160, 1024)])
def test_crowded_mel_bands_still_give_twins(bands: int, window: int, speech: torch.Tensor) -> None:
    spectrum = torch.fft.rfft(speech)
    spectrum[: len(spectrum) // 80] = 0  # no sound under 100 Hz, as in many recordings: there the floor decides
    recording = torch.fft.irfft(spectrum, len(speech))
    copy = copied("griffin_lim", recording, bands=bands, window_samples=window, hop_samples=window // 4, iterations=4)
    assert check_twins(recording, copy) > 0.9  # refused at 100/640 and 128/800 where singular values of 1e-8 were inverted


@pytest.mark.parametrize("name", ["griffin_lim", "pghi"])
def test_minivocs_copies_need_no_weak_singular_values(name: str) -> None:
    vocoder: Any = VOCODERS.get(name)()
    filters = mel_filters(vocoder.bands, vocoder.window_samples)
    assert np.array_equal(_inverse_filters(vocoder.bands, vocoder.window_samples), np.linalg.pinv(filters))


def test_phase_gradient_integrates_a_sinusoid() -> None:
    """With the true magnitude of a steady tone, the integrated phase must give back its frequency and level."""
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 1003.0 * time)
    window = torch.hann_window(512).double()
    spectrum = torch.stft(torch.from_numpy(tone), 512, 128, window=window, return_complex=True)
    phase = PGHI()._integrate(spectrum.abs().numpy(), np.zeros(tuple(spectrum.shape)))
    rebuilt = torch.istft(torch.polar(spectrum.abs(), torch.from_numpy(phase)), 512, 128, window=window, length=16_000)
    middle = rebuilt[2000:-2000]
    peak = torch.fft.rfft(middle * torch.hann_window(len(middle))).abs().argmax() * 16_000 / len(middle)
    assert float(peak) == pytest.approx(1003.0, abs=2.0)
    assert float(middle.square().mean()) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("name", ["opus", "mp3"])
def test_codecs_lose_more_at_a_lower_rate_and_refuse_others(name: str, speech: torch.Tensor) -> None:
    low, high = ((mel_db(copied(name, speech, kbps=kbps)) - mel_db(speech)).abs().mean() for kbps in (10, 96))
    assert low > 1.2 * high
    with pytest.raises(ValueError, match=rf"kbps must be in .* for {name}, got 1; use 16"):
        VOCODERS.get(name)(kbps=1)


@pytest.mark.parametrize("name", ["opus", "mp3"])
def test_ffmpeg_takes_the_place_of_an_old_libsndfile(name: str, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = copied(name, speech)
    monkeypatch.setattr(soundfile, "available_subtypes", lambda container: {})
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        with pytest.raises(MissingExtraError, match=rf"vocoder '{name}' needs libsndfile 1.1 or later, got .*, or ffmpeg, got none"):
            copied(name, speech)
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    copy = copied(name, speech)
    assert copy.shape == speech.shape
    assert torch.equal(copy, copied(name, speech))
    assert abs(constant_lag(speech, copy)) < 16
    assert 0.3 < (mel_db(copy) - mel_db(speech)).abs().mean() < 4.0
    assert (mel_db(copy) - mel_db(usual)).abs().mean() < (mel_db(copy) - mel_db(speech)).abs().mean()
    monkeypatch.setattr(VOCODERS.get(name), "encoder", "libnothing")
    with pytest.raises(MissingExtraError, match=rf"vocoder '{name}' needs an ffmpeg with libnothing, got .*libnothing"):
        copied(name, speech)


def test_rounded_magnitudes_lie_within_half_a_step(speech: torch.Tensor) -> None:
    fine = (mel_db(copied("stft_magnitude", speech, step_db=1.0)) - mel_db(speech)).abs().mean()
    assert fine < 0.3 < (mel_db(copied("stft_magnitude", speech, step_db=9.0)) - mel_db(speech)).abs().mean()


def test_a_stretch_of_nothing_but_a_tone_keeps_its_frequency() -> None:
    time = np.arange(16_000) / 16_000
    tone = torch.from_numpy(0.3 * np.sin(2 * np.pi * 440 * time)).float()
    copy = copied("phase_vocoder", tone)[2000:-2000]
    peak = torch.fft.rfft(copy * torch.hann_window(len(copy)), 1 << 17).abs().argmax() * 16_000 / (1 << 17)
    assert float(peak) == pytest.approx(440, abs=1.0)
