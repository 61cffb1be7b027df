"""Two runs side by side: equal to a re-derivation by hand, and refused where they answer different questions."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from toys import SUITE, Toy, ToyDetector, ToyTask, toy_run
from typer.testing import CliRunner

from xaibench.benchmark.compare import compare
from xaibench.benchmark.measured import freeze, read_measured, with_tolerances
from xaibench.cli import app
from xaibench.errors import NotComparableError, NothingMeasuredError, RunError


class Blurred(Toy):
    """The toy explainer, made worse under the same name."""

    name = "toy_explainer"

    def misbehave(self, heatmap, detector):
        return heatmap.roll(7, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    before = toy_run(folder / "a", Toy(), Toy(fault="raises"))
    after = toy_run(folder / "b", Blurred(), Toy(fault="raises"))
    return before, after


def dice(place):
    return (place.metric, place.polarity) == ("generalized_dice", "declared")


def test_differences_are_those_of_a_t_test_over_utterances(runs):
    found = compare(*(read_measured(run.path) for run in runs), dice)
    row = next(row for row in found.rows if row.place.explainer == "toy_explainer")
    a, b = (
        run.frame[(run.frame.explainer == "toy_explainer") & (run.frame.metric == "generalized_dice") & (run.frame.polarity == "declared")]
        .set_index("pair")
        .value
        for run in runs
    )
    change = b - a
    by_utterance = change.groupby(change.index.str[:3]).mean()
    assert row.interval.mean == pytest.approx(by_utterance.mean(), abs=1e-9)
    assert row.interval.p == pytest.approx(ttest_1samp(by_utterance, 0).pvalue, rel=1e-6)
    assert (row.wins, row.losses, row.ties) == ((change > 0).sum(), (change < 0).sum(), (change == 0).sum())
    assert row.losses > 0
    assert row.mean_a == pytest.approx(a.mean())
    assert [c.clip.pair for c in found.worst] == list(change[change < 0].sort_values(kind="stable").index)
    vocoders = found.vocoders[row.place]
    assert set(vocoders) == {"alpha", "beta", "gamma"}
    weighted = np.mean([interval.mean for interval in vocoders.values()])
    assert weighted == pytest.approx(row.interval.mean, abs=1e-9)  # as many clips of each
    controls = [row for row in found.rows if row.place.explainer in SUITE.controls]
    assert {(r.interval.mean, r.wins, r.losses, r.ties) for r in controls} == {(0.0, 0, 0, 12)}


def test_failures_take_the_lowest_control_in_a_comparison_too(runs):
    measured = read_measured(runs[0].path)
    place = next(p for p in measured.series if dice(p) and p.explainer == "toy_explainer:fault=raises")
    series = measured.series[place]
    controls = [measured.series[place._replace(explainer=name)].values for name in ("random", "constant", "energy")]
    assert series.failed
    for pair in series.failed:
        assert series.values[pair] == min(control[pair] for control in controls)


def test_two_explainers_of_one_run(runs):
    measured = read_measured(runs[0].path)
    found = compare(measured, measured, dice, rename=("energy", "toy_explainer"))
    (row,) = found.rows
    energy, toy = (next(p for p in measured.series if dice(p) and p.explainer == name) for name in ("energy", "toy_explainer"))
    assert row.mean_a == pytest.approx(np.mean(list(measured.series[energy].defined.values())))
    assert row.mean_b == pytest.approx(np.mean(list(measured.series[toy].defined.values())))


def test_other_questions_are_not_compared(runs, tmp_path):
    measured = read_measured(runs[0].path)
    for options, word in (
        ({"suite": replace(SUITE, n_draws=300)}, "another protocol under the name toy"),
        ({"suite": replace(SUITE, name="toy-2")}, r"another suite \(toy and toy-2\)"),
        ({"task": ToyTask(utterances=3)}, r"another set of tasks \(toy and toy:utterances=3\)"),
        ({"faithfulness": False}, "another budget of curves for toy"),
    ):
        other = toy_run(tmp_path / str(len(word)), **{"task": ToyTask(), **options})
        with pytest.raises(NotComparableError, match=word) as caught:
            compare(measured, read_measured(other.path))
        assert caught.value.exit_code == 9
    other = replace(measured, protocol={**measured.protocol, "detectors": {"toy / toy_detector": "weights of somebody else"}})
    with pytest.raises(NotComparableError, match="another detector for toy / toy_detector"):
        compare(measured, other)
    with pytest.raises(NothingMeasuredError, match="runs must share a clip with values"):
        compare(measured, measured, lambda place: place.metric == "nonsense")


def test_a_frozen_baseline_holds_what_the_run_held(runs, tmp_path):
    measured = read_measured(runs[0].path)
    freeze(measured, tmp_path / "golden.json")
    frozen = read_measured(tmp_path / "golden.json")
    assert dict(frozen.series) == {place: replace(series, values=dict(series.values)) for place, series in measured.series.items()}
    assert (dict(frozen.clips), frozen.protocol, frozen.controls) == (dict(measured.clips), measured.protocol, measured.controls)
    text = (tmp_path / "golden.json").read_text()
    assert len(text.splitlines()) == len(measured.series) + 2  # a line per place
    freeze(frozen, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == text
    assert compare(frozen, measured).worst == ()
    for damage in (
        "{",
        text.replace('"schema_version":1', '"schema_version":9'),
        re.sub(r'"clips":\[\d+', '"clips":[99', text, count=1),  # of a curve, which only some clips have
        text.replace('"values":[', '"values":[0,', 1),
        re.sub(r'"values":\[[^,\]]+', '"values":[NaN', text, count=1),
        "[]",
    ):
        assert damage != text
        (tmp_path / "bad.json").write_text(damage)
        with pytest.raises(RunError, match="baseline must be a run folder or a frozen baseline"):
            read_measured(tmp_path / "bad.json")


def test_tolerances_are_what_other_machines_showed(runs, tmp_path):
    measured = read_measured(runs[0].path)
    place = next(p for p in measured.series if dice(p) and p.explainer == "toy_explainer")
    values = dict(measured.series[place].values)
    values["u00-alpha"] += 0.003
    other = replace(measured, series={**measured.series, place: replace(measured.series[place], values=values)})
    found = with_tolerances(measured, [other], factor=4, least=1e-6)
    assert found[place] == pytest.approx(0.012)
    assert found[place._replace(explainer="energy")] == 1e-6
    freeze(measured, tmp_path / "golden.json", found)
    assert read_measured(tmp_path / "golden.json").series[place].tolerance == pytest.approx(0.012)


def test_the_command_prints_tables_or_json(runs):
    a, b = (str(run.path) for run in runs)
    plain = CliRunner().invoke(app, ["compare", a, b])
    assert plain.exit_code == 0, plain.output
    assert all(word in plain.output for word in ("toy_explainer", "losses", "worst", "vocoder", "gamma"))
    found = json.loads(CliRunner().invoke(app, ["compare", a, b, "--json", "-m", "*", "-e", "toy_explainer"]).output)
    assert {row["explainer"] for row in found["rows"]} == {"toy_explainer"}
    assert {"generalized_dice", "srg", "forwards"} <= {row["metric"] for row in found["rows"]}
    assert found["worst"]
    assert ToyDetector().name == found["rows"][0]["detector"]
