"""The explainers' bill: calls are written down as made, and repeated as they were."""

import torch
from torch import Tensor

from xaibench.explainers.bench import Call, bill, observed, repeat
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import STFTConfig
from xaibench.types import Detector


class Loud(Detector):
    name = "loud"
    input_samples = 2048

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform.square().mean(1)


def test_calls_are_written_down_and_repeated():
    detector = Loud()
    calls = bill(EXPLAINERS.load("gradient_shap:n_samples=6,chunk_size=4", stft=STFTConfig(128, 32)), detector, "x", repeats=1)
    assert calls.calls == (Call(4, True), Call(2, True))
    assert calls.ratio > 0
    assert "6" in calls.line()
    again = observed(detector, lambda: repeat(detector, torch.ones(1, 2048), (*calls.calls, Call(3, False))))
    assert again == (*calls.calls, Call(3, False))
