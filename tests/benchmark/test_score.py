"""Scores are those of the stored maps: the oracle reaches the top exactly, chance is where theory puts it, polarities are two columns."""

from dataclasses import replace

import pytest
import torch
from toys import GRID, SUITE, Toy, ToyTask, toy_run

from xaibench.benchmark.metrics.faithfulness import curves as trace
from xaibench.benchmark.metrics.faithfulness import summary as reduce
from xaibench.benchmark.metrics.localization import auroc
from xaibench.tasks.masks import truth


class ManyClips(ToyTask):
    """Both official recipes."""

    recipes = ("sym-floor60-v1", "grinberg-rel-linear-v1")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    task = ManyClips(utterances=10, identical="u03-beta")
    budget = {"quick": replace(SUITE.budgets["quick"], clips=30)}
    suite = replace(SUITE, budgets=budget, n_draws=2000, gap_gate=0.0)
    return task, toy_run(tmp_path_factory.mktemp("scored") / "run", Toy(), task=task, suite=suite, seed=1)


def rows(results, **wanted):
    wanted = {"slice": "all", "polarity": "declared", **wanted}
    return [r for r in results.summary.rows if all(getattr(r, k) == v for k, v in wanted.items())]


def test_the_oracle_scores_one_exactly(scored):
    _, results = scored
    frame = results.frame
    oracle = frame[(frame.explainer == "oracle_mask") & (frame.metric == "generalized_dice") & (frame.pair != "u03-beta")]
    assert set(oracle.recipe) == set(ManyClips.recipes)
    assert (oracle.value == 1.0).all()
    assert {(r.mean, r.low, r.high) for r in rows(results, explainer="oracle_mask", metric="generalized_dice")} == {(1.0, 1.0, 1.0)}


@pytest.mark.parametrize("recipe", ManyClips.recipes)
def test_random_and_constant_maps_score_chance_within_the_interval(scored, recipe):
    task, results = scored
    m = float(truth(task.load(task.pairs("test")[0]), recipe, GRID).mask.double().mean())
    (row,) = rows(results, explainer="random", metric="generalized_dice", recipe=recipe)
    assert row.low <= 2 * m * (1 - m) <= row.high
    assert row.high - row.low < 0.02
    (corrected,) = rows(results, explainer="random", metric="generalized_dice_corrected", recipe=recipe)
    assert corrected.low <= 0 <= corrected.high
    (tied,) = rows(results, explainer="constant", metric="auroc", recipe=recipe)
    assert (tied.mean, tied.low, tied.high) == (0.5, 0.5, 0.5)


def test_an_empty_mask_is_undefined_for_all_and_says_why(scored):
    _, results = scored
    frame = results.frame
    empty = frame[(frame.pair == "u03-beta") & (frame.metric == "generalized_dice")]
    assert empty.value.isna().all()
    assert all("mask is empty" in why for why in empty.why)
    found = {(r.n, r.n_total, r.n_undefined, r.n_failed) for r in rows(results, metric="generalized_dice")}
    assert found == {(29, 30, 1, 0)}


def test_values_are_those_of_the_stored_maps_under_both_polarities(scored):
    task, results = scored
    frame = results.frame[results.frame.metric == "auroc"].set_index(["explainer", "recipe", "polarity", "pair"])
    clip = task.load(next(p for p in task.pairs("test") if p.id == "u01-alpha"))
    for recipe in ManyClips.recipes:
        mask = truth(clip, recipe, GRID).mask
        for polarity in ("declared", "magnitude"):
            row = frame.loc[("toy_explainer", recipe, polarity, "u01-alpha")]
            heatmap = results.heatmap(row.heatmap_sha256)
            shown = heatmap if polarity == "declared" else heatmap.abs()
            assert row.value == float(auroc(shown[None], mask[None])[0])
        assert frame.loc[("toy_explainer", recipe, "declared", "u01-alpha")].value != row.value
        assert frame.loc[("energy", recipe, "declared", "u01-alpha")].value == frame.loc[("energy", recipe, "magnitude", "u01-alpha")].value


def test_curves_are_measured_on_clips_that_pass_the_gate(scored):
    task, results = scored
    (detector,) = results.summary.detectors
    twins = {p.id for p in task.pairs("test")} - {"u03-beta"}
    assert (detector.n_clips, detector.n_gated, detector.curve_clips) == (30, 30, 2)
    assert detector.pair_accuracy == pytest.approx(29 / 30)  # identical twins do not count as told apart
    curves = results.curves
    measured = set(curves.pair)
    assert len(measured) == 2
    assert measured <= twins
    assert set(curves.occluder) == {"twin_complex", "zero"}
    deletion = curves[curves.order == "most_first_deletion"].set_index(["explainer", "pair", "occluder"])
    assert all(len(v) == 5 for v in deletion.log_odds)
    pair = sorted(measured)[0]
    ends = {(v[0], v[-1]) for v in deletion.xs((pair, "twin_complex"), level=("pair", "occluder")).log_odds}
    assert len(ends) == 1  # from the clip to its twin, whatever the explainer


