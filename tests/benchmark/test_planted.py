"""Runs on planted truth: the region is the truth, the oracle is handed it, and nobody is told of it but the controls."""

import pytest

from xaibench.benchmark.run import run
from xaibench.benchmark.suite import Budget, Curves, Suite


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    curves = Curves(clips=0, steps=4, occluders=("floor",))
    budget = Budget(clips=2, curves=curves, slow_curves=curves)
    suite = Suite("planted-test", controls=("random", "energy", "oracle_mask"), budgets={"quick": budget, "full": budget}, n_draws=100)
    out = tmp_path_factory.mktemp("planted") / "run"
    results = run(
        ["input_x_gradient"], ["planted:kind=plateau"], suite=suite, out=out, jobs=1, faithfulness=False, recipes=["sym-floor60-v1"]
    )
    return results.frame


def test_the_oracle_finds_the_planted_region_and_the_twins_differ_there(frame):
    dice = frame[(frame.metric == "generalized_dice") & (frame.polarity == "declared")].set_index(["explainer", "recipe", "pair"]).value
    for recipe in ("planted-v1", "sym-floor60-v1"):
        assert dice["oracle_mask"][recipe].tolist() == [1.0, 1.0]
        assert dice["random"][recipe].max() < 0.2
    assert dice["input_x_gradient"]["planted-v1"].notna().all()


def test_the_continuous_truth_of_a_region_is_the_region(frame):
    found = frame[(frame.metric == "spearman") & (frame.recipe == "planted-v1") & (frame.polarity == "declared")]
    oracle = found[found.explainer == "oracle_mask"].value
    assert oracle.tolist() == pytest.approx([1.0, 1.0])
