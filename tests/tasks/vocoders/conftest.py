from pathlib import Path

import pytest
import torch

from xaibench.tasks.audio import write_audio
from xaibench.tasks.corpora.minivoc import Minivoc
from xaibench.tasks.vocoders.neural import weights
from xaibench.tasks.vocoders.neural.job import network_of
from xaibench.tasks.vocoders.neural.speech import Speech, gather
from xaibench.tasks.vocoders.neural.training import TrainingConfig, start


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings of two speakers, 1.5 s each."""
    folder, task = tmp_path_factory.mktemp("speech"), Minivoc()
    voices: dict[str, dict[str, object]] = {}
    for pair in task.pairs("test"):
        voices.setdefault(pair.speaker, {}).setdefault(pair.utterance, pair)
    for speaker in sorted(voices)[:2]:
        for utterance in sorted(voices[speaker])[:2]:
            write_audio(folder / speaker / f"{utterance}.flac", task.load(voices[speaker][utterance]).bonafide[:24_000])
    return folder


@pytest.fixture(scope="session")
def speech(speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Speech:
    return gather([speech_folder], tmp_path_factory.mktemp("gathered"), pitched=True)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory):
    """Weights files of tiny networks at step 0."""
    folder = tmp_path_factory.mktemp("untrained")

    def make(name: str, seed: int = 0) -> Path:
        path = folder / f"{name}-{seed}.safetensors"
        if not path.exists():
            run = start(TrainingConfig(name, "tiny", seed=seed), network_of(name))
            weights.write(path, name, run.network, run.average)
        return path

    return make


@pytest.fixture(scope="session")
def voice(speech: Speech) -> torch.Tensor:
    return speech.waveform(speech.utterances[0])[:16_000]
