import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from xaibench.leaderboard.rows import boards, number, read_run, terminal_table, verdict
from xaibench.leaderboard.views import by_vocoder, headline, leaderboard
from xaibench.leaderboard.words import clean


def record(explainer: str, mean: float | None, **more: object) -> dict[str, object]:
    base = {"task": "t", "detector": "d", "title": explainer, "control": False, "oracle": False, "recipe": "r", "polarity": "declared"}
    return {
        **base,
        "occluder": "",
        "metric": "generalized_dice",
        "slice": "all",
        "explainer": explainer,
        "mean": mean,
        "n": 30,
        "n_total": 48,
        **more,
    }


ROWS = [
    record("better", 0.30, tier=1, beats_best_control=True, low=0.28, high=0.32),
    record("tied_low", 0.25, tier=2, beats_best_control=False),
    record("tied_high", 0.26, tier=2, beats_best_control=False),
    record("unmeasured", None, note="not enough clips"),
    record("prior", 0.22, control=True, tier=3),
    record("random", 0.09, control=True, tier=4),
    record("oracle_mask", 1.0, control=True, oracle=True),
]


def test_rows_are_ordered_by_tier_then_mean_and_undefined_ones_come_last() -> None:
    (board,) = boards({"rows": list(reversed(ROWS))})
    assert [row.explainer for row in board.ranked("explainer", "r")] == ["better", "tied_high", "tied_low", "unmeasured"]
    assert [row.explainer for row in board.ranked("oracle", "r")] == ["oracle_mask"]


def test_floor_is_the_best_control_in_the_metrics_own_direction() -> None:
    lower = [record(n, v, control=True, metric="deletion") for n, v in (("a", -1.0), ("b", -3.0))]
    (board,) = boards({"rows": ROWS + lower})
    assert board.floor("r")[0].explainer == "prior"  # type: ignore[index]
    assert board.floor("r", "deletion")[0].explainer == "b"  # type: ignore[index]
    assert board.ceiling("r")[0].explainer == "oracle_mask"  # type: ignore[index]


def test_recipes_and_occluders_keep_the_order_of_the_protocol() -> None:
    rows = [record("a", 0.1, recipe=r, occluder=o) for r in ("alpha", "beta", "new") for o in ("floor", "twin")]
    detectors = [{"task": "t", "detector": "d", "occluders": ["twin", "floor"]}]
    (board,) = boards({"rows": rows, "tasks": [{"name": "t", "recipes": ["beta", "gone", "alpha"]}], "detectors": detectors})
    assert board.recipes == ("beta", "alpha", "new")
    assert board.occluders == ("twin", "floor")


def lead(metric: str, means: dict[str, float], **place: str) -> list[dict[str, object]]:
    """Rows of one metric: explainers a and b, a control and an oracle."""
    kinds = {"random": {"control": True}, "oracle_mask": {"control": True, "oracle": True}}
    told = {"a": {"tier": 1, "beats_best_control": True}, "b": {"tier": 2, "beats_best_control": False}}
    return [record(n, m, metric=metric, **{"recipe": "", **place, **kinds.get(n, {}), **told.get(n, {})}) for n, m in means.items()]


@pytest.mark.parametrize(
    ("rows", "head", "first", "legend"),
    [
        (lead("time_auroc", {"a": 0.7, "b": 0.6, "random": 0.5, "oracle_mask": 1.0}, recipe="time-v1"), "tAUC", "70.0", "chance is 50.0"),
        (lead("srg", {"a": 1.25, "b": 0.5, "random": -0.25}, occluder="floor"), "SRG", "1.25", "Log-odds; chance is 0.00"),
    ],
)
def test_a_board_without_twins_is_led_by_what_is_known_of_its_task(rows, head, first, legend) -> None:  # type: ignore[no-untyped-def]
    extra = lead("time_average_precision", {"a": 0.4, "b": 0.3}, recipe="time-v1") if head == "tAUC" else []
    (board,) = boards({"rows": [*rows, *extra], "detectors": [{"task": "t", "detector": "d", "occluders": ["floor"]}]})
    recipe = board.recipes[0] if board.recipes else ""
    assert board.unit == head
    assert [row.explainer for row in board.ranked("explainer", recipe)] == ["a", "b"]
    assert verdict(board.rows[0], board, recipe) == "beats every control"
    assert headline(board, recipe) == "One of 2 explainers beats every control: a."
    assert board.floor(recipe)[0].explainer == "random"  # type: ignore[index]
    view = leaderboard(board, recipe)
    lines = {line.row.explainer: line for _, _, found in view.groups for line in found}
    assert (view.short, lines["a"].main.text, lines["a"].good, lines["b"].good) == (head, first, True, False)
    assert view.limit >= max(float(str(r["mean"])) for r in rows if r["explainer"] == "a")
    console = Console(width=100, record=True)
    console.print(terminal_table(board, recipe))
    text = console.export_text()
    assert head in text
    assert legend in text
    assert text.count(f" {head} ") == 1


