"""One board over a repository of results: rows as if all had been explained in one run, and nothing on it that does not hold."""

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow
import pyarrow.parquet
import pytest
from toys import SUITE, Toy, ToyTask, toy_run

from xaibench.benchmark.suite import SUITES
from xaibench.cli import submit as cli
from xaibench.errors import NothingMeasuredError, RunError, SubmissionError
from xaibench.leaderboard.submission import values
from xaibench.leaderboard.submission.archive import INDEX
from xaibench.leaderboard.submission.board import UNVERIFIED, VERIFIED, _summary, write_boards
from xaibench.leaderboard.submission.commitment import commit, write_commitment
from xaibench.leaderboard.submission.gather import Entry, Group
from xaibench.leaderboard.submission.index import write_index
from xaibench.leaderboard.submission.pack import pack_run, write_package
from xaibench.leaderboard.submission.package import Package
from xaibench.leaderboard.submission.record import KEY_VARIABLE, read_record
from xaibench.leaderboard.submission.repository import problems_between, problems_of
from xaibench.leaderboard.submission.scoring import score
from xaibench.leaderboard.submission.signing import sign
from xaibench.leaderboard.submission.values import read_values
from xaibench.tasks.spectrogram import log_magnitude

KEY = bytes(range(32))
FACTS = {"authors": ["A. Author"], "licence": "CC0-1.0"}


@dataclass(frozen=True)
class Sharp(Toy):
    """The toy without its noise."""

    name = "sharp"

    def explain(self, waveform, detector, *, references=None, generator=None):
        base = log_magnitude(waveform, self.stft)
        return base.mean() - base


@contextmanager
def world():
    """The toy protocol among those that ship, and the key at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES, "toy", SUITE)
        patch.setenv(KEY_VARIABLE, KEY.hex())
        yield patch


@pytest.fixture(autouse=True)
def known_protocol():
    with world():
        yield


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Both explainers in one run: what the board over their packages must show."""
    return toy_run(tmp_path_factory.mktemp("together") / "run", Toy(), Sharp(), faithfulness=False)


@pytest.fixture(scope="module")
def signed(together, place, tmp_path_factory):
    """A repository with two records and a partial one; read only."""
    root, folder = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("packages")
    paths = [pack_run(together.path, folder, FACTS, explainer=name) for name in ("toy_explainer", "sharp")]
    with Package(paths[1]) as whole:
        few = list(whole.index.values())[:-1]
        maps = {f"heatmaps/{entry.sha256}.npy": whole.archive.read(f"heatmaps/{entry.sha256}.npy") for entry in few}
        paths.append(write_package(folder, whole.card.model_copy(update={"name": "picky"}), {INDEX: write_index(few), **maps}))
    with world():
        for path in paths:
            with Package(path) as package:
                scored = score(package, place, folder / f"run-{package.card.name}", jobs=1, faithfulness=False)
                sign(package, scored.path, root, f"author-{package.card.name}")
    return root


