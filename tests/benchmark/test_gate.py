"""The gate tells worse, not measured and not comparable apart, and tolerates what its rules tolerate and nothing else."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from toys import SUITE, Toy, toy_run
from typer.testing import CliRunner

from xaibench.benchmark import gate_output
from xaibench.benchmark.gate import Verdict, gate
from xaibench.benchmark.measured import Series, freeze, read_measured
from xaibench.benchmark.rules import DEFAULT, Rule, Rules, read_rules
from xaibench.cli import app
from xaibench.errors import NotComparableError, NothingMeasuredError, RegressionError, RunError


class Worse(Toy):
    """A regression: the heatmap upside down, and one more forward pass."""

    name = "toy_explainer"

    def explain(self, waveform, detector, *, references=None, generator=None):
        detector.spoof_logit(waveform)
        return -super().explain(waveform, detector, generator=generator)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("before") / "run", Toy(), Toy(fault="raises"))


@pytest.fixture(scope="module")
def baseline(before, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "golden.json"
    freeze(read_measured(before.path), path)
    return read_measured(path)


def changed(measured, where, edit):
    """Return a run whose series at some places are edited; ``None`` removes them."""
    series = {}
    for place, found in measured.series.items():
        kept = edit(found) if where(place) else found
        if kept is not None:
            series[place] = kept
    return replace(measured, series=series)


def shifted(by):
    return lambda found: replace(found, values={pair: value + by for pair, value in found.defined.items()})


def toy(place):
    return place.explainer == "toy_explainer" and place.metric == "generalized_dice" and place.polarity == "declared"


def answers(found):
    return {verdict.answer for verdict in found.verdicts if verdict.failed}


def invoke(before, run, *options):
    """Give the command and return its exception, or ``None``."""
    return CliRunner().invoke(app, ["gate", str(run), "--baseline", str(before), *options]).exception


def test_a_planted_regression_a_vanished_explainer_and_another_protocol_have_codes_of_their_own(before, tmp_path):
    assert invoke(before.path, before.path) is None
    worse = toy_run(tmp_path / "worse", Worse(), Toy(fault="raises"))
    error = invoke(before.path, worse.path)
    assert isinstance(error, RegressionError)
    assert error.exit_code == 4
    gone = toy_run(tmp_path / "gone", Toy())
    error = invoke(before.path, gone.path)
    assert isinstance(error, NothingMeasuredError)
    assert error.exit_code == 5
    assert invoke(before.path, gone.path, "--allow-missing") is None
    other = toy_run(tmp_path / "other", Toy(), suite=replace(SUITE, n_draws=300))
    error = invoke(before.path, other.path)
    assert isinstance(error, NotComparableError)
    assert error.exit_code == 9
    assert invoke(gone.path, before.path) is None  # one that is new has no baseline and fails nothing


def test_cost_is_gated_by_counts(before, tmp_path):
    rules = Rules(rule=(Rule(metric="forwards"),))
    run = changed(read_measured(before.path), lambda p: p.metric == "forwards" and p.explainer == "toy_explainer", shifted(1))
    (worse,) = (v for v in gate(read_measured(before.path), run, rules).verdicts if v.failed)
    assert (worse.answer, worse.before, worse.after) == ("worse", 1.0, 2.0)
    cheaper = gate(run, read_measured(before.path), rules)
    assert {v.answer for v in cheaper.verdicts} == {"held", "better"}
    assert cheaper.exit_code == 0


@pytest.mark.parametrize(
    ("rule", "shift", "answer"),
    [
        ({"abs": 0.01}, -0.009, "held"),
        ({"abs": 0.01}, -0.011, "worse"),
        ({"abs": 0.01}, 0.011, "better"),
        ({"rel": 0.5}, -0.1, "held"),
        ({"rel": 0.01}, -0.1, "worse"),
        ({"direction": "either", "abs": 0.01}, 0.011, "worse"),
        ({"direction": "either", "abs": 0.01, "by": "clip"}, 0.009, "held"),
        ({"direction": "lower"}, 0.001, "worse"),
        ({"min_n": 13}, 0.0, "few"),
    ],
)
def test_rules_tolerate_what_they_say(baseline, rule, shift, answer):
    found = gate(
        baseline, changed(baseline, toy, shifted(shift)), Rules(rule=(Rule(metric="generalized_dice", explainer="toy_explainer", **rule),))
    )
    assert {v.answer for v in found.verdicts} == {answer}


def test_chance_is_no_regression_and_a_steady_loss_is_one(baseline):
    rules = Rules(rule=(Rule(metric="generalized_dice", explainer="toy_explainer", alpha=0.05, abs=0.001),))
    utterance = {"u00": 0.1, "u01": -0.12, "u02": 0.04, "u03": -0.06}
    noisy = changed(baseline, toy, lambda f: replace(f, values={p: v + utterance[p[:3]] for p, v in f.defined.items()}))
    assert not answers(gate(baseline, noisy, rules))
    assert answers(gate(baseline, changed(baseline, toy, shifted(-0.01)), rules)) == {"worse"}


def test_every_clip_counts_where_the_rule_says_so(baseline):
    one = changed(baseline, toy, lambda f: replace(f, values={**f.values, "u02-beta": f.values["u02-beta"] + 0.05}))
    by = {
        name: gate(baseline, one, Rules(rule=(Rule(metric="generalized_dice", direction="either", abs=0.01, by=name),)))
        for name in ("mean", "clip")
    }
    assert not answers(by["mean"])
    (verdict,) = (v for v in by["clip"].verdicts if v.failed)
    assert "1 of 12 clips, most u02-beta" in verdict.text
    tolerant = changed(baseline, toy, lambda f: replace(f, tolerance=0.06))
    assert not answers(gate(tolerant, one, Rules(rule=(Rule(metric="generalized_dice", direction="either", by="clip"),))))


def test_vanished_clips_and_new_failures_are_told(baseline):
    rules = Rules(rule=(Rule(metric="generalized_dice"),))
    fewer = changed(baseline, toy, lambda f: replace(f, values={p: v for p, v in f.values.items() if p[:3] != "u01"}))
    (verdict,) = (v for v in gate(baseline, fewer, rules).verdicts if v.failed)
    assert (verdict.answer, verdict.text) == ("missing", "3 of 12 clips are not in the run, such as u01-alpha")
    undefined = changed(baseline, toy, lambda f: replace(f, values={**f.values, "u01-beta": None}))
    few = gate(baseline, fewer, Rules(missing="allow", rule=(Rule(metric="generalized_dice", min_n=10),)))
    assert answers(few) == {"unmeasured"}
    assert few.exit_code == 5
    assert any("without a value in the run" in v.text for v in gate(baseline, undefined, rules).verdicts)
    failing = changed(baseline, toy, lambda f: Series({p: 0.0 for p in f.values}, frozenset(f.values)))
    (verdict,) = (v for v in gate(baseline, failing, rules).verdicts if v.failed)
    assert "12 explanations failed (before: 0) and take the lowest control" in verdict.text


def test_nothing_compared_is_no_success(baseline):
    empty = gate(baseline, baseline, Rules(rule=(Rule(metric="no_such_metric"),)))
    assert (empty.exit_code, gate_output.headline(empty)) == (5, "failed: nothing was compared")
    worse_and_gone = changed(changed(baseline, toy, shifted(-0.5)), lambda p: p.explainer.endswith("raises"), lambda _: None)
    assert gate(baseline, worse_and_gone, DEFAULT).exit_code == 4


def test_wall_time_only_advises_and_only_on_the_same_machine(before):
    measured = read_measured(before.path)
    slow = replace(measured, seconds={place: 3 * value for place, value in measured.seconds.items()})
    found = gate(measured, slow, DEFAULT)
    assert found.exit_code == 0
    assert any(text.startswith("toy_explainer on toy took") and "3.0 times as long" in text for text in found.advice)
    elsewhere = replace(slow, hardware={**slow.hardware, "processors": 999})
    assert gate(measured, elsewhere, DEFAULT).advice == ()


def test_outputs_can_be_read_by_machines(baseline, tmp_path, monkeypatch):
    nasty = "x|<b>%0A::error::y]]>`\n**"
    run = changed(baseline, toy, shifted(-0.5))
    run = replace(run, series={**run.series, next(filter(toy, run.series))._replace(explainer=nasty): Series({"u00-alpha": 1.0})})
    found = gate(baseline, run, DEFAULT)
    root = ElementTree.fromstring(gate_output.junit(found))
    cases = root.findall(".//testcase")
    assert (int(root.get("tests")), int(root.get("failures"))) == (len(cases), len(root.findall(".//failure"))) == (len(found.verdicts), 1)
    assert len(root.findall(".//skipped")) == found.count("few") + found.count("new") > 1
    bad = replace(found, verdicts=tuple(Verdict(v.place._replace(explainer=nasty), "worse", nasty) for v in found.verdicts))
    lines = list(gate_output.annotations(bad))
    assert len(lines) == gate_output.ANNOTATIONS
    assert all(line.count("\n") == 0 and line.startswith("::error title=xaibench") and "%0A" not in line for line in lines)
    text = gate_output.markdown(bad)
    assert all(len(line.replace("\\|", "").split("|")) == 7 for line in text.splitlines() if line.startswith("| ❌"))
    huge = replace(found, verdicts=tuple(Verdict(v.place, "worse", "long " * 60) for v in found.verdicts * 40))
    assert len(gate_output.markdown(huge).encode()) < 65_000
    assert "more rows do not fit" in gate_output.markdown(huge)


def test_the_command_writes_every_output(before, baseline, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    freeze(changed(baseline, toy, shifted(0.5)), tmp_path / "better.json")
    options = ["--junit", str(tmp_path / "j.xml"), "--markdown", str(tmp_path / "m.md"), "--github"]
    ended = CliRunner().invoke(app, ["gate", str(before.path), "--baseline", str(tmp_path / "better.json"), *options])
    assert isinstance(ended.exception, RegressionError)
    assert "::error title=xaibench%3A worse::toy_explainer generalized_dice" in ended.output
    assert (tmp_path / "summary.md").read_text() == (tmp_path / "m.md").read_text().rstrip() + "\n"
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == "1"
    assert isinstance(CliRunner().invoke(app, ["gate", str(before.path)]).exception, RunError)
    frozen = CliRunner().invoke(app, ["gate", str(before.path), "--freeze", str(tmp_path / "new.json")])
    assert frozen.exit_code == 0
    assert invoke(tmp_path / "new.json", before.path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule = 3", "rule"),
        ("[[rule]]\nabs = 1", r"rule\.0\.metric: Field required"),
        ('[[rule]]\nmetric = "x"\nabs = -1', r"rule\.0\.abs"),
        ('[[rule]]\nmetric = "x"\ntolerance = 1', r"rule\.0\.tolerance: Extra inputs"),
        ("[[rule", "rules must be a TOML file"),
    ],
)
def test_faulty_rules_are_named(tmp_path, text, message):
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(RunError, match=message):
        read_rules(tmp_path / "gate.toml")


def test_the_first_rule_that_fits_decides(baseline, tmp_path):
    (tmp_path / "gate.toml").write_text(
        '[[rule]]\nmetric = "*dice"\nexplainer = "toy*"\npolarity = "*"\nignore = true\n'
        '[[rule]]\nmetric = "generalized_dice"\npolarity = "*"\n'
    )
    rules = read_rules(tmp_path / "gate.toml")
    assert {v.place.explainer for v in gate(baseline, baseline, rules).verdicts} == set(SUITE.controls)
