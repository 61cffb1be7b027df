"""Reading, writing and hashing recordings: every file becomes mono float32 at 16 kHz, or one sentence that says why it cannot.

Conventions
    Channels are averaged. Other rates are converted with soxr VHQ. Recordings whose peak exceeds 1 (float files, or the overshoot of a
    resampler) are scaled to a peak of 1, never clipped. Silence and clipping are allowed and told by ``describe``.
    A 16-bit integer sample ``i`` is ``i / 32768``, so that reading, writing and hashing agree bit for bit.
"""

import hashlib
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from xaibench.errors import AudioError
from xaibench.tasks.cache import atomic_write
from xaibench.types import SAMPLE_RATE

MAX_SECONDS = 3600.0
"""Longest recording that is read whole; longer ones need ``max_seconds``."""
SILENCE_RMS = 1e-4
"""A recording below -80 dBFS counts as silent."""
_BLOCK_SECONDS = 10.0
_MARGIN_SECONDS = 0.1  # the resampler's filter needs samples beyond the cut
_RATES_HZ = (1_000, 768_000)
_STREAM_BYTES = 0x7FFFF000
_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_SUBTYPES = {".flac": "FLAC", ".wav": "WAV"}


@dataclass(frozen=True)
class AudioDescription:
    """What a listener should know about a recording before trusting a score on it."""

    seconds: float
    peak: float
    rms: float
    clipped_share: float
    """Share of samples at the recording's largest magnitude in runs of at least three, 0 for peaks under 0.5."""

    @property
    def silent(self) -> bool:
        """Whether the level lies below -80 dBFS."""
        return self.rms < SILENCE_RMS

    @property
    def clipped(self) -> bool:
        """Whether more than one sample in a thousand is clipped."""
        return self.clipped_share > 1e-3