@pytest.fixture
def repository(signed, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(signed, tmp_path / "repository")


@pytest.fixture(scope="module")
def board(signed, tmp_path_factory):
    """The board over the repository, with the key: its page and summary."""
    with world():
        (index,), found = write_boards(signed, tmp_path_factory.mktemp("board"), KEY)
    assert not found.refused
    return index.read_text(encoding="utf-8"), json.loads((index.parent.parent / "summary.json").read_text())


def table_row(page, label):
    start = page.index(f'data-row="{label}"')
    return page[page.rindex("<tr", 0, start) : page.index("</tr>", start)]


def test_the_board_ranks_two_submissions_as_one_run_ranks_two_explainers(board, together):
    """Means, intervals, tiers and verdicts, row by row and field by field, controls included."""
    rows = [row for row in board[1]["rows"] if row["explainer"] != "picky@1"]
    expected = [row.model_dump(mode="json") for row in together.summary.rows]
    for row in expected:
        if not row["control"]:
            row["explainer"] = row["title"] = f"{row['explainer']}@1"

    def place(row):
        return [row[key] for key in ("explainer", "recipe", "polarity", "occluder", "metric", "slice")]

    costs = ("forwards", "backwards")  # of heatmaps nobody knows
    rows, expected = ([r for r in sorted(found, key=place) if r["metric"] not in costs] for found in (rows, expected))
    assert [place(row) for row in rows] == [place(row) for row in expected]
    assert rows == expected
    tiers = {r["explainer"]: r["tier"] for r in rows if (r["metric"], r["slice"], r["polarity"]) == ("generalized_dice", "all", "declared")}
    assert tiers["sharp@1"] < tiers["toy_explainer@1"]


@pytest.mark.parametrize("name", ["minivoc", "unknown"])
def test_recipes_and_occluders_stand_in_the_order_of_task_and_protocol(signed, name):
    """The first of each is what the page leads with."""
    record = read_record(signed / "results/sharp/1/toy/record.json")
    card = record.card.model_copy(update={"task": record.card.task.model_copy(update={"name": name})})
    shipped = record.model_copy(update={"card": card})
    group = Group(SUITES["xaibench-v1"], [Entry(signed, shipped)], None)
    row = {"task": name, "recipe": "", "metric": "x"}
    rows = [{**row, "recipe": recipe} for recipe in ("grinberg-rel-linear-v1", "another", "sym-floor60-v1")]
    made = _summary(group, {}, [((name, "d"), group)], VERIFIED, rows)
    order = {"minivoc": ["sym-floor60-v1", "grinberg-rel-linear-v1", "another"], "unknown": sorted(r["recipe"] for r in rows)}
    assert made["tasks"][0]["recipes"] == order[name]
    assert made["detectors"][0]["occluders"] == ["twin_complex", "floor"]


def test_the_page_shows_every_row_with_its_badge_and_a_partial_one_leads_nothing(board):
    page, summary = board
    assert f"B · heatmaps · {VERIFIED}" in table_row(page, "toy_explainer@1")
    assert f"B · heatmaps · partial 11 of 12 · {VERIFIED}" in table_row(page, "picky@1")
    assert "beats every control" in table_row(page, "sharp@1")
    assert "beats" not in table_row(page, "picky@1")
    assert 'data-row="random"' in page
    assert all(r["tier"] is r["beats_best_control"] is None for r in summary["rows"] if r["explainer"] == "picky@1")
    assert "sharp@1" in page[page.index("Best explainer") :][:200]


def test_without_the_key_the_page_says_so_on_top_and_on_every_row(signed, tmp_path):
    (index,), found = write_boards(signed, tmp_path, None)
    page = index.read_text(encoding="utf-8")
    assert not found.refused
    assert "Signatures were not verified" in page
    assert UNVERIFIED in table_row(page, "sharp@1")
    assert VERIFIED not in page


def edit(folder, change, *, resign=False):
    path = folder / "record.json"
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))
    if resign:
        path.write_text(json.dumps(read_record(path).signed(KEY).model_dump(mode="json")))


def test_a_record_that_does_not_hold_is_left_out_and_named(repository, tmp_path, capsys):
    edit(repository / "results/sharp/1/toy", lambda whole: whole.update(scored_on="2020-01-01"))
    with pytest.raises(SubmissionError, match="every record must pass, got 1 findings"):
        cli.board(repository, tmp_path / "board")
    said = capsys.readouterr()
    page = (tmp_path / "board/toy-quick/report/index.html").read_text(encoding="utf-8")
    assert "left out: results/sharp/1/toy record must be signed with the key" in said.err
    assert "report: file://" in said.out
    assert "results/sharp/1/toy is left out: record must be signed with the key" in page
    assert 'data-row="sharp@1"' not in page
    assert "toy_explainer@1" in page


