"""Packages end to end: what is packed scores as the run did, whatever the order, and partial coverage is shown as partial."""

import random
import re
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from toys import Toy, ToyTask

from xaibench.benchmark.results import Results
from xaibench.errors import DataMismatchError, NothingMeasuredError, RunError, SubmissionError
from xaibench.leaderboard.submission.archive import INDEX
from xaibench.leaderboard.submission.card import read_card, write_card
from xaibench.leaderboard.submission.index import Entry, read_index, write_index
from xaibench.leaderboard.submission.kit import write_kit
from xaibench.leaderboard.submission.npy import dump
from xaibench.leaderboard.submission.pack import pack_run, write_package
from xaibench.leaderboard.submission.package import Package, check_coverage
from xaibench.leaderboard.submission.scoring import setting

FACTS = {"authors": ["A. Author"], "licence": "CC0-1.0"}
DOCS = Path(__file__).parents[3] / "docs" / "submitting.md"


def values(results, explainer, metric="generalized_dice", polarity="declared"):
    frame = results.frame
    rows = frame[(frame.explainer == explainer) & (frame.metric == metric) & (frame.polarity == polarity)]
    return dict(zip(rows.pair, rows.value, strict=True))


def rebuilt(packed, out, change):
    """Write the package again with another index or other maps."""
    with Package(packed) as package:
        files = {name: package.archive.read(name) for name in package.archive.members}
        index = dict(package.index)
        card = package.card
    files.pop("submission.toml")
    card = change(index, files) or card
    files[INDEX] = write_index(index.values())
    listed = {f"heatmaps/{entry.sha256}.npy" for entry in index.values()}
    return write_package(out, card, {name: content for name, content in files.items() if name == INDEX or name in listed})


def test_a_package_scores_exactly_as_the_run_it_was_packed_from(packed, finished, scored, place):
    results, before = scored(packed), Results.read(finished)
    assert values(results, "toy_explainer@1") == values(before, "toy_explainer")
    assert values(results, "toy_explainer@1", "auroc") == values(before, "toy_explainer", "auroc")
    assert {row.explainer for row in results.summary.rows} == {*place.suite.controls, "toy_explainer@1"}
    ours, theirs = (r.table().set_index("explainer") for r in (results, before))
    for column in ("mean", "low", "high", "tier", "beats_best_control"):
        assert ours.loc["toy_explainer@1", column] == theirs.loc["toy_explainer", column]
    origin = results.summary.origins["toy_explainer@1"]
    assert (origin.track, origin.partial, origin.covered, origin.package_sha256) == (
        "heatmaps",
        False,
        12,
        sha256(packed.read_bytes()).hexdigest(),
    )


def test_clips_are_joined_by_id_whatever_the_order_of_files_and_lines(packed, scored, tmp_path):
    with zipfile.ZipFile(packed) as source:
        members = {name: source.read(name) for name in source.namelist()}
    lines = members[INDEX].splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    members[INDEX] = b"".join(lines)
    shuffled = tmp_path / "shuffled.zip"
    with zipfile.ZipFile(shuffled, "w") as target:
        for name in random.Random(4).sample(sorted(members), len(members)):
            target.writestr(name, members[name])
    assert values(scored(shuffled, "a"), "toy_explainer@1") == values(scored(packed, "b"), "toy_explainer@1")


def test_packing_twice_gives_the_same_bytes_and_a_card_survives_its_own_writing(packed, finished, tmp_path):
    assert pack_run(finished, tmp_path, FACTS).read_bytes() == packed.read_bytes()
    with Package(packed) as package:
        card = package.card
    odd = card.model_copy(update={"authors": ('Ann "Q" \\ Österreich 日本', "=1+1"), "compute": "a: [b] # c = 'd'"})
    assert read_card(write_card(odd)) == odd


