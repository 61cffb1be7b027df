"""A paper's table: its line-up on what is present, and its figures beside the measured ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toys import ToyTask, toy_run

from xaibench.benchmark.published import PAPERS, Cell, Figure, line_up, markdown, table
from xaibench.benchmark.results import Results
from xaibench.benchmark.suite import SUITES
from xaibench.errors import DataError
from xaibench.registry import EXPLAINERS

PAPER = PAPERS["grinberg2025"]


@pytest.fixture(name="tree")
def _tree(tmp_path: Path, published) -> Path:
    """Part of Voc.v4 under its published names."""
    names = published["vocv4"]

    def lay(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        utterance, own = path.stem[-12:], np.random.default_rng(list(path.stem.encode()))
        speech = np.random.default_rng(list(utterance.encode())).standard_normal(20_000)  # the same in a recording and its copies
        soundfile.write(path, 0.05 * speech + 0.005 * own.standard_normal(20_000), 16_000)

    voc = tmp_path / "voc.v4"
    for stem in names["vocoded"]:
        lay(voc / f"wav/{stem}.wav")
    (voc / "scp").mkdir()
    for part in ("train.lst", "dev.lst"):
        (voc / "scp" / part).write_text("\n".join(names[part]) + "\n")
    (voc / "protocol.txt").write_text("\n".join(names["protocol"]) + "\n")
    for part, stems in names["recordings"].items():
        for stem in stems:
            lay(tmp_path / f"LA/ASVspoof2019_LA_{part}/flac/{stem}.flac")
    return tmp_path


def test_what_is_present_is_used_and_what_is_not_is_said(tree):
    ask = line_up(PAPER, folders=[str(tree)])
    assert [task.name for task in ask.tasks] == ["vocv4"]
    assert ask.detector == "wav2vec2_aasist"
    assert {"deep_shap", "gradient_shap", "attn_lrp", "specsegdiff"} <= set(ask.explainers)
    assert any("LibriSeVoc" in note for note in ask.notes)


def test_without_a_corpus_one_sentence_says_where_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv("XAIBENCH_DATA", raising=False)
    with pytest.raises(DataError, match=r"vocv4 or librisevoc must be present.*zenodo.*--task public_pairs") as caught:
        line_up(PAPER, folders=[str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_stand_ins_and_options_are_taken_when_asked_for():
    ask = line_up(PAPER, ["gradient_shap:n_samples=2", "saliency"], ["minivoc"], detector="spectrogram_cnn")
    assert ask.tasks == ["minivoc"]
    assert ask.detector == "spectrogram_cnn"
    assert "gradient_shap:n_samples=2" in ask.explainers
    assert "gradient_shap" not in ask.explainers
    assert ask.explainers[-1] == "saliency"


def test_figures_stand_beside_measured_values(tmp_path):
    figure = Figure("toy", "input_x_gradient", "generalized_dice", 12.65)
    paper = replace(PAPER, recipe="sym-floor60-v1", figures=(figure,))
    suite = replace(SUITES["grinberg2025"], name="grinberg-toy", controls=("random", "energy", "oracle_mask"), n_draws=100)
    results = toy_run(tmp_path / "run", EXPLAINERS.load("input_x_gradient"), suite=suite)
    lines = {line.explainer: line for line in table(paper, results)}
    assert next(iter(lines)) == "input_x_gradient"
    dice, *masked = lines["input_x_gradient"].cells
    assert dice.reported == 12.65
    assert all(cell.reported is None and cell.mean is not None and 0 <= cell.mean <= 100 for cell in masked)
    assert lines["oracle_mask"].cells[0].mean == pytest.approx(100)
    frame = results.frame
    own = frame[(frame.explainer == "input_x_gradient") & (frame.metric == "average_drop_soft") & (frame.polarity == "magnitude")]
    assert len(own) == len(ToyTask().pairs("test"))  # every clip counts
    assert masked[1].mean == pytest.approx(own.groupby(frame.utterance).value.mean().mean())
    assert "(paper: 12.65)" in markdown(paper, results)


def test_the_suite_differs_from_the_official_one_where_it_says():
    suite, official = SUITES["grinberg2025"], SUITES["xaibench-v1"]
    assert suite.recipes[0] == PAPER.recipe
    assert suite.controls == official.controls
    assert suite.content_hash() != replace(official, name="grinberg2025").content_hash()
    hard = replace(suite, budgets={name: replace(b, curves=replace(b.curves, soft=False)) for name, b in suite.budgets.items()})
    assert hard.content_hash() != suite.content_hash()
    assert Cell(1.0, None, None, None).text() == "1.0"


@pytest.mark.slow
def test_one_command_gives_the_table(tree, monkeypatch, capsys):
    from xaibench.cli.run import run

    monkeypatch.chdir(tree)
    options = {"detector": "wav2vec2_aasist_tiny:weights=random", "explainer": ["gradient_shap:n_samples=2"], "limit": 2, "jobs": 1}
    run(suite="grinberg2025", data=[str(tree)], out=tree / "run", report=False, timeout=600.0, **options)
    printed = capsys.readouterr().out
    assert "57.46" in printed
    assert "12.65" in printed
    assert "LibriSeVoc" in printed
    assert "(paper: 57.46)" in (tree / "run/published.md").read_text()
    assert {row.explainer for row in Results.read(tree / "run").summary.rows} >= {"attn_lrp", "deep_shap", "specsegdiff", "oracle_ig"}
