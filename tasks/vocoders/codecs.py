"""Lossy codecs as copy synthesizers, through the libsndfile that soundfile brings: Opus (RFC 6716) and MPEG-1/2 layer III (LAME).

Where that libsndfile is too old for one, an ``ffmpeg`` on the path takes its place; the encoders are the same, the bits are not. Codecs are
a family of their own: nothing is synthesized, cells under the masking threshold are coarsened or dropped.
"""

import io
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import soundfile

from xaibench.errors import MissingExtraError
from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder
from xaibench.types import SAMPLE_RATE


@dataclass(frozen=True)
class Codec(Vocoder):
    """Encodes and decodes in memory; one unit of 16-bit dither from ``rng`` tells recordings and seeds apart."""

    kind: ClassVar[str] = "codec"
    container: ClassVar[str] = ""
    subtype: ClassVar[str] = ""
    encoder: ClassVar[str] = ""
    """Name in ffmpeg."""
    range_kbps: ClassVar[tuple[float, float]] = (0.0, 0.0)
    """Rates that the encoder's compression levels 1 and 0 stand for, mono at 16 kHz."""

    kbps: float = 16.0

    def __post_init__(self) -> None:
        """Refuse rates that the encoder does not have."""
        low, high = self.range_kbps
        if not low <= self.kbps <= high:
            raise ValueError(f"kbps must be in {low:g}..{high:g} for {self.name}, got {self.kbps}; use 16")

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Encode and decode.

        Raises:
            MissingExtraError: If neither the libsndfile at hand nor an ffmpeg has such an encoder.
        """
        dithered = samples + rng.triangular(-1, 0, 1, samples.size) / 32768
        sent: Samples = dithered * min(1, 0.99 / float(np.abs(dithered).max()))
        if self.subtype in soundfile.available_subtypes(self.container):
            return self._through_libsndfile(sent)
        return self._through_ffmpeg(sent)

    def _through_libsndfile(self, sent: Samples) -> Samples:
        low, high = self.range_kbps
        buffer = io.BytesIO()
        level = (high - self.kbps) / (high - low)
        soundfile.write(buffer, sent, SAMPLE_RATE, format=self.container, subtype=self.subtype, compression_level=level)
        buffer.seek(0)
        decoded, rate = soundfile.read(buffer, dtype="float64")
        if rate != SAMPLE_RATE:  # Opus decodes at 48 kHz where it was not told otherwise
            import soxr

            decoded = soxr.resample(decoded, rate, SAMPLE_RATE, quality="VHQ")
        copied: Samples = decoded
        return copied

    def _through_ffmpeg(self, sent: Samples) -> Samples:
        """Encode into a file, since a pipe cannot hold the header that tells a decoder what to leave out at both ends."""
        program = shutil.which("ffmpeg")
        if program is None:
            found = soundfile.__libsndfile_version__
            raise MissingExtraError(
                f"vocoder {self.name!r} needs libsndfile 1.1 or later, got {found}, or ffmpeg, got none on the path; "
                "run `pip install --upgrade 'soundfile>=0.13'`"
            )
        raw = ("-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "1")
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / f"coded.{self.name}")
            rate = ("-c:a", self.encoder, "-b:a", f"{round(1000 * self.kbps)}")
            self._run(program, (*raw, "-i", "pipe:0", *rate, "-y", file), sent.astype("<f4").tobytes())
            content = self._run(program, ("-i", file, *raw, "pipe:1"), b"")
        copied: Samples = np.frombuffer(content, "<f4").astype(np.float64)
        return copied

    def _run(self, program: str, options: tuple[str, ...], sent: bytes) -> bytes:
        done = subprocess.run((program, "-v", "error", *options), input=sent, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise MissingExtraError(
                f"vocoder {self.name!r} needs an ffmpeg with {self.encoder}, got {said[-1] if said else 'an error'}; "
                "run `pip install --upgrade 'soundfile>=0.13'`"
            )
        return done.stdout


@VOCODERS.register("opus")
@dataclass(frozen=True)
class Opus(Codec):
    """Opus at a low rate: linear prediction and transform coding side by side, high band filled with noise."""

    title: ClassVar[str] = "Opus"
    reference: ClassVar[str] = "Valin et al. 2012, RFC 6716"
    container: ClassVar[str] = "OGG"
    subtype: ClassVar[str] = "OPUS"
    encoder: ClassVar[str] = "libopus"
    range_kbps: ClassVar[tuple[float, float]] = (6.0, 256.0)
    lag_samples: ClassVar[int] = 4


@VOCODERS.register("mp3")
@dataclass(frozen=True)
class MP3(Codec):
    """MP3 at a low rate: transform coding under a masking threshold, high band cut off."""

    title: ClassVar[str] = "MP3"
    reference: ClassVar[str] = "ISO/IEC 13818-3"
    container: ClassVar[str] = "MP3"
    subtype: ClassVar[str] = "MPEG_LAYER_III"
    encoder: ClassVar[str] = "libmp3lame"
    range_kbps: ClassVar[tuple[float, float]] = (8.0, 160.0)
    lag_samples: ClassVar[int] = 1
