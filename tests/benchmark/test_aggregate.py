"""Verdicts and intervals from hand-made values, where the right answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from toys import SUITE

from xaibench.benchmark.aggregate import Aggregator, Block, RowInfo
from xaibench.benchmark.claims import claim_of
from xaibench.benchmark.statistics import cluster_bootstrap, minimum_detectable_difference, paired_difference, paired_p, tiers
from xaibench.benchmark.units import ClipRef
from xaibench.registry import EXPLAINERS

CONTROLS = ("random", "constant", "energy")
RULES = replace(SUITE, min_speakers=20, min_clips=10, n_draws=1000)
NOISE = np.random.default_rng(0).normal(size=(40, 12))
NOISE -= NOISE.mean(0)
OWN = 0.4 + 0.02 * NOISE[:, 4]


def summarise(values, speakers=40, failed=None, suite=RULES, metric="generalized_dice", higher=True):
    """Summary rows (slice "all") by explainer, from one value per clip and explainer; each clip is an utterance of its own."""
    units = []
    for label in sorted(values):
        for i, value in enumerate(values[label]):
            bad = failed is not None and label in failed and i in failed[label]
            clip = {"task": "t", "split": "test", "pair": f"p{i:02d}", "utterance": f"u{i:02d}", "speaker": f"s{i % speakers:02d}"}
            place = {"recipe": "r", "polarity": "declared", "occluder": "", "metric": metric, "detector": "d", "explainer": label}
            kind = {"vocoder": "v", "family": "v", "seen_vocoder": True}
            known = None if bad or np.isnan(value) else float(value)
            status = {"value": known, "why": "" if known is not None else "x", "status": "error" if bad else "ok"}
            units.append({**clip, **kind, **place, **status})
    infos = {label: RowInfo(label, label, label in CONTROLS or label == "oracle_mask", label == "oracle_mask") for label in values}
    found = Aggregator(suite, infos, {"generalized_dice": higher}).summarise(units)
    return {row.explainer: row for row in found if row.slice == "all"}


def controls(spread=0.02, **changed):
    flat = {name: 0.3 + spread * NOISE[:, i] for i, name in enumerate(CONTROLS)}
    return {**flat, **changed}


def test_every_control_must_be_beaten_not_only_the_one_with_the_best_mean():
    mine = 0.4 + 0.02 * NOISE[:, 5]
    assert summarise({**controls(), "mine": mine})["mine"].beats_best_control is True
    wild = 0.29 + 1.5 * NOISE[:, 6]  # a lower mean, but nobody can be told from it
    rows = summarise({**controls(energy=wild), "mine": mine})
    assert rows["energy"].mean < rows["random"].mean
    assert rows["mine"].beats_best_control is False
    oracle = summarise({**controls(), "mine": mine, "oracle_mask": np.ones(40)})
    assert oracle["mine"].beats_best_control is True
    assert oracle["oracle_mask"].beats_best_control is oracle["random"].beats_best_control is None


def test_better_means_lower_where_lower_is_better():
    low = {**controls(), "mine": 0.2 + 0.02 * NOISE[:, 5]}
    assert summarise(low, higher=False)["mine"].beats_best_control is True
    assert summarise(low)["mine"].beats_best_control is False


def test_verdicts_are_corrected_for_the_number_of_explainers():
    same = dict.fromkeys(CONTROLS, np.full(40, 0.3))
    lead = {f"e{i}": 0.3 + 0.02 * NOISE[:, i] + 0.0087 for i in range(10)}
    clusters = [f"u{i}" for i in range(40)]
    p = {name: paired_difference(values, same["random"], clusters).p for name, values in lead.items()}
    name = next(n for n, value in p.items() if 0.005 < value < 0.02)
    assert summarise({**same, name: lead[name]})[name].beats_best_control is True
    crowd = {**lead, **{f"w{i}": 0.3 - 0.01 + 0.02 * NOISE[:, i] for i in range(12)}}
    assert summarise({**same, **crowd})[name].beats_best_control is False


def test_a_row_that_beats_every_control_shares_no_tier_with_one():
    level = {control: 0.3 + 1e-3 * NOISE[:, 6 + i] for i, control in enumerate(CONTROLS)}
    mine = 0.3 + 0.02 * NOISE[:, 4] + 0.0068
    p = [float(paired_p((mine - values)[:, None], range(40))[0]) for values in level.values()]
    assert 0.05 / 6 < min(p) <= max(p) < 0.05  # among the six pairs of rows Holm would find none
    rows = summarise({**level, "mine": mine})
    assert rows["mine"].beats_best_control is True
    assert (rows["mine"].tier, {rows[control].tier for control in CONTROLS}) == (1, {2})
    ties = tiers({**level, "mine": mine}, range(40))
    assert set(ties.values()) == {1}


def test_the_kind_of_clusters_is_that_of_the_clips_with_a_value():
    some = 0.4 + 0.02 * NOISE[:, 5]
    some[12:] = np.nan
    rows = summarise({**controls(), "whole": 0.4 + 0.02 * NOISE[:, 4], "some": some}, speakers=20)
    assert (rows["whole"].interval_by, rows["some"].interval_by) == ("speaker", "utterance")
    for label in ("whole", "some"):
        row = rows[label]
        assert (row.low, row.high) == (getattr(row, f"{row.interval_by}_low"), getattr(row, f"{row.interval_by}_high"))
    by_speaker = cluster_bootstrap(0.4 + 0.02 * NOISE[:, 4], [f"s{i % 20:02d}" for i in range(40)], n_draws=1000)
    assert rows["whole"].low == pytest.approx(by_speaker.low)
    assert rows["some"].beats_best_control is True  # judged on the twelve clips where both have a value


def test_only_imputed_values_are_said_to_be_imputed():
    mine = 0.4 + 0.02 * NOISE[:, 5]
    failed = {"mine": {0, 1, 2}}
    assert summarise({**controls(), "mine": mine}, failed=failed)["mine"].note == "3 failed explanations take the lowest control"
    undefined = controls()
    for values in undefined.values():
        values[0] = np.nan
    rows = summarise({**undefined, "mine": mine}, failed=failed)
    assert rows["mine"].note == "2 failed explanations take the lowest control; 1 failed explanations have no value"
    assert (rows["mine"].n, rows["mine"].n_failed) == (39, 3)
    alone = summarise({**controls(), "mine": mine}, failed=failed, metric="forwards")["mine"]
    assert alone.note == "3 failed explanations have no value"


def test_many_p_values_equal_those_of_single_comparisons():
    clusters = [f"u{i // 2}" for i in range(40)]
    differences = NOISE[:, :4] + 0.2
    differences[3, 1] = np.nan
    single = [paired_difference(column, np.zeros(40), clusters).p for column in differences.T]
    assert paired_p(differences, clusters) == pytest.approx(single)


def test_rows_say_what_they_could_have_shown():
    clusters = [f"u{i:02d}" for i in range(40)]
    mine = 0.4 + 0.02 * NOISE[:, 5]
    values = {**controls(energy=0.35 + 0.02 * NOISE[:, 7]), "mine": mine}
    rows = summarise(values)
    assert rows["mine"].detectable == pytest.approx(minimum_detectable_difference(paired_difference(mine, values["energy"], clusters)))
    assert rows["random"].detectable is None


def test_hits_on_every_clip_leave_room_for_doubt():
    hits = {name: np.ones(40) for name in ("random", "mine")}
    rows = summarise(hits, metric="pointing_game")
    assert (rows["mine"].mean, rows["mine"].high) == (1.0, 1.0)
    assert rows["mine"].low < 0.93
    assert summarise(hits)["mine"].low == 1.0  # a score that is no share keeps what the clusters say


def test_one_vocoder_left_out_shows_who_decides():
    block = Block("t", "d", [], [], *(np.zeros((0, 0)) for _ in range(4)), [])
    block.clips = [
        ClipRef(task="t", split="test", pair=f"p{i}", utterance=f"u{i}", speaker="s", vocoder=v, family=v, seen_vocoder=True)
        for i, v in enumerate("aab")
    ]
    block.columns, block.values = [("mine", "r", "declared", "", "generalized_dice")], np.array([[0.2], [0.4], [0.9]])
    found = Aggregator(RULES, {}, {})._without_each_vocoder(block, 0, "utterance")
    assert found == {"without_vocoder_low": pytest.approx(0.3), "without_vocoder_high": pytest.approx(0.9)}


def test_every_claim_names_an_explainer_that_can_be_run_with_the_same_options() -> None:
    kinds = {name: EXPLAINERS.get(name) for name in EXPLAINERS.names()}
    claims = {name: kind for name, kind in kinds.items() if kind.ablation}
    assert list(claims) == ["addsegdiff"]
    for kind in claims.values():
        assert kind.claim
        assert kinds[kind.ablation].__dataclass_fields__.keys() == kind.__dataclass_fields__.keys()
    assert claim_of("addsegdiff:steps=4,samples=2") == ("detector-specific", "addsegdiff_random:steps=4,samples=2")
    assert claim_of("addsegdiff_random") == claim_of("energy") == claim_of("no-such:plugin") == ("", "")


@pytest.mark.parametrize(
    ("gain", "note"),
    [
        (0.02, "detector-specific: better than addsegdiff_random"),
        (0.0, "not detector-specific: cannot be told from addsegdiff_random"),
        (-0.02, "not detector-specific: worse than addsegdiff_random"),
    ],
)
def test_the_note_follows_the_paired_interval(gain: float, note: str) -> None:
    other = OWN - gain + 0.02 * NOISE[:, 5]
    rows = summarise({**controls(), "addsegdiff": OWN, "addsegdiff_random": other})
    assert rows["addsegdiff"].note == note
    assert rows["addsegdiff_random"].note == rows["energy"].note == ""
    lower = summarise({**controls(), "addsegdiff": OWN, "addsegdiff_random": other}, higher=False)["addsegdiff"].note
    opposite = {"better": "worse", "worse": "better"}
    found = lower.split(": ")[1].split(" ")[0]
    assert found == opposite.get(note.split(": ")[1].split(" ", maxsplit=1)[0], "cannot")


def test_a_lone_row_says_that_its_claim_was_not_tested() -> None:
    rows = summarise({**controls(), "addsegdiff:steps=4": OWN, "addsegdiff_random": OWN})
    assert rows["addsegdiff:steps=4"].note == "whether detector-specific was not tested: run addsegdiff_random:steps=4 beside it"


def test_failures_are_told_after_the_claim_and_few_clips_leave_it_unjudged() -> None:
    rows = summarise({**controls(), "addsegdiff": OWN, "addsegdiff_random": OWN}, failed={"addsegdiff": {3}})
    assert rows["addsegdiff"].note == (
        "not detector-specific: cannot be told from addsegdiff_random; 1 failed explanations take the lowest control"
    )
    few = np.where(np.arange(40) < 5, OWN, np.nan)
    assert "specific" not in summarise({**controls(), "addsegdiff": few, "addsegdiff_random": few})["addsegdiff"].note
