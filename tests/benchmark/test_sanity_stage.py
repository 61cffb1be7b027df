"""Sanity in a run: what paints the clip is told from what reads the detector, what draws from what does not."""

import time
from dataclasses import dataclass, field, replace

import pytest
import torch
from toys import GRID, SUITE, T, Toy, ToyDetector, ToyTask, toy_run

from xaibench.benchmark.metrics.localization import dice, generalized_dice
from xaibench.benchmark.rescore import rescore
from xaibench.benchmark.suite import Sanity
from xaibench.tasks.masks import truth
from xaibench.tasks.spectrogram import magnitude, valid_cells
from xaibench.types import Explainer

TASK = ToyTask(utterances=2)
EXAMINING = replace(SUITE, name="toy-sanity", budgets={"quick": replace(SUITE.budgets["quick"], sanity=Sanity(clips=3))})


@dataclass(frozen=True)
class Reader(Explainer):
    """Reads a weight of the detector: any other value turns the sign of its map."""

    name = "reader"
    needs = frozenset({"logits"})

    def explain(self, waveform, detector, *, references=None, generator=None):
        return magnitude(waveform, GRID) * (1.0 if float(detector.slope) == 40.0 else -1.0)


@dataclass(frozen=True)
class Fickle(Explainer):
    """Explains the detector that it knows and no other."""

    name = "fickle"
    needs = frozenset({"logits"})

    def explain(self, waveform, detector, *, references=None, generator=None):
        if float(detector.slope) != 40.0:
            raise RuntimeError("this is another detector")
        return magnitude(waveform, GRID)


@dataclass(frozen=True)
class Decider(Explainer):
    """Calls artifact what is louder than its threshold."""

    name = "decider"

    @property
    def decision_threshold(self):
        return 1.0

    def explain(self, waveform, detector, *, references=None, generator=None):
        return magnitude(waveform, GRID)


