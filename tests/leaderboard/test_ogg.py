"""Equal sound gives equal bytes, and the rewritten stream is still a valid one."""

import io

import pytest
import soundfile
import torch

from xaibench.leaderboard.ogg import opus_bytes, with_serial


def test_opus_is_repeatable_small_and_sounds_like_the_clip() -> None:
    time = torch.arange(32_000) / 16_000
    clip = 0.3 * torch.sin(2 * torch.pi * 440 * time)
    stream = opus_bytes(clip)
    assert stream == opus_bytes(clip)
    assert len(stream) < 20_000
    heard, rate = soundfile.read(io.BytesIO(stream), dtype="float32")
    assert rate in (16_000, 48_000)
    spectrum = abs(torch.fft.rfft(torch.from_numpy(heard)))
    assert abs(int(spectrum.argmax()) * rate / len(heard) - 440) < 2


def test_checksums_are_those_of_the_encoder() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, torch.rand(8_000).numpy() - 0.5, 16_000, format="OGG", subtype="OPUS")
    stream = buffer.getvalue()
    serial = int.from_bytes(stream[14:18], "little")
    assert with_serial(stream, serial) == stream


def test_what_is_no_ogg_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a sequence of Ogg pages"):
        with_serial(b"RIFF" + bytes(40), 1)
