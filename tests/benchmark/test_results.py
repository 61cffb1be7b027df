"""The files of a run: strict, sorted, with a fixed schema, and silent about clocks and machines."""

import json
import socket

import pyarrow.parquet as pq
import pytest
from toys import SUITE, Toy, ToyTask, toy_run

from xaibench.benchmark.results import CURVE_COLUMNS, TIMING_COLUMNS, Results
from xaibench.benchmark.summary import Summary
from xaibench.benchmark.tidy import UNIT_COLUMNS, UNIT_ORDER
from xaibench.errors import RunError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("results") / "run", Toy(), Toy(fault="nan"))


def test_tables_have_the_promised_columns(results):
    found = {name: pq.read_schema(results.path / f"{name}.parquet") for name in ("units", "curves", "timings")}
    assert [tuple(schema.names) for schema in found.values()] == [UNIT_COLUMNS, CURVE_COLUMNS, TIMING_COLUMNS]
    types = {name: str(found["units"].field(name).type) for name in UNIT_COLUMNS}
    assert (types.pop("value"), types.pop("seen_vocoder"), set(types.values())) == ("double", "bool", {"string"})


def test_units_are_tidy_and_sorted(results):
    frame = results.frame
    assert frame.equals(frame.sort_values(list(UNIT_ORDER), ignore_index=True))
    named = ["task", "detector", "explainer", "recipe", "polarity", "occluder", "metric", "pair"]
    assert not frame.duplicated(named).any()
    assert (frame.why[frame.value.notna()] == "").all()
    assert (frame.why[frame.value.isna()] != "").all()
    assert (frame.heatmap_sha256[frame.status == "ok"].str.len() == 64).all()
    assert set(frame.status) == {"ok", "invalid"}


def test_failed_units_show_the_metrics_of_the_others(results):
    frame = results.frame[(results.frame.pair == results.curves.pair.iloc[0]) & ~results.frame.metric.isin(["forwards", "backwards"])]
    counts = frame.groupby("explainer").size()
    assert counts["toy_explainer:fault=nan"] == counts["toy_explainer"] == counts["random"]


def test_the_summary_is_strict_json_without_clock_or_host(results):
    text = (results.path / "summary.json").read_text()
    raw = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in strict JSON"))
    assert Summary.model_validate(raw) == results.summary
    assert len(text.splitlines()) == len(raw["rows"]) + 2
    host = socket.gethostname()  # may be two letters long: look at whole values, not at bytes
    assert json.dumps(host) not in text
    assert not results.frame.isin([host]).any(axis=None)
    assert not {"host", "started_at", "seconds"} & set(results.frame.columns)
    assert str(results.path) not in text


def test_the_manifest_says_how_to_do_it_again(results):
    manifest = json.loads((results.path / "manifest.json").read_text())
    assert manifest["run"] == results.summary.run
    assert manifest["suite_sha256"] == results.summary.suite_sha256 == SUITE.content_hash()
    assert manifest["explainers"]["oracle_mask"]["oracle"]
    assert manifest["explainers"]["toy_explainer:fault=nan"]["config"]["fault"] == "nan"
    assert manifest["tasks"]["toy"]["stft"] == {"window_samples": 256, "hop_samples": 128}
    assert manifest["environment"]["packages"]["torch"]


def test_the_table_is_sorted_by_mean(results):
    table = results.table("auroc")
    assert list(table["mean"]) == sorted(table["mean"], reverse=True)
    assert set(table.explainer) == {"random", "constant", "energy", "oracle_mask", "toy_explainer", "toy_explainer:fault=nan"}


def test_the_same_command_finds_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = ToyTask(utterances=1)
    first = toy_run(None, Toy(), task=task, faithfulness=False)
    assert first.path.parent.name == "runs"
    assert first.path.name.startswith("toy_explainer-toy-utterances-1-")
    before = first.timings
    again = toy_run(None, Toy(), task=task, faithfulness=False)
    assert again.path == first.path
    assert again.timings.equals(before)
    assert toy_run(None, Toy(), task=task, faithfulness=False, seed=1).path != first.path


def test_unfinished_and_missing_runs_are_refused(results, tmp_path):
    with pytest.raises(RunError, match="run must be finished"):
        Results.read(tmp_path)
    with pytest.raises(RunError, match="summary must be readable"):
        _ = Results.read(tmp_path, partial=True).summary
    with pytest.raises(RunError, match="heatmap must be intact"):
        results.heatmap("0" * 64)