def test_partial_coverage_is_shown_as_partial_and_does_not_compete(packed, scored, tmp_path):
    def drop(index, files):
        for key in sorted(index)[:4]:
            del index[key]

    results = scored(rebuilt(packed, tmp_path / "part.zip", drop))
    (row,) = [
        r
        for r in results.summary.rows
        if r.explainer == "toy_explainer@1" and (r.metric, r.slice, r.polarity) == ("generalized_dice", "all", "declared")
    ]
    assert (row.n, row.n_total, row.n_failed, row.tier, row.beats_best_control) == (8, 12, 0, None, None)
    assert "the submission does not cover this clip" in row.note
    assert results.summary.origins["toy_explainer@1"].partial
    tiers = {r.explainer: r.tier for r in results.summary.rows if (r.metric, r.slice) == ("generalized_dice", "all")}
    assert tiers["random"] is not None


def test_unusable_maps_and_reported_failures_take_the_lowest_control(packed, scored, place, tmp_path):
    shape = place.shape
    bad = {
        "nan": np.full(shape, np.nan, np.float32),
        "inf": np.where(np.arange(shape[1]) == 3, np.inf, 1.0).astype(np.float32) * np.ones(shape, np.float32),
        "grid": np.zeros((shape[1], shape[0]), np.float32),
        "wide": np.zeros((shape[0], shape[1] - 1), np.float32),
    }

    def spoil(index, files):
        for key, heatmap in zip(sorted(index), bad.values(), strict=False):
            content = dump(heatmap)
            digest = sha256(content).hexdigest()
            files[f"heatmaps/{digest}.npy"] = content
            index[key] = Entry(id=key[0], sha256=digest)
        key = sorted(index)[4]
        index[key] = Entry(id=key[0], status="failed", why="out of memory\x1b[31m")

    path = rebuilt(packed, tmp_path / "spoilt.zip", spoil)
    with Package(path) as package:
        coverage = check_coverage(package, place.task, shape)
    assert (len(coverage.invalid), coverage.failed, coverage.missing) == (4, 1, 0)
    assert ["finite" in why for why in coverage.invalid.values()] == [True, True, False, False]
    results = scored(path)
    frame = results.frame
    rows = frame[(frame.explainer == "toy_explainer@1") & (frame.metric == "generalized_dice") & (frame.polarity == "declared")]
    assert sorted(rows.status) == ["error", *["invalid"] * 4, *["ok"] * 7]
    (row,) = [
        r
        for r in results.summary.rows
        if r.explainer == "toy_explainer@1" and (r.metric, r.slice, r.polarity) == ("generalized_dice", "all", "declared")
    ]
    assert (row.n, row.n_failed) == (12, 5)
    lowest = [min(values(results, c)[pair] for c in ("random", "constant", "energy")) for pair in sorted(values(results, "random"))[:5]]
    kept = [v for pair, v in sorted(values(results, "toy_explainer@1").items())[5:]]
    by_utterance = {}
    for pair, value in zip(sorted(values(results, "random")), [*lowest, *kept], strict=True):
        by_utterance.setdefault(pair[:3], []).append(value)
    assert row.mean == pytest.approx(np.mean([np.mean(group) for group in by_utterance.values()]), abs=1e-9)


@pytest.mark.parametrize(
    ("heatmap", "floor"),
    [("constant", True), ("negative", False), ("saturated", True), ("dilated", False)],
)
def test_legal_maps_that_try_to_game_the_metrics_gain_nothing(packed, scored, place, tmp_path, heatmap, floor):
    """Constant and saturated maps score as chance does; a negated or dilated map scores below the map it was made of."""
    import torch

    with Package(packed) as package:
        maps = {key: package.heatmap(entry, place.shape) for key, entry in package.index.items()}

    def game(found):
        if heatmap == "constant":
            return np.full_like(found, 7.0)
        if heatmap == "saturated":
            return np.full_like(found, np.finfo(np.float32).max)
        if heatmap == "negative":
            return -np.abs(found) - 1.0
        return torch.nn.functional.max_pool2d(torch.from_numpy(found)[None, None], 9, 1, 4)[0, 0].numpy()

    def replace(index, files):
        for key, found in maps.items():
            content = dump(game(found))
            digest = sha256(content).hexdigest()
            files[f"heatmaps/{digest}.npy"] = content
            index[key] = Entry(id=key[0], sha256=digest)

    results = scored(rebuilt(packed, tmp_path / "game.zip", replace), faithfulness=False)
    honest = scored(packed, "honest", faithfulness=False).table().set_index("explainer")
    row = results.table().set_index("explainer").loc["toy_explainer@1"]
    assert row["mean"] < honest.loc["toy_explainer@1", "mean"] - 0.05
    if floor:
        frame = results.frame
        tied = frame[(frame.explainer == "toy_explainer@1") & (frame.metric == "auroc")]
        assert (tied.value == 0.5).all()
        assert abs(row["mean"] - honest.loc["constant", "mean"]) < 0.02