def read_audio(path: str | Path, *, max_seconds: float | None = None) -> Tensor:
    """Read a recording as mono 16 kHz.

    Args:
        path: Any file that libsndfile reads: WAV, FLAC, OGG, MP3, AIFF and others, of any rate, depth and number of channels.
        max_seconds: Read no more than the first seconds; of a long file only that part is decoded.

    Returns:
        (T,) float32 in [-1, 1], T at least 2. Silence is returned as it is; ``describe`` tells it.

    Raises:
        AudioError: If the file is missing, empty, no audio, damaged, holds NaN or infinity, has fewer than 2 samples,
            is cut short (Ogg and MP3 carry no length: what is there is read), or is longer than an hour while ``max_seconds`` is not given.
        ValueError: If ``max_seconds`` is not positive.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive, got {max_seconds}; leave it out to read everything")
    path = Path(path)
    _require_file(path)
    samples, rate = _decode(path, max_seconds)
    if len(samples) < 2:
        raise AudioError(f"{path} must hold at least 2 samples, got {len(samples)}; record it again")
    if not np.isfinite(samples).all():
        share = 1 - np.isfinite(samples).mean()
        raise AudioError(f"{path} must hold finite samples, got NaN or infinity in {share:.2%} of them; export it again as 16-bit audio")
    samples = _resample(samples, rate)
    if max_seconds is not None:
        samples = samples[: max(2, round(max_seconds * SAMPLE_RATE))]
    peak = float(np.abs(samples).max())
    return torch.from_numpy(samples / peak if peak > 1 else samples)


def _require_file(path: Path) -> None:
    if not path.exists():
        raise AudioError(f"path must be an existing audio file, got {path}; check the spelling")
    if not path.is_file():
        raise AudioError(f"path must be an audio file, got the folder {path}; name one file in it")
    if path.stat().st_size == 0:
        raise AudioError(f"path must be an audio file, got {path} with 0 bytes; copy or download it again")


def _decode(path: Path, max_seconds: float | None) -> tuple[np.ndarray, int]:
    """Decode block by block to mono float32, stopping a little after ``max_seconds``."""
    try:
        with soundfile.SoundFile(path) as file:
            rate, promised = file.samplerate, file.frames
            if not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
                raise AudioError(
                    f"{path} must have a sample rate of {_RATES_HZ[0]} to {_RATES_HZ[1]} Hz, got {rate}; its header is damaged"
                )
            _require_whole(path, file.extra_info)
            if max_seconds is None and promised > MAX_SECONDS * rate:
                raise AudioError(f"{path} must last at most {MAX_SECONDS:.0f} s, got {promised / rate:.0f} s; give max_seconds or cut it")
            wanted = promised if max_seconds is None else min(promised, math.ceil((max_seconds + _MARGIN_SECONDS) * rate))
            blocks = _read_blocks(file, wanted, max(1, int(_BLOCK_SECONDS * rate)))
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: headerless ".raw"
        raise AudioError(
            f"path must be a readable audio file, got {path} ({error}); convert it to WAV or FLAC, or download it again"
        ) from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(samples) < wanted:
        raise AudioError(
            f"{path} must hold the {promised} samples its header promises, got {len(samples)}; it is cut short, copy or download it again"
        )
    return samples, rate


def _require_whole(path: Path, log: str) -> None:
    """Compare the length in a header with the bytes that are there; libsndfile mends it silently. Streams declare 2 GB or more and pass."""
    found = _CHUNK.search(log)
    if found and int(found[2]) + 1 < int(found[1]) < _STREAM_BYTES:
        raise AudioError(
            f"{path} must hold the {found[1]} bytes its header promises, got {found[2]}; it is cut short, copy or download it again"
        )


def _read_blocks(file: soundfile.SoundFile, wanted: int, block: int) -> list[np.ndarray]:
    blocks: list[np.ndarray] = []
    while wanted > 0:
        data = file.read(min(block, wanted), dtype="float32", always_2d=True)
        if not len(data):
            break
        blocks.append(data.mean(axis=1) if data.shape[1] > 1 else data[:, 0])
        wanted -= len(data)
    return blocks


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE:
        return samples
    import soxr

    converted: np.ndarray = soxr.resample(samples, rate, SAMPLE_RATE, quality="VHQ")
    if len(converted) < 2:
        converted = np.pad(converted, (0, 2 - len(converted)))
    return converted


def to_int16(waveform: Tensor) -> Tensor:
    """Round [-1, 1] to 16-bit integers, ``i = round(32768 x)`` held inside the 16-bit range; integers pass untouched."""
    if waveform.dtype == torch.int16:
        return waveform
    return torch.clamp(torch.round(waveform * 32768.0), -32768, 32767).to(torch.int16)


def decoded_sha256(waveform: Tensor) -> str:
    """Hash the decoded samples, so that a recording keeps its name whatever container or codec setting holds it.

    Args:
        waveform: (T,) float in [-1, 1] or int16.

    Returns:
        SHA-256 of the little-endian 16-bit samples, as 64 hexadecimal digits.
    """
    samples = to_int16(waveform.detach().cpu()).contiguous().numpy().astype("<i2", copy=False)
    return hashlib.sha256(samples.tobytes()).hexdigest()


def write_audio(path: str | Path, waveform: Tensor) -> None:
    """Write ``(T,)`` as 16-bit FLAC or WAV at 16 kHz, by the suffix; the file appears whole or not at all.

    Raises:
        ValueError: If the suffix is another one, or the waveform is not a row of at least one finite sample.
        DataError: If the folder cannot be written to or is full.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUBTYPES:
        raise ValueError(f"path must end in .flac or .wav, got {path.name!r}; rename it")
    if waveform.ndim != 1 or not len(waveform) or not bool(torch.isfinite(waveform).all()):
        raise ValueError(f"waveform must be one row of finite samples (T,), got shape {tuple(waveform.shape)}; write clips one by one")
    buffer = io.BytesIO()
    samples = to_int16(waveform.detach().cpu()).numpy()
    soundfile.write(buffer, samples, SAMPLE_RATE, format=_SUBTYPES[path.suffix.lower()], subtype="PCM_16")
    atomic_write(path, buffer.getvalue())


def tile(waveform: Tensor, samples: int) -> Tensor:
    """Return the first ``samples`` of ``(T,)``, repeating it end to end where it is shorter.

    Raises:
        ValueError: If the waveform is empty or ``samples`` is not positive.
    """
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"waveform must be one row of samples (T,), got shape {tuple(waveform.shape)}; pass a single clip")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; use the detector's input length")
    return waveform.repeat(-(-samples // len(waveform)))[:samples]


def describe(waveform: Tensor) -> AudioDescription:
    """Measure length, level, silence and clipping of ``(T,)``."""
    magnitude = waveform.detach().abs().double()
    peak = float(magnitude.max()) if len(magnitude) else 0.0
    rms = float(magnitude.square().mean().sqrt()) if len(magnitude) else 0.0
    share = 0.0
    if peak >= 0.5 and len(magnitude) >= 3:
        top = magnitude >= peak * 0.999
        share = float((top[:-2] & top[1:-1] & top[2:]).double().mean())
    return AudioDescription(len(magnitude) / SAMPLE_RATE, peak, rms, share)
