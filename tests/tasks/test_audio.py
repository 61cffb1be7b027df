"""Recordings of every unwelcome kind: each is read as documented or refused in one sentence."""

import hashlib
import io
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from xaibench.errors import AudioError, DataError
from xaibench.tasks import audio
from xaibench.tasks.audio import decoded_sha256, describe, read_audio, tile, to_int16, write_audio


def tone(seconds: float = 1.0, rate: int = 16_000, hz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * math.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_sixteen_bit_samples_survive_untouched(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 5_000, dtype=np.int16)
    for suffix in ("wav", "flac"):
        soundfile.write(tmp_path / f"a.{suffix}", samples, 16_000)
        waveform = read_audio(tmp_path / f"a.{suffix}")
        assert waveform.dtype == torch.float32
        assert torch.equal(to_int16(waveform), torch.from_numpy(samples))
        assert decoded_sha256(waveform) == decoded_sha256(torch.from_numpy(samples)) == hashlib.sha256(samples.tobytes()).hexdigest()


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_writing_and_reading_are_inverse(tmp_path: Path, suffix: str) -> None:
    waveform = torch.from_numpy(tone())
    write_audio(tmp_path / "new" / f"a.{suffix}", waveform)
    again = read_audio(tmp_path / "new" / f"a.{suffix}")
    assert decoded_sha256(again) == decoded_sha256(waveform)
    assert (again - waveform).abs().max() <= 0.5 / 32768
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"a.{suffix}"]


def test_rounding_is_held_inside_sixteen_bits() -> None:
    assert to_int16(torch.tensor([1.0, -1.0, 1.5, 0.0, 0.6 / 32768])).tolist() == [32767, -32768, 32767, 0, 1]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_other_rates_become_sixteen_kilohertz(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate), rate, subtype="FLOAT")
    waveform = read_audio(tmp_path / "a.wav").numpy()
    assert len(waveform) == 16_000
    np.testing.assert_allclose(waveform[800:-800], tone()[800:-800], atol=1e-4)


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_tones_above_eight_kilohertz_do_not_fold(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate, hz=9_000), rate, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav")[800:-800].abs().max() < 1e-4


def test_stereo_is_the_mean(tmp_path: Path) -> None:
    left, right = tone(hz=300), tone(hz=500)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav").numpy(), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("subtype", "tolerance"), [("PCM_24", 2**-23), ("PCM_U8", 2**-6), ("PCM_32", 2**-23), ("FLOAT", 0), ("DOUBLE", 1e-7), ("ULAW", 0.02)]
)
def test_other_depths(tmp_path: Path, subtype: str, tolerance: float) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), 16_000, subtype=subtype)
    assert np.abs(read_audio(tmp_path / "a.wav").numpy() - tone()).max() <= tolerance


@pytest.mark.parametrize(("suffix", "tolerance"), [("ogg", 0.05), ("aiff", 2**-14), ("mp3", 0.05)])
def test_other_containers(tmp_path: Path, suffix: str, tolerance: float) -> None:
    if suffix.upper() not in soundfile.available_formats():
        pytest.skip(f"libsndfile {soundfile.__libsndfile_version__} has no {suffix}")
    soundfile.write(tmp_path / f"a.{suffix}", tone(2.0), 16_000)
    waveform = read_audio(tmp_path / f"a.{suffix}")
    assert abs(len(waveform) - 32_000) <= 1_152  # an MP3 frame
    assert float(waveform[8_000:24_000].square().mean().sqrt()) == pytest.approx(0.5 / math.sqrt(2), rel=tolerance)


def test_float_files_above_full_scale_are_scaled_not_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(level=2.0), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav").numpy(), tone(level=1.0), atol=1e-3)
    square = np.repeat(np.resize([0.999, -0.999], 200), 400).astype(np.float32)  # a resampler overshoots at its edges
    soundfile.write(tmp_path / "b.wav", square, 48_000, subtype="FLOAT")
    assert float(read_audio(tmp_path / "b.wav").abs().max()) == pytest.approx(1)


def test_silence_and_clipping_are_read_and_told(tmp_path: Path) -> None:
    cases = {"silent": np.zeros(16_000, np.float32), "clipped": np.clip(tone(level=3.0), -1, 1), "clean": tone()}
    for name, samples in cases.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
        found = describe(read_audio(tmp_path / f"{name}.wav"))
        assert (found.silent, found.clipped) == (name == "silent", name == "clipped")
        assert found.seconds == 1
    assert found.peak == pytest.approx(0.5, abs=1e-3)
    assert found.rms == pytest.approx(0.5 / math.sqrt(2), abs=1e-3)


