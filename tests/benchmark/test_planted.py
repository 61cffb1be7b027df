"""Runs on planted truth: the region is the truth, the oracle is handed it, and nobody is told of it but the controls."""

import json

import pytest
from typer.testing import CliRunner

from xaibench.benchmark.planted import mean_dice, recovered
from xaibench.benchmark.run import run
from xaibench.benchmark.suite import Budget, Curves, Suite
from xaibench.cli import app
from xaibench.registry import EXPLAINERS, TASKS
from xaibench.tasks.causal import CausalConfig
from xaibench.tasks.spectrogram import stft
from xaibench.tasks.tiles import TileGrid
from xaibench.types import Detector


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


class Meter(Detector):
    """Log-odds of a hundredth of the energy from 125 Hz up."""

    name = "meter"

    def forward(self, waveform):
        return stft(waveform)[:, 8:].abs().square().sum((1, 2)) / 100


def test_causal_truth_of_a_meter_ranks_the_planted_tiles_first():
    task = TASKS.load("planted:kind=tones,grade=coarse")
    clips = [task.load(pair) for pair in task.pairs("test")[:1]]
    config = CausalConfig(TileGrid(8, 8), permutation_pairs=1, smallest_gap=1e-6, largest_share_outside=1.0)
    assert min(recovered(clip, Meter().eval(), config) for clip in clips) > 0.9
    with pytest.raises(ValueError, match="clip must have a planted region"):
        recovered(type(clips[0])(clips[0].pair, clips[0].bonafide, clips[0].spoof, 64_600), Meter().eval(), config)


def test_the_size_of_a_map_and_its_signs_are_scored_apart():
    task = TASKS.load("planted:kind=tones,grade=coarse")
    pairs = task.pairs("test")[:1]
    region = task.load(pairs[0]).planted

    class Against(EXPLAINERS.get("random")):
        def explain(self, waveform, detector, *, references=None, generator=None):
            return -region[None].float()

    size, signed = mean_dice(task, pairs, Against(), Meter().eval())
    assert size == 1
    assert signed < 0.1


def test_check_planted_reports_each_kind_and_fails_where_a_detector_does_not_use_it(tmp_path):
    options = ["--detector", "spectrogram_cnn:weights=minivoc", "--clips", "2", "--explained", "0", "--out", str(tmp_path / "found.json")]
    ended = CliRunner().invoke(app, ["check", "planted:kind=tones+clicks", *options])
    assert ended.exit_code != 0
    told = json.loads((tmp_path / "found.json").read_text())
    assert [kind["kind"] for kind in told] == ["clicks", "tones"]
    assert all(kind["failures"] for kind in told)