@dataclass(frozen=True)
class Padding(Explainer):
    """Paints the clip alone where it is, and what it knows of the detector where the clip is repeated."""

    name = "padding"
    needs = frozenset({"logits"})

    def explain(self, waveform, detector, *, references=None, generator=None):
        level = magnitude(waveform, GRID)
        return torch.where(valid_cells(T // 2, T, GRID) | (detector.slope == 40.0), level, 1000 * level).detach()


class HalfTask(ToyTask):
    """Its clips end half way; the rest is the first half again."""

    name = "half"

    def load(self, pair):
        clip = super().load(pair)
        return replace(clip, **{side: getattr(clip, side)[: T // 2].repeat(2) for side in ("bonafide", "spoof")}, valid_samples=T // 2)


@dataclass(frozen=True)
class Slow(Explainer):
    """Takes its time once the detector is another."""

    name = "slow"
    needs = frozenset({"logits"})
    asked: list[float] = field(default_factory=list, metadata={"config": False})

    def explain(self, waveform, detector, *, references=None, generator=None):
        if float(detector.slope) != 40.0:
            self.asked.append(float(detector.slope))
            time.sleep(0.4)
        return magnitude(waveform, GRID)


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("sanity") / "run", Toy(), Reader(), Fickle(), Decider(), task=TASK, suite=EXAMINING)


def means(results, metric):
    frame = results.frame[results.frame.metric == metric]
    return frame.groupby("explainer").value.mean()


def test_a_map_of_the_clip_does_not_change_with_the_detector_and_one_of_the_detector_does(examined):
    similarity = means(examined, "sanity_randomized_similarity")
    assert similarity["energy"] == pytest.approx(1)
    assert similarity["oracle_mask"] == pytest.approx(1)
    assert similarity["reader"] == pytest.approx(1)  # its sign turned, and it paints the clip all the same
    assert means(examined, "sanity_entropy_rise")["energy"] == pytest.approx(0)


def test_seeds_matter_to_what_draws_and_to_nothing_else(examined):
    repeated = means(examined, "sanity_repeatability")
    assert repeated["energy"] == repeated["reader"] == 1
    assert abs(repeated["random"]) < 0.1
    assert 0 < repeated["toy_explainer"] < 0.99


def test_inaudible_noise_moves_energy_by_about_its_level(examined):
    moved = means(examined, "sanity_maximum_sensitivity")
    assert 1e-4 < moved["energy"] < 1e-2
    assert moved["constant"] == 0


def test_three_clips_are_examined_and_what_fails_under_a_change_says_so(examined):
    frame = examined.frame[(examined.frame.occluder == "sanity") & (examined.frame.explainer == "fickle")]
    assert frame.pair.nunique() == 3
    lost = frame[frame.metric == "sanity_randomized_similarity"]
    assert lost.value.isna().all()
    assert set(lost.why) == {"RuntimeError: this is another detector"}
    assert frame[frame.metric == "sanity_repeatability"].value.tolist() == [1, 1, 1]


def test_a_threshold_of_its_own_is_scored_beside_equal_area_and_on_the_real_twin(examined):
    frame = examined.frame[(examined.frame.explainer == "decider") & (examined.frame.polarity == "declared")]
    clips = {pair.id: TASK.load(pair) for pair in TASK.pairs("test")}
    for name, of in (("generalized_dice_at_threshold", generalized_dice), ("dice_at_threshold", dice)):
        rows = frame[frame.metric == name]
        assert len(rows) == len(clips)
        for row in rows.itertuples():
            found = truth(clips[row.pair], row.recipe, GRID)
            chosen = magnitude(clips[row.pair].spoof[None], GRID) > 1
            assert row.value == pytest.approx(float(of(chosen, found.mask[None], found.valid[None])[0]))
    falsely = frame[frame.metric == "false_alarm_area"]
    assert falsely.pair.nunique() == 3
    for row in falsely.itertuples():
        assert row.occluder == "sanity"
        assert row.value == pytest.approx(float((magnitude(clips[row.pair].bonafide[None], GRID) > 1).double().mean()))
    others = examined.frame[examined.frame.explainer != "decider"]
    assert not set(others.metric) & {"false_alarm_area", "area_at_threshold", "generalized_dice_at_threshold"}
    means = {row.metric: row for row in examined.summary.rows if row.explainer == "decider" and row.slice == "all"}
    assert {"false_alarm_area", "area_at_threshold", "generalized_dice_at_threshold"} <= set(means)
    assert means["generalized_dice_at_threshold"].tier is None  # a diagnostic: rows without a threshold do not lose to it


def test_similarity_between_vocoders_is_that_of_the_stored_maps(examined):
    from xaibench.benchmark.metrics.sanity import cross_vocoder_similarity

    frame = examined.frame
    mine = frame[(frame.explainer == "energy") & (frame.metric == "sanity_cross_vocoder_similarity")]
    first = mine.iloc[0]
    maps = {
        row.pair: examined.heatmap(row.heatmap_sha256)
        for row in frame[(frame.explainer == "energy") & (frame.utterance == first.utterance)].itertuples()
    }
    others = [m for pair, m in maps.items() if pair != first.pair]
    assert len(others) == 2
    slow = sum(cross_vocoder_similarity(torch.stack([maps[first.pair], other])) for other in others) / 2
    assert first.value == pytest.approx(slow)


def test_cells_beyond_the_clip_are_not_examined(tmp_path):
    results = toy_run(tmp_path / "run", Padding(), task=HalfTask(utterances=2), suite=EXAMINING, faithfulness=False)
    rise = results.frame[(results.frame.metric == "sanity_entropy_rise") & (results.frame.explainer == "padding")]
    assert rise.value.tolist() == [0, 0, 0]


def test_an_examination_that_ran_out_of_time_is_tried_again_in_more_time_and_in_no_other_case(tmp_path):
    slow, out = Slow(), tmp_path / "run"

    def similarity(**options):
        slow.asked.clear()
        frame = toy_run(out, slow, task=TASK, suite=EXAMINING, faithfulness=False, **options).frame
        return frame[(frame.metric == "sanity_randomized_similarity") & (frame.explainer == "slow")].value.dropna().tolist()

    assert similarity(timeout_s=0.1) == []
    assert len(slow.asked) == 3
    assert similarity(timeout_s=0.1) == []
    rescore(out, EXAMINING, tasks=[TASK], detector=ToyDetector(), jobs=1, retry_errors=True)  # without explainers, so the record stays
    assert slow.asked == []
    assert similarity(timeout_s=60) == pytest.approx([1, 1, 1])
    assert len(slow.asked) == 3
    similarity()
    assert slow.asked == []


def test_scoring_again_keeps_what_was_examined_without_asking_an_explainer(examined, tmp_path):
    import shutil

    shutil.copytree(examined.path, tmp_path / "run")
    before = examined.frame[examined.frame.occluder == "sanity"].reset_index(drop=True)
    again = rescore(tmp_path / "run", EXAMINING, tasks=[TASK], detector=ToyDetector(), jobs=1)
    assert again.frame[again.frame.occluder == "sanity"].reset_index(drop=True).equals(before)