def test_another_task_detector_or_protocol_is_refused(packed, place):
    with Package(packed) as package:
        with pytest.raises(DataMismatchError, match="task must be the toy that was explained"):
            setting(package.card, task=ToyTask(utterances=5), detector=place.detector, suite=place.suite)
        other = type(place.detector)(slope=41.0)
        with pytest.raises(DataMismatchError, match="detector must be the toy_detector that was explained"):
            setting(package.card, task=place.task, detector=other, suite=place.suite)


def test_a_run_without_a_single_usable_map_measures_nothing(packed, scored, tmp_path):
    def empty(index, files):
        for key in index:
            index[key] = Entry(id=key[0], status="failed")

    with pytest.raises(NothingMeasuredError, match="toy_explainer@1"):
        scored(rebuilt(packed, tmp_path / "empty.zip", empty))


def test_several_rows_must_be_chosen_from_and_controls_are_not_packed(finished, tmp_path):
    with pytest.raises(RunError, match="explainer must be a row of the run and no control, got 'energy'"):
        pack_run(finished, tmp_path, FACTS, explainer="energy")
    with pytest.raises(SubmissionError, match="authors"):
        pack_run(finished, tmp_path, {"licence": "CC0-1.0"})


def test_float16_packages_keep_the_ranking_as_far_as_they_can(finished, scored, tmp_path):
    half = pack_run(finished, tmp_path, FACTS, half=True)
    with Package(half) as package:
        assert all(b"<f2" in package.archive.read(name)[:80] for name in package.archive.members if name.startswith("heatmaps/"))
    full = values(Results.read(finished), "toy_explainer")
    found = values(scored(half, faithfulness=False), "toy_explainer@1")
    assert max(abs(found[pair] - full[pair]) for pair in full) < 0.01


def test_an_explainer_that_knows_recipes_has_one_map_for_each(scored, tmp_path):
    from dataclasses import dataclass

    from toys import toy_run

    @dataclass(frozen=True)
    class Knowing(Toy):
        name = "knowing"
        recipe: str = ""

    run = toy_run(tmp_path / "run", Knowing())
    path = pack_run(run.path, tmp_path, FACTS, explainer="knowing")
    with Package(path) as package:
        assert package.card.by_recipe
        assert {key[1] for key in package.index} == {"sym-floor60-v1"}
    assert values(scored(path), "knowing@1") == values(run, "knowing")


def test_the_recipe_of_the_documentation_makes_a_package_that_scores(place, scored, tmp_path):
    """The ten lines are executed as printed, in a process that cannot import xaibench."""
    kit = write_kit(place, tmp_path / "kit")
    text = DOCS.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# Without xaibench.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 10 + code.count("import")
    program = (
        "import sys\nsys.modules['xaibench'] = None\n"
        "def my_method(path, bins, frames):\n    import numpy, soundfile\n    wave, _ = soundfile.read(path)\n"
        "    return numpy.outer(numpy.arange(bins), numpy.ones(frames)) + abs(wave[0])\n" + code
    )
    subprocess.run([sys.executable, "-c", program], cwd=kit, check=True, timeout=120)
    (package,) = kit.glob("*.xaib.zip")
    results = scored(package, faithfulness=False)
    assert results.summary.origins["my_method@1.0"].covered == 12
    assert len(read_index(zipfile.ZipFile(package).read(INDEX))) == 12