def refused(path: Path, message: str, **options: float) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path, **options)
    assert str(path) in str(caught.value)
    assert "; " in str(caught.value)  # every sentence ends with a remedy
    assert "\n" not in str(caught.value)


def test_files_that_are_no_audio(tmp_path: Path) -> None:
    refused(tmp_path / "none.wav", "must be an existing audio file")
    refused(tmp_path, "got the folder")
    (tmp_path / "empty.wav").write_bytes(b"")
    refused(tmp_path / "empty.wav", "with 0 bytes")
    for name, content in {
        "noise.wav": bytes(range(256)) * 40,
        "text.flac": b"not audio at all",
        "headerless.raw": b"\x00" * 64,
        "head.wav": b"RIFF\x00\x00\x00\x00WAVE",
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "must be a readable audio file")


@pytest.mark.parametrize("samples", [0, 1])
def test_files_with_nothing_in_them(tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone()[:samples], 16_000)
    refused(tmp_path / "a.wav", f"must hold at least 2 samples, got {samples}")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    samples = tone()
    samples[400:560] = value
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    refused(tmp_path / "a.wav", r"must hold finite samples, got NaN or infinity in 1\.00% of them")


@pytest.mark.parametrize("suffix", ["flac", "wav", "aiff"])
def test_files_cut_short(tmp_path: Path, suffix: str) -> None:
    whole = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
    soundfile.write(whole, noise, 16_000, format=suffix.upper())
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    refused(path, "cut short|readable audio file")


@pytest.mark.parametrize("rate", [1, 2_000_000_000])
def test_absurd_rates_are_refused(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16_000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    refused(path, rf"must have a sample rate of 1000 to 768000 Hz, got {rate}; its header is damaged")


def test_streams_of_unknown_length_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16_000)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"  # as a pipe leaves it
    path.write_bytes(bytes(content))
    assert len(read_audio(path)) == 16_000


def test_half_an_ogg_is_the_first_half(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32), 16_000)
    whole = read_audio(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    half = read_audio(path)
    assert 40_000 < len(half) < 120_000
    assert torch.equal(half[:40_000], whole[:40_000])


def test_bits_flipped_in_a_flac(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32), 16_000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 5_000] = bytes(5_000)
    path.write_bytes(bytes(content))
    refused(path, "cut short|readable audio file")


def test_ten_minutes_cost_no_more_than_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    block = np.tile(tone(1.0, 48_000), (2, 1)).T
    with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16") as file:
        for _ in range(600):
            file.write(block)
    tracemalloc.start()
    waveform = read_audio(path, max_seconds=4.0375)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(waveform) == 64_600
    assert peak < 20e6  # 230 MB if it were read whole
    short = tmp_path / "short.wav"
    soundfile.write(short, soundfile.read(path, 48_000 * 5, dtype="float32")[0], 48_000, subtype="FLOAT")
    torch.testing.assert_close(waveform, read_audio(short)[:64_600], atol=1e-6, rtol=0)  # the cut is not heard


def test_more_than_an_hour_needs_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_SECONDS", 2.0)
    soundfile.write(tmp_path / "a.wav", tone(3.0), 16_000)
    refused(tmp_path / "a.wav", "must last at most 2 s, got 3 s; give max_seconds")
    assert len(read_audio(tmp_path / "a.wav", max_seconds=1)) == 16_000
    assert len(read_audio(tmp_path / "a.wav", max_seconds=60)) == 48_000


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_meaningless_limits_are_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="max_seconds must be positive"):
        read_audio(tmp_path / "a.wav", max_seconds=seconds)


def test_tiling() -> None:
    row = torch.arange(5.0)
    assert tile(row, 12).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert tile(row, 3).tolist() == [0, 1, 2]
    assert tile(row, 5).tolist() == row.tolist()
    with pytest.raises(ValueError, match="waveform must be one row"):
        tile(torch.zeros(0), 5)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        tile(row, 0)


@pytest.mark.parametrize("waveform", [torch.zeros(2, 100), torch.zeros(0), torch.tensor([0.0, math.nan])])
def test_only_rows_of_numbers_are_written(tmp_path: Path, waveform: Tensor) -> None:
    with pytest.raises(ValueError, match="waveform must be one row of finite samples"):
        write_audio(tmp_path / "a.wav", waveform)
    assert not list(tmp_path.iterdir())


def test_only_lossless_files_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must end in \.flac or \.wav, got 'a\.mp3'"):
        write_audio(tmp_path / "a.mp3", torch.zeros(10))


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="must be writable"):
        write_audio(tmp_path / "file" / "a.wav", torch.zeros(10))