MARKUP = "<script>alert(1)</script>"
HOSTILE = {
    "title": lambda whole: [row.update(title=MARKUP) for row in whole["rows"]],
    "note": lambda whole: [row.update(note=MARKUP) for row in whole["rows"]],
    "isolation": lambda whole: whole["origin"].update(isolation=MARKUP),
    "release": lambda whole: whole.update(xaibench=MARKUP),
    "tier": lambda whole: whole.update(tier="../../../../tmp/x"),
    "coverage": lambda whole: whole["origin"].update(covered=12, asked=12),
    "commitment": lambda whole: whole.update(commitment=MARKUP),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_text_of_an_unsigned_record_is_neither_markup_nor_a_path_on_any_page(repository, tmp_path, change):
    edit(repository / "results/picky/1/toy", change)
    write_boards(repository, tmp_path / "board", None)
    pages = list((tmp_path / "board").rglob("*"))
    assert sorted(p.name for p in (tmp_path / "board").iterdir()) == ["toy-quick"]
    for page in pages:
        if page.suffix == ".html":
            assert MARKUP not in page.read_text(encoding="utf-8"), page


def test_a_folder_with_any_bytes_for_a_name_is_named_in_words_that_can_be_shown(repository, tmp_path, capsys):
    bad = repository / os.fsdecode(b"results/\xff\x1b[31m<b>x/1/toy")
    bad.mkdir(parents=True)
    (bad / "record.json").symlink_to("/etc/passwd")
    with pytest.raises(SubmissionError, match="every record must pass"):
        cli.board(repository, tmp_path / "board")
    page = (tmp_path / "board/toy-quick/report/index.html").read_text(encoding="utf-8")
    assert "<b>x" not in page
    assert "left out" in page
    assert capsys.readouterr().err.replace("\n", "").isprintable()


def test_coverage_and_tier_that_the_values_do_not_give_are_found_without_the_key(repository):
    folder = repository / "results/picky/1/toy"
    edit(folder, lambda whole: whole["origin"].update(covered=12))
    (found,) = problems_of(folder)
    assert found == "covered must be 11 of 12 explanations, as units.parquet has it, got 12 of 12"
    edit(folder, lambda whole: (whole["origin"].update(covered=11), whole.update(tier="../x")))
    (found,) = problems_of(folder)
    assert found == "tier must be one of quick, got '../x'"


def test_other_clips_or_controls_open_a_board_of_their_own(repository, tmp_path):
    """A record whose controls differ was scored by other metrics: its row is never ranked with those of others."""
    folder = repository / "results/toy_explainer/1/toy"
    table = pyarrow.parquet.read_table(folder / "units.parquet")
    changed = [
        value + 0.1 if name == "random" and value is not None else value
        for name, value in zip(table["explainer"].to_pylist(), table["value"].to_pylist(), strict=True)
    ]
    at = table.column_names.index("value")
    pyarrow.parquet.write_table(table.set_column(at, "value", pyarrow.array(changed, pyarrow.float64())), folder / "units.parquet")
    edit(folder, lambda whole: whole.update(units_sha256=digest(folder / "units.parquet")), resign=True)
    (index,), found = write_boards(repository, tmp_path / "board", KEY)
    assert not found.refused
    summary = json.loads((index.parent.parent / "summary.json").read_text())
    where = {row["explainer"]: row["task"] for row in summary["rows"] if not row["control"]}
    assert where["sharp@1"] == where["picky@1"]
    assert where["sharp@1"] != where["toy_explainer@1"]
    assert len({row["task"] for row in summary["rows"] if row["explainer"] == "random"}) == 2


def digest(path):
    from hashlib import sha256

    return sha256(path.read_bytes()).hexdigest()


def test_a_hidden_row_stands_as_it_was_signed_beside_no_rank_of_its_own(repository, together, place, tmp_path):
    @dataclass(frozen=True)
    class Hidden(ToyTask):
        name = "hidden"

    made, kept = commit(Hidden())
    write_commitment(made, kept, tmp_path / "commitment.json", tmp_path / "reveal.json")
    path = pack_run(together.path, tmp_path, {**FACTS, "name": "shy"}, explainer="sharp")
    with Package(path) as package:
        run = score(package, place, tmp_path / "run", jobs=1, faithfulness=False)
        package.card = package.card.model_copy(update={"task": package.card.task.model_copy(update={"name": "hidden"})})
        sign(package, run.path, repository, "author", commitment=tmp_path / "commitment.json")
    (index,), found = write_boards(repository, tmp_path / "board", KEY)
    assert not found.refused
    rows = [r for r in json.loads((index.parent.parent / "summary.json").read_text())["rows"] if r["explainer"] == "shy@1"]
    (record,) = [r for r in read_record(repository / "results/shy/1/toy/record.json").rows if r.metric == "generalized_dice"][:1]
    assert {row["slice"] for row in rows} == {"all"}
    assert {row["tier"] for row in rows} == {None}
    assert next(row["mean"] for row in rows if row["metric"] == "generalized_dice") == record.mean
    assert "hidden split" in index.read_text(encoding="utf-8")


def test_a_repository_without_a_good_record_and_a_foreign_folder_are_refused(repository, together, tmp_path):
    with pytest.raises(NothingMeasuredError, match="repository must hold a record that passes"):
        write_boards(tmp_path, tmp_path / "board", KEY)
    shutil.copytree(together.path, tmp_path / "runs/toy-quick")
    before = (tmp_path / "runs/toy-quick/summary.json").read_bytes()
    with pytest.raises(RunError, match="out must be a folder of boards, got the run"):
        write_boards(repository, tmp_path / "runs", KEY)
    assert (tmp_path / "runs/toy-quick/summary.json").read_bytes() == before
    assert problems_between(repository) == []


BOMBS = {
    "too many rows": (lambda columns: {name: pyarrow.nulls(300_001, column.type) for name, column in columns.items()}, "a table may have"),
    "long text": (
        lambda columns: {**columns, "why": pyarrow.DictionaryArray.from_arrays([0] * len(columns["why"]), ["x" * 5000]).cast("string")},
        "why must have at most 4096 characters",
    ),
    "other columns": (lambda columns: {"value": columns["value"]}, "columns must be those that a run writes"),
    "other types": (lambda columns: {**columns, "value": columns["value"].cast("float32")}, "columns must be those that a run writes"),
}


@pytest.mark.parametrize(("change", "words"), BOMBS.values(), ids=BOMBS.keys())
def test_a_table_that_unpacks_to_more_than_a_run_has_is_refused(signed, tmp_path, monkeypatch, change, words):
    monkeypatch.setattr(values, "MAX_ROWS", 300_000)
    table = pyarrow.parquet.read_table(signed / "results/picky/1/toy/units.parquet")
    columns = change(dict(zip(table.column_names, (c.combine_chunks() for c in table.columns), strict=True)))
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "units.parquet", compression="zstd")
    assert (tmp_path / "units.parquet").stat().st_size < 1 << 20
    with pytest.raises(SubmissionError, match=words):
        list(read_values(tmp_path / "units.parquet"))
