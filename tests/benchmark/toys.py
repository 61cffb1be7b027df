"""A toy world: clips whose twins differ in one band, a detector that hears such bands, and explainers that misbehave in every way."""

import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from xaibench.benchmark.suite import SUITES, Budget, Curves
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, log_magnitude, magnitude
from xaibench.types import Clip, Detector, Explainer, Pair, Task, content_hash

T = 4096
GRID = STFTConfig(256, 128)
VOCODERS = {"alpha": True, "beta": True, "gamma": False}
CURVES = Curves(clips=2, steps=4, occluders=("twin_complex", "zero"))
SUITE = replace(
    SUITES["xaibench-v1"],
    name="toy",
    controls=("random", "constant", "energy", "oracle_mask"),
    budgets={"quick": Budget(clips=12, curves=CURVES, slow_curves=CURVES)},
    n_draws=200,
    min_clips=10,
)


@dataclass(frozen=True)
class ToyTask(Task):
    """Utterances of noise; the spoof lacks a band that depends on the vocoder."""

    name = "toy"
    title = "Toy"
    licence = "CC0-1.0"
    stft = GRID
    recipes = ("sym-floor60-v1",)
    speakers: int = 2
    utterances: int = 4
    identical: str = field(default="", metadata={"config": False})
    """A pair whose twins are one recording."""
    broken: str = field(default="", metadata={"config": False})
    """A pair that cannot be loaded."""
    reverse: bool = field(default=False, metadata={"config": False})

    def pairs(self, split):
        made = [
            Pair(
                id=f"u{u:02d}-{vocoder}",
                utterance=f"u{u:02d}",
                speaker=f"s{u % self.speakers}",
                vocoder=vocoder,
                bonafide=f"{self.data}/u{u}.flac",
                spoof=f"{self.data}/u{u}-{vocoder}.flac",
                seen_vocoder=seen,
                bonafide_sha256=f"b{u}",
                spoof_sha256=f"s{u}{vocoder}",
            )
            for u in range(self.utterances)
            for vocoder, seen in VOCODERS.items()
            if split == "test"
        ]
        return made[::-1] if self.reverse else made

    def load(self, pair):
        if pair.id == self.broken:
            raise OSError("toy recording is gone")
        generator = torch.Generator().manual_seed(int(pair.utterance[1:]))
        bonafide = 0.1 * torch.randn(T, generator=generator)
        spectrum = torch.fft.rfft(bonafide)
        start = 300 + 400 * list(VOCODERS).index(pair.vocoder)
        spectrum[start : start + 200] *= 1.0 if pair.id == self.identical else 0.02
        spoof = bonafide if pair.id == self.identical else torch.fft.irfft(spectrum, n=T)
        return Clip(pair, bonafide, spoof, T)

    def references(self, pair):
        return torch.zeros(20, T)

    def fingerprint(self):
        return content_hash([self.name, self.utterances, sorted(p.id for p in self.pairs("test"))])


class ToyDetector(Detector):
    """Log-odds grow with the share of silent cells."""

    name = "toy_detector"
    input_samples = T

    def __init__(self, slope: float = 40.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, waveform):
        quiet = torch.sigmoid(8 * (0.3 - magnitude(waveform, GRID)))
        return self.slope * (quiet.mean((1, 2)) - 0.1)


@dataclass(frozen=True)
class Toy(Explainer):
    """Points at quiet cells, noisily; ``fault`` says how it misbehaves on about half of the clips."""

    name = "toy_explainer"
    deterministic = False
    fault: str = ""
    pause_s: float = field(default=0.0, metadata={"config": False})
    stft: STFTConfig = DEFAULT_STFT

    def applicable(self, detector):
        return self.fault != "refuses", "it has no layers" if self.fault == "refuses" else ""

    def explain(self, waveform: Tensor, detector: Detector, *, references=None, generator=None) -> Tensor:
        base = log_magnitude(waveform, self.stft)
        noise = torch.randn(base.shape, generator=generator[0])
        careless = torch.rand(1)  # drawn from the global generator
        detector.spoof_logit(waveform.clone().requires_grad_(True)).sum().backward()
        if self.pause_s:
            import time

            time.sleep(self.pause_s)
        heatmap = base.mean() - base + noise + careless
        unlucky = int((waveform > 0).sum()) % 2  # by signs alone, which every processor computes alike
        return self.misbehave(heatmap, detector) if unlucky else heatmap

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
            torch.manual_seed(0)
        while self.fault == "hangs":
            pass
        if self.fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return heatmap


def toy_run(out: Path, *explainers, task=None, **options):
    """Run the toy world in this process, unless told otherwise."""
    from xaibench.benchmark.run import run

    options = {"suite": SUITE, "jobs": 1, **options}
    return run(list(explainers), [task or ToyTask()], ToyDetector(), out=out, **options)
