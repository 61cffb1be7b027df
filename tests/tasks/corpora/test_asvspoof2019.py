import json
import shutil

import pytest
import torch

from xaibench.benchmark.run import run
from xaibench.benchmark.suite import QUICK, Suite
from xaibench.cli.compare import compare
from xaibench.cli.run import show
from xaibench.errors import DataError, PairError
from xaibench.leaderboard.site import build
from xaibench.tasks.corpora.asvspoof2019 import ASVspoof2019
from xaibench.tasks.masks import truth
from xaibench.types import CLIP_SAMPLES

LISTS = {"train": "train.trn", "dev": "dev.trl", "eval": "eval.trl"}


@pytest.fixture
def tree(tmp_path, published, lay):
    for part, name in LISTS.items():
        lines = published["asvspoof2019"][part]
        protocol = tmp_path / f"LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{name}.txt"
        protocol.parent.mkdir(parents=True, exist_ok=True)
        protocol.write_text("\n".join(lines) + "\n")
        for line in lines:
            lay(tmp_path / f"LA/ASVspoof2019_LA_{part}/flac/{line.split()[1]}.flac")
    return tmp_path


def read(tree):
    return ASVspoof2019(data=str(tree), partial=True)


def test_spoofs_of_the_protocols_are_listed_by_attack(tree):
    task = read(tree)
    assert {p.id: p.vocoder for p in task.pairs("test")} == {
        "LA_E_2834763": "A11",
        "LA_E_8877452": "A14",
        "LA_E_6828287": "A16",
        "LA_E_6977360": "A09",
        "LA_E_5932896": "A13",
    }
    assert {p.vocoder: p.family for p in task.pairs("train")} == {"A01": "synthesis", "A05": "conversion"}
    assert [p.vocoder for p in task.pairs("test") if p.seen_vocoder] == ["A16"]
    assert {r.utterance for r in task.recordings()} == {"LA_T_1138215", "LA_T_1271820", "LA_T_9497115"}


def test_a_clip_has_no_twin_and_no_mask(tree):
    task = read(tree)
    pair = task.complete(task.pairs("test")[0])
    clip = task.load(pair)
    assert (clip.has_twin, clip.spoof.shape, clip.valid_samples) == (False, (CLIP_SAMPLES,), 9600)
    assert torch.equal(clip.spoof[:9600], clip.spoof[9600:19200])
    with pytest.raises(PairError, match=r"clip must have a twin for recipe sym-floor60-v1, got LA_E"):
        truth(clip)
    assert task.references(pair).shape == (20, CLIP_SAMPLES)


@pytest.mark.filterwarnings("ignore:.*are in no protocol")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda t: (t / "ASVspoof2019_LA_eval/flac/LA_E_2834763.flac").unlink(),
            r"trials of ASVspoof2019.LA.cm.eval .* 1 of 6 missing: LA_E_2834763",
        ),
        (lambda t: (t / "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt").unlink(), r"dev.trl.txt must be a list"),
        (
            lambda t: shutil.rmtree(t / "ASVspoof2019_LA_cm_protocols"),
            r"must name the folder that holds ASVspoof2019_LA_cm_protocols.*ds/2555",
        ),
        (
            lambda t: (t / "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt").write_text("LA_0069 LA_D_1008730 A05 spoof\n"),
            r"dev.trl.txt line 1 must be `speaker trial - attack bonafide\|spoof`, got 'LA_0069",
        ),
        (
            lambda t: (t / "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt").write_text("LA_0069 LA_D_1008730 - A20 spoof\n"),
            r"attack of LA_D_1008730 must be A01 to A19, got 'A20'",
        ),
    ],
)
def test_what_is_missing_or_strange_is_said(tree, spoil, said):
    spoil(tree / "LA")
    with pytest.raises(DataError, match=said):
        read(tree).listed()


def test_a_run_without_twins_measures_the_detector_alone_and_says_so(tree, tmp_path, capsys):
    budget = {"quick": QUICK, "full": QUICK}
    suite = Suite("small", controls=("random", "oracle_mask", "frequency_prior"), n_draws=100, gap_gate=-1e9, budgets=budget)
    task = read(tree)
    results = run(["saliency"], [task], limit=2, out=tmp_path / "run", jobs=1, suite=suite)
    rows = results.summary.rows
    measured = {r.metric for r in rows if r.explainer == "saliency" and r.n}
    assert {"deletion", "insertion", "forwards"} <= measured
    assert not {r.recipe for r in rows} - {"", "sym-floor60-v1"}
    assert not {m for m in measured if "dice" in m or m.startswith("time_")}
    assert {r.occluder for r in rows} == {"", "floor"}
    assert all(r.note.startswith("no twins: detector-dependent scores only") for r in rows)
    oracle = results.frame[results.frame.explainer == "oracle_mask"]
    assert set(oracle.status) == {"not_applicable"}
    detector = results.summary.detectors[0]
    assert (detector.pair_accuracy, detector.auc, detector.n_clips) == (None, None, 2)
    assert detector.median_gap is not None
    show(results.path)
    assert "truth none" in (printed := capsys.readouterr().out)
    assert " SRG " in printed
    assert set(results.table().metric) == {"srg"}
    compare(results.path, results.path, metric=None, explainer="*", against="", polarity="declared", worst=0, as_json=True)
    assert {row["metric"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"srg"}
    page = build(results.path, tasks={"asvspoof2019": task}).read_text()
    best = max((r for r in rows if r.metric == "srg" and r.slice == "all" and not r.control), key=lambda r: r.mean)
    assert f'Best explainer, SRG</dt><dd class="big">{best.mean:.2f}'.replace(">-", ">−") in page
    assert {r.slice for r in rows if r.metric == "srg"} == {"all", *(f"vocoder:{c}" for c in set(results.frame.vocoder))}