def test_planted_and_artifact_boards_stay_with_generalized_dice() -> None:
    (board,) = boards({"rows": [*ROWS, *lead("srg", {"better": 2.0}, occluder="floor"), *lead("time_auroc", {"better": 0.9})]})
    assert (board.unit, board.place) == ("GDice", "")


@pytest.mark.parametrize(
    ("explainer", "words"),
    [
        ("better", "beats every control"),
        ("tied_low", "does not beat the best control (prior)"),
        ("unmeasured", "not enough clips"),
        ("prior", ""),
    ],
)
def test_every_row_says_how_it_stands_to_the_best_control(explainer: str, words: str) -> None:
    (board,) = boards({"rows": ROWS})
    row = next(row for row in board.rows if row.explainer == explainer)
    assert verdict(row, board, "r", named=True) == words


LONG = [record("frequency_level_prior", 0.24, low=0.21, high=0.27, control=True, tier=2)]
OTHERS = [
    record(r["explainer"], 0.5, metric=m, control=r["control"], oracle=r["oracle"])
    for r in [*ROWS, *LONG]
    for m in ("generalized_dice_corrected", "average_precision", "stratified_auc", "auroc", "pointing_game")
]
GAINS = [
    record(name, mean, recipe="", occluder="floor", metric=metric, control=name == "prior")
    for name, srg, outside in (("better", 1.5, 0.1), ("tied_low", 2.5, 0.9), ("prior", 0.5, 0.0))
    for metric, mean in (("srg", srg), ("out_of_range", outside))
]
FACTS = {"task": "t", "detector": "d", "n_clips": 48, "n_gated": 37, "gap_gate": 2.0, "occluders": ["floor"]}


def printed(width: int, *more: dict[str, object]) -> list[str]:
    (board,) = boards({"rows": [*ROWS, *LONG, *OTHERS, *GAINS, *more], "detectors": [FACTS]})
    console = Console(width=width, record=True, force_terminal=False)
    console.print(terminal_table(board, "r"))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_terminal_table_gives_every_row_one_line_of_80_columns() -> None:
    lines = printed(80)
    assert lines[0] == "One of 3 explainers beats every control: better."
    assert max(map(len, lines)) <= 80
    assert lines[2].split()[:7] == ["explainer", "GDice", "95", "%", "corrected", "AP", "sAUC"]
    ends = {
        **{"oracle_mask": "ceiling", "better": "tier 1 beats", "tied_high": "tier 2", "unmeasured": "not enough clips"},
        **{"frequency_level_prior": "tier 2 floor", "prior": "tier 3 control"},
    }
    places = [next(i for i, line in enumerate(lines) if line.startswith(f"{name} ") and line.endswith(end)) for name, end in ends.items()]
    assert places == sorted(places)
    assert [lines[i] for i in (places[0] + 1, places[4] - 1)] == ["", ""]
    assert "28.0-32.0" in lines[places[1]]


def test_terminal_table_says_how_to_read_it() -> None:
    text = " ".join(printed(80))
    assert "chance is 9.5" in text
    assert "rows of different tiers may still be inseparable" in text
    assert "48 clips entered, 37 with a gap >= 2.0" in text
    gains = "SRG, cells replaced by floor: tied_low 2.50 (out of range), better 1.50, best control prior 0.50"
    assert gains in text


def test_what_a_row_says_of_itself_stands_under_the_terminal_table() -> None:
    said = "not detector-specific: cannot be told from addsegdiff_random"
    assert f"addsegdiff: {said}." in " ".join(printed(80, record("addsegdiff", 0.2, tier=3, note=said)))
    assert said not in " ".join(printed(80, record("addsegdiff", 0.2, note=said))), "a row without a tier was not judged"


@pytest.mark.parametrize(("width", "headings"), [(50, ""), (70, "corrected AP"), (120, "corrected AP sAUC AUROC pointing SRG n")])
def test_columns_go_and_come_with_the_width_of_the_terminal(width: int, headings: str) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if line.startswith("explainer"))
    assert head.split()[4:-1] == headings.split()


def test_names_in_the_terminal_keep_both_ends_and_send_no_escape_codes() -> None:
    options = "integrated_gradients:steps=128,baseline=a_long_one,batch="
    text = "\n".join(
        printed(
            80, record(options + "1", 0.2), record(options + "2", 0.2), record("\x1b[31mred[bold]", 0.4, beats_best_control=True, tier=1)
        )
    )
    assert text.count("\ufffd[31mred[bold]") == 2, "in the headline and in its row"
    assert "\x1b" not in text
    assert all(f"batch={i} " in text for i in (1, 2))
    assert max(map(len, text.splitlines())) <= 80


