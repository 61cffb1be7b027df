"""A toy world: a task of short clips whose twins differ in one band, a detector that hears that band, and explainers that misbehave."""

import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from xaibench.benchmark.suite import SUITES, Budget, Curves
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, log_magnitude, magnitude
from xaibench.types import Clip, Detector, Explainer, Pair, Task, content_hash

T = 8192
VOCODERS = {"alpha": True, "beta": True, "gamma": False}
CURVES = Curves(clips=3, steps=4, occluders=("twin_complex", "zero"))
SUITE = replace(
    SUITES["xaibench-v1"], name="toy", budgets={"quick": Budget(clips=48, curves=CURVES, slow_curves=CURVES)}, n_draws=500, gap_gate=0.5
)


@dataclass(frozen=True)
class ToyTask(Task):
    """Utterances of noise; the spoof lacks a band that depends on the vocoder."""

    name = "toy"
    title = "Toy"
    licence = "CC0-1.0"
    utterances: int = 8
    speakers: int = 4
    reverse: bool = field(default=False, metadata={"config": False})

    def pairs(self, split):
        if split != "test":
            return []
        made = [
            Pair(
                id=f"u{u:02d}-{v}",
                utterance=f"u{u:02d}",
                speaker=f"s{u % self.speakers}",
                vocoder=v,
                bonafide=f"{self.data}/u{u}.flac",
                spoof=f"{self.data}/u{u}-{v}.flac",
                seen_vocoder=seen,
                family=v,
                bonafide_sha256=f"b{u}",
                spoof_sha256=f"s{u}{v}",
            )
            for u in range(self.utterances)
            for v, seen in VOCODERS.items()
        ]
        return made[::-1] if self.reverse else made

    def load(self, pair):
        generator = torch.Generator().manual_seed(int(pair.utterance[1:]))
        bonafide = 0.1 * torch.randn(T, generator=generator)
        spectrum = torch.fft.rfft(bonafide)
        start = 600 + 500 * list(VOCODERS).index(pair.vocoder)
        spectrum[start : start + 300] *= 0.02
        return Clip(pair, bonafide, torch.fft.irfft(spectrum, n=T), T)

    def references(self, pair):
        return torch.zeros(20, T)

    def fingerprint(self):
        return content_hash([self.name, self.utterances, sorted(p.id for p in self.pairs("test"))])


class ToyDetector(Detector):
    """Log-odds grow with the energy missing between the bins that vocoders empty."""

    name = "toy_detector"
    input_samples = T

    def __init__(self, slope: float = 60.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, waveform):
        band = magnitude(waveform)[:, 30:130].square().mean((1, 2)) / magnitude(waveform).square().mean((1, 2))
        return self.slope * (1.0 - band)


@dataclass(frozen=True)
class Toy(Explainer):
    """Log-magnitude with noise; ``fault`` says how it misbehaves, ``on`` at which clips (by the parity of a hash of the waveform)."""

    name = "toy_explainer"
    deterministic = False
    fault: str = ""
    stft: STFTConfig = DEFAULT_STFT

    def applicable(self, detector):
        return self.fault != "refuses", "it has no layers" if self.fault == "refuses" else ""

    def explain(self, waveform: Tensor, detector: Detector, *, references=None, generator=None) -> Tensor:
        torch.rand(3)  # a careless draw from the global generator
        base = log_magnitude(waveform, self.stft)
        noise = torch.randn(base.shape, generator=generator[0])
        return self.misbehave(base.mean() - base + noise, detector) if waveform.sum() > 0 or self.fault == "dies" else base + noise

    def misbehave(self, heatmap, detector):
        if self.fault == "raises":
            raise ZeroDivisionError("toy failure\nwith a second line")
        if self.fault == "nan":
            heatmap[0, 0, :2] = float("nan")
        if self.fault == "shape":
            return heatmap[:, :-1]
        if self.fault == "double":
            return heatmap.double()
        if self.fault == "vandal":
            with torch.no_grad():
                detector.slope += 1.0
            detector.train()
            detector.register_forward_hook(lambda *_: None)
        if self.fault == "hangs":
            while True:
                pass
        if self.fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return heatmap


def toy_run(out: Path, *explainers, task=None, **options):
    """Run the toy world."""
    from xaibench.benchmark.run import run

    options = {"suite": SUITE, "jobs": 1, "faithfulness": False, **options}
    return run(list(explainers), [task or ToyTask()], ToyDetector(), out=out, **options)