def test_faithfulness_values_are_those_of_the_metric(scored):
    from toys import ToyDetector

    task, results = scored
    frame = results.frame[(results.frame.explainer == "energy") & (results.frame.polarity == "declared")]
    row = frame[(frame.metric == "srg") & (frame.occluder == "zero")].iloc[0]
    clip = task.load(next(p for p in task.pairs("test") if p.id == row.pair))
    again = trace(clip.spoof, results.heatmap(row.heatmap_sha256), ToyDetector().eval(), steps=4, occluder="zero", stft=GRID)
    assert row.value == pytest.approx(reduce(again)["srg"], rel=1e-6)
    assert (results.frame[results.frame.occluder != ""].recipe == "").all()


def test_few_clips_get_neither_tier_nor_verdict(scored):
    _, results = scored
    few = rows(results, metric="srg", occluder="zero")
    assert {(r.n, r.tier, r.beats_best_control) for r in few} == {(2, None, None)}
    assert all("not enough clips: 2 of 10" in r.note for r in few)


def test_tiers_and_verdicts_follow_the_values(scored):
    _, results = scored
    found = {r.explainer: r for r in rows(results, metric="generalized_dice", recipe="sym-floor60-v1")}
    assert found["oracle_mask"].tier is None
    assert found["toy_explainer"].tier == 1
    assert found["toy_explainer"].beats_best_control is True
    assert all(found[name].beats_best_control is None for name in ("random", "constant", "energy", "oracle_mask"))
    assert found["random"].tier > 1
    frame = results.frame.query("explainer == 'toy_explainer' and metric == 'generalized_dice' and polarity == 'declared'")
    by_utterance = frame[frame.recipe == "sym-floor60-v1"].groupby("utterance").value.mean()
    assert found["toy_explainer"].mean == pytest.approx(by_utterance.mean())


def test_costs_are_counted_at_the_detector(scored):
    _, results = scored
    frame = results.frame[(results.frame.metric == "forwards") | (results.frame.metric == "backwards")]
    counted = frame.groupby(["explainer", "metric"]).value.unique().map(list).to_dict()
    assert counted["toy_explainer", "forwards"] == counted["toy_explainer", "backwards"] == [1.0]
    assert counted["random", "forwards"] == counted["random", "backwards"] == [0.0]


def test_the_code_of_an_occluder_is_in_the_key(monkeypatch):
    from toys import CURVES

    from xaibench.benchmark import score
    from xaibench.benchmark.units import ClipRef, Explanation, Unit

    ref = ClipRef(task="t", split="test", pair="p", utterance="u", speaker="s", vocoder="v", family="f", seen_vocoder=True)
    unit = Unit(clip=ref, detector="d", explainer="e", identity={})
    explanation = Explanation(key=unit.key, unit=unit, status="ok", heatmap_sha256="0" * 64)
    before = {item.key for item in score.faithfulness_items(explanation, CURVES, (0.05,))}
    monkeypatch.setattr(score, "_occluder_code", lambda name: f"new code of {name}")
    after = {item.key for item in score.faithfulness_items(explanation, CURVES, (0.05,))}
    assert len(before) == len(after) == 2
    assert not before & after


def test_slices_part_the_clips(scored):
    _, results = scored
    found = {
        r.slice: r.n_total
        for r in results.summary.rows
        if (r.explainer, r.metric, r.polarity, r.recipe) == ("random", "generalized_dice", "declared", "sym-floor60-v1")
    }
    assert found == {"all": 30, "seen": 20, "unseen": 10, "vocoder:alpha": 10, "vocoder:beta": 10, "vocoder:gamma": 10}


def test_a_detector_that_fails_on_an_occluded_clip_does_not_end_the_run(tmp_path):
    from toys import ToyDetector

    from xaibench.benchmark.run import run

    class Fragile(ToyDetector):
        def forward(self, waveform):
            if torch.is_inference_mode_enabled():
                raise ArithmeticError("occluded clips frighten me")
            return super().forward(waveform)

    results = run(["random"], [ToyTask(utterances=2)], Fragile(), out=tmp_path / "run", suite=replace(SUITE, gap_gate=0.0), jobs=1)
    assert (results.frame[results.frame.metric == "generalized_dice"].status == "ok").all()
    (detector,) = results.summary.detectors
    assert detector.curve_clips == 2
    assert len(results.curves) == 0