def test_by_vocoder_marks_what_the_paired_test_found_and_nothing_else() -> None:
    slices = [("all", True, 0.2), ("vocoder:a", False, 0.9), ("vocoder:b", None, 0.9), ("vocoder:c", True, 0.1)]
    rows = [record("x", 0.95, low=low, high=1.0, slice=part, beats_best_control=beats) for part, beats, low in slices]
    rows += [record("prior", 0.22, slice=part, control=True, beats_best_control=None) for part, _, _ in slices]
    (board,) = boards({"rows": rows})
    matrix = by_vocoder(board, "r")
    assert matrix is not None
    marked = {row.explainer: [cell.label for cell in cells if "over" in cell.css] for _, found in matrix.groups for row, cells in found}
    assert marked == {"x": ["all", "vocoder:c"], "prior": []}


def test_numbers_are_percent_with_a_minus_sign_and_a_dash_for_undefined() -> None:
    assert [number(v) for v in (0.2814, None, float("nan"))] == ["28.1", "–", "–"]
    assert number(-1.5, "deletion") == "−1.50"
    assert number(-0.0001) == "0.0"


@pytest.mark.parametrize(
    ("dirty", "shown"), [("a\nb", "a b"), ("\u202eevil", "\ufffdevil"), ("x" * 9999, "x" * 599 + "…"), ("naïve 音 é", "naïve 音 é")]
)
def test_clean_keeps_letters_and_drops_what_could_rewrite_a_line(dirty: str, shown: str) -> None:
    assert clean(dirty) == shown


def test_seconds_come_from_the_timings_of_finished_explanations(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "summary.json").write_text(json.dumps({"rows": ROWS}), encoding="utf-8")
    units = [
        {"key": k, "task": "t", "detector": "d", "explainer": "better", "status": s, "metric": m}
        for k, s in (("k1", "ok"), ("k2", "ok"), ("k3", "error"))
        for m in ("dice", "iou")
    ]
    timings = [
        {"key": k, "stage": stage, "seconds": v}
        for k, v in (("k1", 1.0), ("k2", 2.0), ("k3", 60.0))
        for stage in ("explain", "localization")
    ]
    for name, records in (("units", units), ("timings", timings)):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / f"{name}.parquet")
    row = next(row for row in read_run(tmp_path).boards[0].rows if row.explainer == "better")
    score = row.score("seconds", recipe="r")
    assert score is not None
    assert (score.mean, score.n) == (1.5, 2)


@pytest.mark.parametrize(
    ("beats", "words"),
    [
        ([True], "a beats every control."),
        ([False], "The explainer does not beat the best control."),
        ([False, False], "None of 2 explainers beats the best control."),
        ([True, None, False], "One of 2 explainers beats every control: a."),
        ([True, True, False], "2 of 3 explainers beat every control, a foremost."),
        ([None, None], "Too little was measured to compare an explainer with the controls."),
        ([], "Only controls were measured."),
    ],
)
def test_headline_counts_the_explainers_that_beat_every_control(beats: list[bool | None], words: str) -> None:
    rows = [record(name, 0.9 - i / 10, beats_best_control=b) for i, (name, b) in enumerate(zip("abc", beats, strict=False))]
    (board,) = boards({"rows": [*rows, record("prior", 0.22, control=True)]})
    assert headline(board, "r") == words


def test_truths_stand_side_by_side_only_where_there_are_two(toy_run: Path, tmp_path: Path) -> None:
    import json
    import shutil

    from xaibench.leaderboard.truths import causal_matrix, causal_quality, compare, kinds

    assert compare(read_run(toy_run)) is None
    assert kinds(read_run(toy_run)) == {"artifact"}
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    template = next(r for r in summary["rows"] if r["metric"] == "average_precision" and r["explainer"] == "specsegdiff")
    changes = {"metric": "causal_spearman", "recipe": "", "occluder": "twin_tiles", "mean": 0.4, "low": 0.3, "high": 0.5}
    summary["rows"].append({**template, **changes, "beats_best_control": True})
    worth = {"domain": "twin_tiles", "n_clips": 20, "n_refused": 2, "split_half": 0.97, "null_shift": 0.02, "n_unsteady": 1}
    summary["detectors"][0]["causal"] = [worth]
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    read = read_run(run)
    found = compare(read)
    assert found is not None
    assert [truth.kind for truth in found.truths] == ["artifact", "causal"]
    cells = {row.explainer: cells for row, cells in found.rows}
    assert set(cells) == {"specsegdiff", "saliency", "energy", "random"}
    assert (cells["specsegdiff"][1].text, cells["specsegdiff"][1].under, cells["specsegdiff"][1].css) == ("40", "30 to 50", "over")
    assert cells["saliency"][1].css == "void"
    matrix = causal_matrix(read.boards[0])
    assert matrix is not None
    assert [heading for _, heading in matrix.headings] == ["rank corr., tiles"]
    (sentence,) = causal_quality(read.boards[0])
    assert "18 of 20 clips count" in sentence
    assert "agree to 0.97" in sentence
    assert "2.0 % of the gap" in sentence
