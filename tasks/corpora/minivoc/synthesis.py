"""From a sentence to dry speech: espeak-ng and flite voices, trimmed to continuous speech of fixed length."""

import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from xaibench.errors import DataError, MissingExtraError
from xaibench.tasks.corpora.minivoc.room import record
from xaibench.tasks.corpora.minivoc.voices import Utterance, Voice, generator
from xaibench.tasks.vocoders.vocoder import Samples
from xaibench.types import SAMPLE_RATE

UTTERANCE_SAMPLES = 65_600
"""4.1 s: the detector's 64 600 samples and room for a lag."""
SILENCE_DB = -38.0
LONGEST_PAUSE_S = 0.1
FRAME = 160


def recording(utterance: Utterance) -> Samples:
    """Return the finished recording of an utterance, ``(65600,)`` in [-1, 1]: what the vocoders copy.

    Raises:
        MissingExtraError: If the voice's program is not installed.
        DataError: If the program fails, or the speech is too short.
    """
    dry = speech_only(speak(utterance.voice, utterance.text))
    if dry.size < UTTERANCE_SAMPLES:
        seconds = dry.size / SAMPLE_RATE
        raise DataError(f"utterance {utterance.id!r} must have 4.1 s of speech, got {seconds:.2f} s; lengthen its sentence in texts.txt")
    wet = record(dry[:UTTERANCE_SAMPLES], generator("room", utterance.id))
    return np.clip(wet, -0.999, 0.999)


def speak(voice: Voice, text: str) -> Samples:
    """Synthesize text with a voice, ``(T,)`` at 16 kHz."""
    import soundfile
    import soxr

    program = shutil.which(voice.engine)
    if program is None:
        raise MissingExtraError(f"voice {voice.id!r} needs {voice.engine}, which is not installed; run `apt-get install espeak-ng flite`")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = [program, *_arguments(voice, path, text)]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False, timeout=60)
        if done.returncode or not path.is_file():
            raise DataError(
                f"{voice.engine} must speak with voice {voice.id!r}, got exit code {done.returncode}; {done.stderr.strip()[:200]}"
            )
        samples, rate = soundfile.read(path, dtype="float64")
    resampled: Samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="VHQ")
    return resampled


def _arguments(voice: Voice, path: Path, text: str) -> list[str]:
    if voice.engine == "flite":
        return ["-voice", voice.variant, "-t", text, "-o", str(path)]
    spoken = f"{voice.accent}+{voice.variant}"
    return ["-v", spoken, "-p", str(voice.pitch), "-s", str(voice.words_per_minute), "-w", str(path), "--stdin"]


@lru_cache(maxsize=2)
def engine_version(engine: str) -> str:
    """Return the program's own version line, empty if it is not installed."""
    program = shutil.which(engine)
    if program is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "version" in line.lower() or "eSpeak" in line]
    return lines[0].split("  Data at")[0].strip() if lines else ""


def speech_only(samples: Samples) -> Samples:
    """Drop silence at both ends and cut each pause within to a tenth of a second, with 5-ms cross-fades."""
    frames = samples[: samples.size // FRAME * FRAME].reshape(-1, FRAME)
    level = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    loud = level > level.max() + SILENCE_DB
    spoken = np.flatnonzero(loud)
    keep = np.zeros(loud.size, dtype=bool)
    pause = int(LONGEST_PAUSE_S * SAMPLE_RATE / FRAME)
    for n in range(spoken[0], spoken[-1] + 1):
        since = n - spoken[np.searchsorted(spoken, n, side="right") - 1]
        keep[n] = since <= pause
    edges = np.flatnonzero(np.diff(keep.astype(int), prepend=0, append=0))
    return _joined([samples[a * FRAME : b * FRAME] for a, b in zip(edges[::2], edges[1::2], strict=True)])


def _joined(parts: list[Samples]) -> Samples:
    """Concatenate with 5-ms cross-fades."""
    fade = FRAME // 2
    ramp = np.linspace(0, 1, fade)
    total = parts[0]
    for part in parts[1:]:
        overlap = total[-fade:] * (1 - ramp) + part[:fade] * ramp
        total = np.concatenate([total[:-fade], overlap, part[fade:]])
    return total
