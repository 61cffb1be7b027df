import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from xaibench.explainers.segdiff.fidelity import Compared, compare, read, summary
from xaibench.explainers.segdiff.sampling import Sampling
from xaibench.explainers.segdiff.weights import load
from xaibench.registry import TASKS

FEW = Sampling(steps=2, samples=1, first_share=0.0)


def test_clips_are_scored_by_both_samplings_once_and_the_same_call_goes_on(tmp_path: Path) -> None:
    task, model, out = TASKS.load("minivoc"), load("specsegdiff", "minivoc"), tmp_path / "sub/fidelity.jsonl"
    first = list(compare(task, model, out, clips=1, paper=FEW))
    with out.open("a") as stream:
        stream.write('{"pair": "cut sho')
    both = list(compare(task, model, out, clips=2, paper=FEW))
    assert both[0] == first[0]  # read, not made again: seconds are equal too
    assert read(out) == both
    assert len({c.pair for c in both}) == 2
    assert all(10 < c.fast < 80 and c.fast != c.paper for c in both)
    same = next(iter(compare(task, model, tmp_path / "same.jsonl", clips=1, paper=Sampling())))
    assert same.fast == same.paper == first[0].fast


def test_the_interval_is_that_of_a_paired_bootstrap() -> None:
    generator = np.random.default_rng(0)
    fast, paper = generator.normal(35, 5, 64), generator.normal(35, 5, 64)
    found = summary([Compared(str(i), f, p, 0.0, 0.0) for i, (f, p) in enumerate(zip(fast.tolist(), paper.tolist(), strict=True))])
    oracle = stats.bootstrap(((fast - paper),), np.mean, method="percentile", random_state=1).confidence_interval
    assert found.difference == pytest.approx((fast - paper).mean())
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=0.15)
    few = summary([Compared("a", 35.0, 34.0, 0.0, 0.0)])
    assert few.difference == 1.0
    assert math.isnan(few.low)
    assert math.isnan(few.high)
    with pytest.raises(ValueError, match="compared must hold at least one clip, got none"):
        summary([])
