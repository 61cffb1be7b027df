"""The causal truth in a run: a stage of its own, with its own keys, its own reasons, and a reference that scores one."""

from dataclasses import replace

import pytest
import torch
from toys import GRID, SUITE, Toy, ToyDetector, ToyTask, toy_run

from xaibench.benchmark.causal import Reference, config, domain, quality, worthy
from xaibench.benchmark.metrics.causal import average_precision, chance_precision
from xaibench.benchmark.rescore import rescore
from xaibench.benchmark.suite import Causal
from xaibench.benchmark.units import Score
from xaibench.errors import UnknownNameError
from xaibench.tasks.causal import causal_truth
from xaibench.tasks.spectrogram import magnitude

TASK = ToyTask(utterances=2)
BUDGET = Causal(clips=4, permutation_pairs=3, domains=("twin_tiles",), least_split_half=-1.0, null_limit=9.0)
COMPARING = replace(
    SUITE, name="toy-causal", budgets={"quick": replace(SUITE.budgets["quick"], causal=BUDGET, slow_causal=BUDGET)}, gap_gate=0.05
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("causal") / "run", Toy(), Toy(fault="raises"), task=TASK, suite=COMPARING)


def causal(results, metric, polarity="declared"):
    frame = results.frame
    return frame[(frame.metric == metric) & (frame.polarity == polarity) & (frame.occluder == "twin_tiles")]


def test_the_truth_itself_scores_one_and_a_constant_scores_chance(compared):
    scores = causal(compared, "causal_spearman").dropna(subset="value").groupby("explainer").value
    assert scores.get_group("oracle_mask").tolist() == pytest.approx([1.0] * len(scores.get_group("oracle_mask")))
    assert scores.get_group("constant").tolist() == [0.0] * len(scores.get_group("constant"))
    closed = causal(compared, "causal_gap_closed_normalized").dropna(subset="value").groupby("explainer").value
    assert closed.get_group("oracle_mask").tolist() == pytest.approx([1.0] * len(closed.get_group("oracle_mask")))


def test_what_the_truth_is_worth_stands_in_the_summary(compared):
    (row,) = compared.summary.detectors[0].causal
    assert row.domain == "twin_tiles"
    assert row.n_clips == 4
    assert row.n_refused == sum(row.reasons.values())
    refused = causal(compared, "causal_spearman")
    refused = refused[(refused.explainer == "random") & refused.value.isna()]
    assert len(refused) == row.n_refused
    assert set(refused.why) == set(row.reasons)
    assert set(refused.status) <= {"ok"}


def test_failures_take_the_lowest_control_and_recipes_are_left_alone(compared):
    failed = causal(compared, "causal_spearman")
    failed = failed[(failed.explainer == "toy_explainer:fault=raises") & (failed.status == "error")]
    assert len(failed)
    row = next(r for r in compared.summary.rows if r.explainer == "toy_explainer:fault=raises" and r.metric == "causal_spearman")
    assert row.n_failed == len(failed)
    assert "lowest control" in row.note
    frame = compared.frame
    assert set(frame[frame.metric.str.startswith("causal_")].recipe) == {""}


def test_a_finished_run_is_compared_later_without_explaining_again(tmp_path, compared, monkeypatch):
    plain = toy_run(tmp_path / "run", Toy(), Toy(fault="raises"), task=TASK, suite=SUITE)
    assert not plain.frame.metric.str.startswith("causal_").any()
    monkeypatch.setattr(Toy, "explain", lambda *_, **__: pytest.fail("explained again"))
    later = rescore(plain.path, COMPARING, tasks=[TASK], detector=ToyDetector(), jobs=1)
    columns = ["pair", "explainer", "polarity", "metric", "value", "why"]
    same = [r.frame[r.frame.occluder == "twin_tiles"][columns].reset_index(drop=True) for r in (compared, later)]
    assert same[0].equals(same[1])


def test_the_reference_equals_scoring_its_own_map():
    clip = TASK.load(TASK.pairs("test")[0])
    reference = Reference.of(clip, ToyDetector().eval(), config("twin_tiles", 3, 0.05, GRID), BUDGET)
    assert reference.own.shape == magnitude(clip.spoof, GRID).shape
    scored = reference.score(reference.own)["values"]
    assert scored["causal_spearman"] == pytest.approx(1)
    assert scored["causal_gap_closed"] == pytest.approx(scored["causal_gap_closed_reference"])
    opposite = reference.score(-reference.own)["values"]
    assert opposite["causal_spearman"] == pytest.approx(-1)
    assert torch.isfinite(reference.own).all()


def test_quality_counts_what_it_says():
    def record(half, shift, refused=""):
        values = {"causal_split_half": half, "causal_null_shift": shift}
        why = {"causal_spearman": refused, "causal_gap_closed_random": refused} if refused else {}
        return Score(key="k", unit="u", stage="causal", polarity="declared", occluder="twin_tiles", values=values, why=why)

    (row, silent) = quality([record(0.8, 0.01), record(0.96, 0.06), record(0.92, 0.02), record(None, None, "seams")], ("twin_tiles", "x"))
    assert (row.n_clips, row.n_refused, row.reasons) == (4, 1, {"seams": 1})
    assert (row.split_half, row.n_unsteady, row.n_null_failed) == (0.92, 1, 1)
    assert row.null_shift == pytest.approx(0.03)
    assert (silent.n_clips, silent.split_half, silent.null_shift) == (0, None, None)


def test_an_unknown_domain_is_one_sentence():
    with pytest.raises(UnknownNameError, match="domain must be one of twin_tiles, twin_segments, got 'tiles'"):
        domain("tiles", GRID)


def test_truths_that_their_own_checks_do_not_support_are_refused():
    clip, detector = TASK.load(TASK.pairs("test")[0]), ToyDetector().eval()
    known = causal_truth(clip, detector, config("twin_tiles", 3, 0.05, GRID))
    assert worthy(known, BUDGET) is known
    unsteady = worthy(replace(known, split_half=0.89), replace(BUDGET, least_split_half=0.9))
    assert "unsteady" in unsteady.reason
    moved = worthy(replace(known, null_shifts=torch.full_like(known.null_shifts, 0.05)), replace(BUDGET, null_limit=0.05))
    assert "null control" in moved.reason
    settings = config("twin_tiles", 3, 0.05, GRID)
    refused = Reference.of(clip, detector, settings, replace(BUDGET, least_split_half=1.1))
    assert refused.game is None
    assert refused.score(refused.own)["values"]["causal_spearman"] is None


def test_chance_precision_is_the_mean_over_random_orders():
    generator = torch.Generator().manual_seed(0)
    values = torch.arange(16, 0, -1, dtype=torch.float64)[None]
    drawn = [float(average_precision(torch.rand(1, 16, generator=generator), values)[0]) for _ in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(chance_precision(16, 4), abs=0.01)
