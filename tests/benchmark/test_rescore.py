"""Stored heatmaps are scored again without their explainers, under another suite, and back."""

from dataclasses import replace

import pytest
from toys import SUITE, Toy, ToyDetector, ToyTask, toy_run

from xaibench.benchmark.rescore import rescore
from xaibench.benchmark.suite import Budget, Curves
from xaibench.errors import DataMismatchError, RunError

BYTES = ("units.parquet", "curves.parquet", "summary.json")
TASK = ToyTask(utterances=2)
SHORTER = Curves(clips=2, steps=3, occluders=("zero",))
NEWER = replace(SUITE, name="toy-v2", gap_gate=1.0, budgets={"quick": Budget(clips=12, curves=SHORTER, slow_curves=SHORTER)})


def contents(path):
    return {name: (path / name).read_bytes() for name in BYTES}


def again(path, suite=SUITE, **options):
    return rescore(path, suite, **{"tasks": [TASK], "detector": ToyDetector(), "jobs": 1, **options})


@pytest.fixture(autouse=True)
def _nothing_is_explained_twice(monkeypatch):
    calls = set()
    explain = Toy.explain

    def once(self, waveform, detector, **options):
        name = (self.fault, float(waveform.sum()))
        assert name not in calls, "a stored heatmap was explained again"
        calls.add(name)
        return explain(self, waveform, detector, **options)

    monkeypatch.setattr(Toy, "explain", once)


def test_another_suite_gives_what_a_run_under_it_gives_and_the_way_back_is_free(tmp_path, monkeypatch):
    first = contents(toy_run(tmp_path / "run", Toy(), Toy(fault="raises"), task=TASK).path)
    newer = again(tmp_path / "run", NEWER)
    assert newer.summary.suite == "toy-v2"
    assert set(newer.frame.occluder) == {"", "zero"}
    assert contents(newer.path) != first
    second = contents(newer.path)
    scored = []
    from xaibench.benchmark.score import ClipScorer

    measure = ClipScorer.score
    monkeypatch.setattr(ClipScorer, "score", lambda self, item: (scored.append(item), measure(self, item))[1])
    assert contents(again(tmp_path / "run").path) == first
    assert scored == []  # the journal still held the scores of the first suite
    monkeypatch.setattr(Toy, "explain", lambda *_, **__: pytest.fail("explained"))
    assert contents(again(tmp_path / "run", NEWER).path) == second


def test_a_rescored_run_is_the_run_of_that_suite(tmp_path, monkeypatch):
    toy_run(tmp_path / "old", Toy(), task=TASK)
    monkeypatch.undo()
    direct = toy_run(tmp_path / "new", Toy(), task=TASK, suite=NEWER)
    assert contents(again(tmp_path / "old", NEWER).path) == contents(direct.path)


def test_changed_metrics_are_measured_again(tmp_path, monkeypatch):
    from xaibench.benchmark import score
    from xaibench.benchmark.metrics.target import Target

    toy_run(tmp_path / "run", Toy(), task=TASK)
    monkeypatch.setattr(Target, "score", lambda self, heatmap: {"generalized_dice": 0.25})
    assert not (again(tmp_path / "run").frame.value == 0.25).any()  # equal code, equal keys: nothing is measured
    monkeypatch.setattr(score, "_code", lambda stage: f"changed {stage}")
    frame = again(tmp_path / "run").frame
    assert (frame[frame.metric == "generalized_dice"].value == 0.25).all()


def test_extra_recipes_and_no_curves_on_request(tmp_path):
    toy_run(tmp_path / "run", Toy(), task=TASK)
    found = again(tmp_path / "run", recipes=["grinberg-rel-linear-v1"], faithfulness=False)
    toys = found.frame[found.frame.explainer == "toy_explainer"]
    assert set(toys.recipe) == {"", "sym-floor60-v1", "grinberg-rel-linear-v1"}
    assert set(found.frame.occluder) == {""}


def test_what_was_not_explained_is_not_scored(tmp_path):
    with pytest.raises(RunError, match=r"run must have been finished once, got .*nowhere without units\.parquet"):
        again(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    toy_run(tmp_path / "run", Toy(), task=TASK, faithfulness=False)
    with pytest.raises(DataMismatchError, match="detector 'toy_detector' must be the one that was explained") as caught:
        again(tmp_path / "run", detector=ToyDetector(slope=41.0))
    assert caught.value.exit_code == 8
    with pytest.raises(DataMismatchError, match="task 'toy:utterances=2' must be the one"):
        again(tmp_path / "run", tasks=[Other(utterances=2)])
    more = replace(SUITE, name="toy-v3", controls=(*SUITE.controls, "edge"))
    with pytest.raises(RunError, match="run must hold every control of suite toy-v3, got none of edge"):
        again(tmp_path / "run", more)
    assert (tmp_path / "run" / "DONE").exists()


class Other(ToyTask):
    def fingerprint(self):
        return "other clips under the same label"
