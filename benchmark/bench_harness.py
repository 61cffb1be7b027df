"""Measure what the harness adds to each unit: plan, journal, hash and store, with an explainer that does nothing.

    python -m xaibench.benchmark.bench_harness [UNITS]

One constant map for all clips, stored once; no scores, no controls. Prints processor milliseconds per unit and the growth of memory between
the first tenth of the run and its end. Wall time says nothing on a machine that others use too.
"""

import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from xaibench.benchmark.run import run
from xaibench.benchmark.suite import SUITES
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Clip, Detector, Explainer, Pair, Task, content_hash

SAMPLES = 4096
GRID = STFTConfig(256, 128)
UNITS = 20_000


@dataclass(frozen=True)
class Silent(Task):
    """Clips of silence that cost nothing to load."""

    name = "silent"
    title = "Silence"
    licence = "CC0-1.0"
    stft = GRID
    truth = "none"
    recipes = ()
    clips: int = UNITS

    def pairs(self, split: str) -> list[Pair]:
        """Return as many pairs as clips."""
        ids = [f"c{i:06}" for i in range(self.clips)] if split == "test" else []
        return [Pair(name, name, f"s{i % 50}", "v", f"{name}.flac", f"{name}-v.flac") for i, name in enumerate(ids)]

    def load(self, pair: Pair) -> Clip:
        """Return silence."""
        return Clip(pair, torch.zeros(0), torch.zeros(SAMPLES), SAMPLES)

    def references(self, pair: Pair) -> Tensor:
        """Return silence."""
        return torch.zeros(1, SAMPLES)

    def fingerprint(self) -> str:
        """Hash the number of clips."""
        return content_hash([self.name, self.clips])


class Deaf(Detector):
    """Hears nothing."""

    name = "deaf"
    input_samples = SAMPLES

    def forward(self, waveform: Tensor) -> Tensor:
        """Return zeros."""
        return waveform[:, 0]


@dataclass(frozen=True)
class NoOp(Explainer):
    """Returns the same map for every clip."""

    name = "no_op"
    polarity = "magnitude"
    stft: STFTConfig = DEFAULT_STFT

    def explain(self, waveform: Tensor, detector: Detector, **_: object) -> Tensor:
        """Return ones."""
        return torch.ones(len(waveform), self.stft.bins, self.stft.frames(waveform.shape[-1]))


@dataclass(frozen=True)
class Measured:
    """What a run of so many units took."""

    units: int
    cpu_ms: float
    """Processor time for each unit."""
    wall_ms: float
    growth_mb: float
    """Growth of the memory held between the first tenth of the explanations and the last, in MiB."""
    peak_mb: float
    """Most memory that the process held up to the end of the run, in MiB."""


def held_mb() -> float:
    """Return the memory that this process holds now, in MiB. Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(units: int) -> Measured:
    """Run the benchmark with an explainer that does nothing, one unit for each clip."""
    suite = replace(SUITES["xaibench-v1"], name="bench", controls=(), n_draws=100)
    held: dict[int, float] = {}

    def watch(done: int, _: int) -> None:
        if done in (units // 5, 2 * units):  # an explanation and the twins of each clip count one each
            held[done] = held_mb()

    with tempfile.TemporaryDirectory() as place:
        start, wall = time.process_time(), time.perf_counter()
        run(
            [NoOp()],
            [Silent(clips=units)],
            Deaf(),
            suite=suite,
            out=Path(place) / "run",
            jobs=1,
            full=True,
            faithfulness=False,
            causal=False,
            progress=watch,
        )
        spent, wall = time.process_time() - start, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(units, 1e3 * spent / units, 1e3 * wall / units, held[2 * units] - held[units // 5], peak)


def main(units: int = UNITS) -> None:
    """Measure and print."""
    found = measure(units)
    sys.stdout.write(
        f"{units} units: {found.cpu_ms:.2f} ms of processor each ({found.wall_ms:.2f} ms wall), "
        f"memory {found.growth_mb:+.0f} MiB while they were explained, peak of the process {found.peak_mb:.0f} MiB\n"
    )


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))
