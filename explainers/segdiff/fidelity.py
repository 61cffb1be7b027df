"""What the default sampling costs in quality against the paper's 100 steps x 32 samples, with the same network and weights.

    python -m xaibench.explainers.segdiff.fidelity --task minivoc --clips 64 --out fidelity.jsonl

G(I) is computed once per clip on both sides: computed again for every step and sample, as the paper does, it has the same value. A clip of
the paper's side takes about a minute of a processor thread with the ``small`` network; the same command goes on with the next clip.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from xaibench.explainers.segdiff.evaluation import generalized_dice
from xaibench.explainers.segdiff.frontend import FrontEnd
from xaibench.explainers.segdiff.measure import PAPER
from xaibench.explainers.segdiff.sampling import Sampling, posterior
from xaibench.explainers.segdiff.weights import Model, load
from xaibench.registry import TASKS
from xaibench.tasks.masks import truth
from xaibench.types import Pair, Task

RECIPE = "sym-floor60-v1"


@dataclass(frozen=True)
class Compared:
    """One clip by both samplings: Generalized Dice in percent, and seconds of the processor."""

    pair: str
    fast: float
    paper: float
    fast_s: float
    paper_s: float


@dataclass(frozen=True)
class Summary:
    """The paired difference, default minus paper, over the clips so far."""

    clips: int
    fast: float
    paper: float
    difference: float
    low: float
    """Lower end of the 95 % bootstrap interval over clips; ``nan`` below ten clips, which say too little."""
    high: float


def compare(task: Task, model: Model, out: Path, *, clips: int = 64, paper: Sampling = PAPER) -> Iterator[Compared]:
    """Score test clips by both samplings and yield them; each is appended to ``out`` as it is done, and read where it is there.

    Clips come in a drawn order, so that the first ones are a fair sample of a task's vocoders and speakers; one without a mask is left out.
    """
    pairs = list(task.pairs("test"))
    drawn = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(64))[:clips].tolist()
    known = {c.pair: c for c in read(out)}
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_file() and not out.read_text().endswith("\n"):
        out.write_text("".join(json.dumps(asdict(c)) + "\n" for c in known.values()))  # drops the line that a kill cut short
    for place in drawn:
        done = known.get(pairs[place].id)
        if done is None:
            done = _compared(task, pairs[place], model, place, paper)
            if done is None:
                continue
            with out.open("a") as stream:
                stream.write(json.dumps(asdict(done)) + "\n")
        yield done


def _compared(task: Task, pair: Pair, model: Model, seed: int, paper: Sampling) -> Compared | None:
    clip = task.load(pair)
    known = truth(clip, RECIPE, model.config.stft)
    if not bool((known.mask & known.valid).any()):
        return None
    image = model.config.front.image(clip.spoof[None], model.config.stft)

    def score(sampling: Sampling) -> tuple[float, float]:
        began = time.process_time()
        drawn = posterior(model.network, model.config, image, [torch.Generator().manual_seed(seed)], sampling).mean
        spent = time.process_time() - began
        heat = FrontEnd.restore(drawn[:, model.config.recipes.index(RECIPE)], model.config.stft, clip.spoof.shape[-1])[0]
        return 100 * generalized_dice(heat, known.mask.float(), known.valid), spent

    (fast, fast_s), (slow, slow_s) = score(Sampling()), score(paper)
    return Compared(pair.id, fast, slow, fast_s, slow_s)


def read(path: Path) -> list[Compared]:
    """Read what ``compare`` wrote; a line cut short by a kill is none."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(Compared(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def summary(compared: list[Compared]) -> Summary:
    """Return means and the paired difference with its interval.

    Raises:
        ValueError: If there is no clip.
    """
    if not compared:
        raise ValueError("compared must hold at least one clip, got none; let compare run longer")
    fast, paper = (torch.tensor([getattr(c, side) for c in compared], dtype=torch.float64) for side in ("fast", "paper"))
    low, high = _interval(fast - paper) if len(compared) >= 10 else (float("nan"), float("nan"))
    return Summary(len(compared), float(fast.mean()), float(paper.mean()), float((fast - paper).mean()), low, high)


def _interval(differences: Tensor) -> tuple[float, float]:
    drawn = torch.randint(len(differences), (5000, len(differences)), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(differences[drawn].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def main(arguments: list[str] | None = None) -> None:
    """Compare from the command line; prints the summary after every clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="minivoc")
    parser.add_argument("--weights", default="", help="shipped name or file; default: those of the task")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("fidelity.jsonl"))
    options = parser.parse_args(arguments)
    task = TASKS.load(options.task)
    so_far: list[Compared] = []
    for done in compare(task, load("specsegdiff", options.weights or task.name), options.out, clips=options.clips):
        so_far.append(done)
        sys.stdout.write(json.dumps(asdict(summary(so_far))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
