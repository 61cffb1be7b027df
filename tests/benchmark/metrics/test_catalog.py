"""The registered metrics: each has a record that agrees with its name, its range and its pure function."""

import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import xaibench
from xaibench.benchmark.metrics.info import info
from xaibench.errors import UnknownNameError
from xaibench.registry import METRICS


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_has_a_record(name):
    metric = xaibench.load("metric", name)
    record = metric.info
    assert record.name == metric.name == name
    assert metric.title == record.title
    assert metric.reference == record.reference
    assert record.low < record.high
    assert len(type(metric).__doc__) > 20


@pytest.mark.parametrize("name", [n for n in METRICS.names() if METRICS.get(n).info.family == "localization"])
def test_localisation_records_score_an_oracle_at_the_top(name):
    mask = np.zeros((1, 32, 30), bool)
    mask[:, 4:8, 5:9] = True  # a box: its margins alone are not perfect
    metric = xaibench.load("metric", name)
    arguments = (mask * 1.0, mask * 1.0) if name == "spearman" else (mask * 1.0, mask)
    if name == "stratified_auc":
        arguments = (*arguments, np.ones(mask.shape))
    score, worst = metric(*arguments)[0], metric(-arguments[0], *arguments[1:])[0]
    assert score > worst if metric.info.higher_is_better else score < worst
    if not name.startswith(("time", "frequency")):
        assert score == pytest.approx(metric.info.high)


def test_variants_of_a_column_share_its_record_and_unknown_ones_get_a_suggestion():
    assert info("average_drop_random").title == "Average drop of a random order"
    assert info("average_drop_random").family == "diagnostic"
    assert not info("average_drop_soft").higher_is_better
    with pytest.raises(UnknownNameError, match="did you mean dice"):
        info("dise_random")


def test_the_table_of_formulas_names_functions_and_tests_that_exist():
    root = Path(__file__).parents[3]
    table = (root / "docs" / "metrics.md").read_text(encoding="utf-8").split("## Where each formula is", 1)[1]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 15
    for formula, functions, tests in rows:
        module = ""
        for name in re.findall(r"`([\w.]+)`", functions):
            places = [f"xaibench.{inside}{name}" for inside in ("benchmark.metrics.", f"benchmark.metrics.{module}.", "benchmark.", "")]
            assert any(resolves(place) for place in places), f"{formula.strip()}: {name}"
            module = name.split(".")[0] if "." in name else module
        for name in re.findall(r"`([\w/]+?)(?:\.py)?`", tests):
            assert list(root.glob(f"tests/**/{name.rsplit('/', 1)[-1]}.py")), name


def resolves(place):
    try:
        return pkgutil.resolve_name(place) is not None
    except (ImportError, AttributeError, ValueError):
        return False
