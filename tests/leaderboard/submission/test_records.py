"""Records: one HMAC over everything, means that anybody can make again, hidden splits that give away no more than their intervals."""

import hashlib
import hmac
import json
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest
from toys import SUITE, ToyTask

from xaibench.benchmark.suite import SUITES
from xaibench.benchmark.summary import SummaryRow
from xaibench.errors import DataError, DataMismatchError, SubmissionError
from xaibench.leaderboard.submission import repository as repo
from xaibench.leaderboard.submission.commitment import (
    commit,
    mask_digest,
    merkle_root,
    read_commitment,
    read_reveal,
    verify,
    write_commitment,
)
from xaibench.leaderboard.submission.package import Package
from xaibench.leaderboard.submission.quota import next_quota
from xaibench.leaderboard.submission.record import KEY_VARIABLE, Quota, make_record, read_record, resolution, rounded, signing_key
from xaibench.leaderboard.submission.repository import prepare_branch, problems_between, problems_of
from xaibench.leaderboard.submission.scoring import score
from xaibench.leaderboard.submission.signing import sign
from xaibench.registry import TASKS

KEY = bytes(range(32))
PLACE = Path("results/toy_explainer/1/toy")


@pytest.fixture(scope="module")
def run(packed, place, tmp_path_factory):
    """The scored package."""
    with Package(packed) as package:
        return score(package, place, tmp_path_factory.mktemp("scored") / "run", jobs=1, faithfulness=False)


@pytest.fixture(scope="module")
def signed(run, packed, tmp_path_factory):
    """A repository of results with one record; read only."""
    root = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch, Package(packed) as package:
        patch.setenv(KEY_VARIABLE, KEY.hex())
        assert sign(package, run.path, root, "octocat") == root / PLACE
    return root


@pytest.fixture
def repository(signed, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(signed, tmp_path / "repository")


def problems(repository, key=KEY):
    return problems_of(repository / PLACE, key=key, suite=SUITE)


def test_an_untouched_record_passes_with_and_without_the_key(repository):
    assert problems(repository) == problems(repository, key=None) == problems_between(repository) == []
    record = read_record(repository / PLACE / "record.json")
    assert record.hmac == hmac.new(KEY, record.content(), hashlib.sha256).hexdigest()
    assert (record.quota.author, record.quota.number, record.origin.track) == ("octocat", 1, "heatmaps")


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:3]):
            yield from leaves(inner, (*path, i))
    else:
        yield path, value


def test_every_value_of_a_record_is_under_the_hmac(repository):
    """Whatever is changed by hand, the signature tells, even where a value keeps its type."""
    path = repository / PLACE / "record.json"
    whole = json.loads(path.read_text())
    places = [(p, v) for p, v in leaves(whole) if p != ("hmac",)]
    assert len(places) > 80
    for place, value in places:
        edited = json.loads(path.read_text())
        target = edited
        for step in place[:-1]:
            target = target[step]
        target[place[-1]] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value or ''}x"
        path.write_text(json.dumps(edited))
        with suppress(SubmissionError):  # no record any more
            assert not read_record(path).is_genuine(KEY), place
        path.write_text(json.dumps(whole))
    assert read_record(path).is_genuine(KEY)


def edit(repository, change, resign=False):
    path = repository / PLACE / "record.json"
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))
    if resign:
        path.write_text(json.dumps(read_record(path).signed(KEY).model_dump(mode="json")))


def better(whole):
    row = next(r for r in whole["rows"] if (r["metric"], r["slice"]) == ("generalized_dice", "all"))
    row["mean"] += 0.01


def test_a_score_edited_by_hand_is_found_without_the_key_and_even_by_who_has_it(repository):
    edit(repository, better)
    (without,) = problems(repository, key=None)
    assert without.startswith("mean of generalized_dice")
    edit(repository, lambda whole: None, resign=True)
    assert problems(repository) == [without]


SPOILT = {
    "rows dropped": (lambda whole: whole["rows"].pop(), "rows must be those that units.parquet gives"),
    "failures hidden": (lambda whole: whole["rows"][0].update(n_total=11), "n_total of"),
    "another protocol": (lambda whole: whole.update(suite_sha256="0" * 64), "suite must be toy as it ships"),
    "another version": (lambda whole: whole["card"].update(version="2"), "record must lie in results/toy_explainer/2/toy"),
    "another's row": (lambda whole: whole["rows"][0].update(explainer="energy"), "rows must be those of toy_explainer@1"),
    "quota": (lambda whole: whole["quota"].update(number=9), "an author may be scored 5 times in 30 days, got 9"),
    "values of others": (lambda whole: whole.update(units_sha256="0" * 64), "units.parquet must be the file that the record names"),
    "hidden all at once": (lambda whole: whole.update(hidden=True), "units.parquet must not be published for a hidden split"),
    "unknown field": (lambda whole: whole.update(award="best"), "record.json must be a record that xaibench wrote"),
    "markup in a name": (lambda whole: whole["card"].update(authors=["<b>x</b>"]), "record.json must be a record that xaibench wrote"),
    "not a number": (lambda whole: whole["rows"][0].update(mean=float("nan")), "record.json must be a record that xaibench wrote"),
}


@pytest.mark.parametrize(("change", "words"), SPOILT.values(), ids=SPOILT.keys())
def test_what_is_wrong_with_a_record_is_said_even_if_it_is_signed(repository, change, words):
    with suppress(SubmissionError):  # it cannot even be signed
        edit(repository, change, resign=True)
    assert any(words in problem for problem in problems(repository)), problems(repository)


def test_a_table_that_is_no_table_is_a_finding_and_no_crash(repository):
    (repository / PLACE / "units.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    digest = hashlib.sha256((repository / PLACE / "units.parquet").read_bytes()).hexdigest()
    edit(repository, lambda whole: whole.update(units_sha256=digest), resign=True)
    assert problems(repository)[0].startswith("units.parquet must be a table of the harness, got ")


def test_stray_files_links_and_clashes_are_found(repository):
    (repository / PLACE / "notes.txt").write_text("x")
    assert "notes.txt" in problems(repository)[0]
    (repository / PLACE / "notes.txt").unlink()
    shutil.copytree(repository / PLACE, repository / "results/Toy_Explainer/1/toy")
    (repository / "results/link").symlink_to("/etc")
    found = problems_between(repository)
    assert any("names must be distinct whatever their case" in problem for problem in found)
    assert any("a package must be scored once" in problem for problem in found)
    assert any("got results/link" in problem for problem in found)


def test_the_validator_is_a_test_suite_that_passes_and_fails_with_the_records(repository, monkeypatch, capsys):
    monkeypatch.setitem(SUITES, "toy", SUITE)
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    arguments = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--pyargs",
        "xaibench.leaderboard.submission.results_suite",
        "-c",
        "/dev/null",
        "--xaibench-results",
        str(repository),
    ]
    assert pytest.main([*arguments, "--rootdir", str(repository)]) == 0
    edit(repository, better)
    assert pytest.main([*arguments, "--rootdir", str(repository)]) == 1
    assert "2 failed, 1 passed" in capsys.readouterr().out
    monkeypatch.delenv(KEY_VARIABLE)
    assert pytest.main([*arguments, "-rs", "--rootdir", str(repository)]) == 1
    assert "the HMAC cannot be checked here" in capsys.readouterr().out


def test_a_short_key_signs_nothing_and_without_one_there_is_no_record(run, packed, tmp_path, monkeypatch):
    for text in ("supersecret", "00" * 31, "zz" * 32):
        monkeypatch.setenv(KEY_VARIABLE, text)
        with pytest.raises(SubmissionError, match="at least 32 bytes in hexadecimal"):
            signing_key()
    monkeypatch.delenv(KEY_VARIABLE)
    with Package(packed) as package, pytest.raises(SubmissionError, match="must be set to sign a record"):
        sign(package, run.path, tmp_path, "octocat")


def test_a_package_cannot_take_another_runs_record_nor_be_recorded_twice(run, packed, finished, repository, tmp_path, monkeypatch):
    from xaibench.leaderboard.submission.pack import pack_run

    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    other = pack_run(finished, tmp_path, {"authors": ["B"], "licence": "CC0-1.0"})
    with Package(other) as package, pytest.raises(SubmissionError, match="run must be that of toy_explainer@1, got another package's"):
        sign(package, run.path, tmp_path / "new", "octocat")
    with Package(packed) as package, pytest.raises(SubmissionError, match="a submission must be new"):
        sign(package, run.path, repository, "octocat")


def test_the_quota_counts_the_days_before_and_forgets_older_ones(signed):
    record = read_record(signed / PLACE / "record.json")
    day = [record.model_copy(update={"scored_on": f"2026-03-{d:02d}"}) for d in (1, 2, 3, 4, 5)]
    with pytest.raises(SubmissionError, match="an author may be scored 5 times in 30 days, got OctoCat with 5; send again on 2026-03-31"):
        next_quota(day, "OctoCat", date(2026, 3, 20))
    assert next_quota(day, "octocat", date(2026, 3, 31)).number == 5
    assert next_quota(day, "somebody", date(2026, 3, 20)) == Quota(author="somebody", number=1, limit=5, days=30)


def row(**values) -> SummaryRow:
    base = {name: None for name in SummaryRow.model_fields}
    texts = dict.fromkeys(
        ("task", "detector", "explainer", "title", "recipe", "polarity", "occluder", "metric", "slice", "interval_by", "note"), "x"
    )
    numbers = dict.fromkeys(("n", "n_total", "n_undefined", "n_failed", "clusters_utterance", "clusters_speaker"), 1)
    return SummaryRow(**{**base, **texts, **numbers, "control": False, "oracle": False, **values})


def test_values_of_a_hidden_split_are_rounded_to_their_interval_and_none_is_shown_without_one():
    shown = rounded(row(mean=0.354321, low=0.321987, high=0.387654, utterance_low=0.3333, utterance_high=0.3777))
    assert (shown.mean, shown.low, shown.high, shown.utterance_low) == (0.35, 0.32, 0.39, 0.33)
    assert rounded(row(mean=0.354321)).mean is None
    assert resolution(0.30, 0.50) == pytest.approx(0.1)
    assert resolution(0.3, 0.3004) == pytest.approx(1e-4)
    assert resolution(0.3, 0.3) == 0.01


def test_a_hidden_record_keeps_values_of_single_clips_and_of_slices_back(run, packed):
    with Package(packed) as package:
        quota = Quota(author="a", number=1, limit=5, days=30)
        record = make_record(run, package.card, quota=quota, scored_on="2026-01-01", hidden=True, commitment="00")
    assert record.units_sha256 == ""
    assert {r.slice for r in record.rows} == {"all"}
    exact = {(r.metric, r.polarity, r.recipe): r for r in run.summary.rows if r.explainer == "toy_explainer@1" and r.slice == "all"}
    shown = next(r for r in record.rows if (r.metric, r.polarity) == ("generalized_dice", "declared"))
    true = exact["generalized_dice", "declared", shown.recipe]
    assert shown.mean != true.mean
    assert abs(shown.mean - true.mean) <= resolution(true.low, true.high) / 2 + 1e-12


def test_the_merkle_root_is_that_of_rfc_6962():
    """Known roots: RFC 6962 hashes of one, two and three leaves, written out."""

    def node(a, b):
        return hashlib.sha256(b"\x01" + a + b).digest()

    one, two, three, four, five = (hashlib.sha256(bytes([i])).digest() for i in range(5))
    assert merkle_root([one]) == one
    assert merkle_root([one, two, three]) == node(node(one, two), three)
    assert merkle_root([one, two, three, four, five]) == node(node(node(one, two), node(three, four)), five)
    assert merkle_root([one, two]) != merkle_root([two, one])


def test_masks_that_were_promised_verify_and_changed_ones_do_not(tmp_path):
    task = ToyTask()
    made, kept = commit(task)
    write_commitment(made, kept, tmp_path / "commitment.json", tmp_path / "reveal.json")
    assert (tmp_path / "reveal.json").stat().st_mode & 0o077 == 0
    promised, revealed = read_commitment(tmp_path / "commitment.json"), read_reveal(tmp_path / "reveal.json")
    verify(promised, revealed)
    verify(promised, revealed, task)
    assert commit(task)[0].root != made.root  # salted
    first = revealed.leaves[0]
    forged = revealed.model_copy(update={"leaves": (first.model_copy(update={"mask_sha256": "0" * 64}), *revealed.leaves[1:])})
    with pytest.raises(SubmissionError, match="the masks were changed"):
        verify(promised, forged)
    for leaves_ in (revealed.leaves[:-1], revealed.leaves[::-1], ()):
        with pytest.raises(SubmissionError, match="reveal must hold 12 masks"):
            verify(promised, revealed.model_copy(update={"leaves": leaves_}))
    with pytest.raises(DataMismatchError, match="masks of toy must be those revealed, got 1 others"):
        verify(promised, revealed, replace(task, identical="u00-alpha"))
    with pytest.raises(SubmissionError, match="commitment must be made once"):
        write_commitment(made, kept, tmp_path / "commitment.json", tmp_path / "other.json")


def test_masks_of_other_shape_and_equal_bits_have_other_hashes():
    import torch

    assert mask_digest(torch.ones(2, 8, dtype=torch.bool)) != mask_digest(torch.ones(4, 4, dtype=torch.bool))


def test_the_hidden_task_reads_its_variable_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.delenv("XAIBENCH_HIDDEN", raising=False)
    with pytest.raises(DataError, match="XAIBENCH_HIDDEN must name the folder"):
        TASKS.load("hidden").pairs("test")
    monkeypatch.setenv("XAIBENCH_HIDDEN", str(tmp_path))
    with pytest.raises(DataError, match="XAIBENCH_HIDDEN must name the folder of the hidden pairs, got '/elsewhere'"):
        TASKS.load("hidden", data="/elsewhere").pairs("test")


def test_a_hidden_split_needs_its_commitment_before_a_record(run, packed, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    with Package(packed) as package:
        card = package.card.model_copy(update={"task": package.card.task.model_copy(update={"name": "hidden"})})
        package.card = card
        with pytest.raises(SubmissionError, match="a hidden split must have a commitment before it is scored"):
            sign(package, run.path, tmp_path, "octocat")
        made, kept = commit(replace_name(ToyTask()))
        write_commitment(made, kept, tmp_path / "commitment.json", tmp_path / "reveal.json")
        folder = sign(package, run.path, tmp_path / "repository", "octocat", commitment=tmp_path / "commitment.json")
    record = read_record(folder / "record.json")
    assert record.hidden
    assert record.commitment == made.root
    assert sorted(p.name for p in folder.iterdir()) == ["record.json", "submission.toml"]


def replace_name(task):
    @dataclass(frozen=True)
    class Hidden(type(task)):
        name = "hidden"

    return Hidden()


def git(root, *arguments):
    environment = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    root = tmp_path / "clone"
    root.mkdir()
    git(root, "init", "--quiet", "-b", "main")
    for key, value in (("user.name", "T"), ("user.email", "t@example.org"), ("commit.gpgsign", "false")):
        git(root, "config", key, value)
    (root / "README.md").write_text("results\n")
    git(root, "add", "README.md")
    git(root, "commit", "--quiet", "-m", "start")
    return root


def test_a_branch_with_the_package_and_nothing_else_is_prepared(packed, clone):
    branch = prepare_branch(packed, clone)
    assert branch == git(clone, "rev-parse", "--abbrev-ref", "HEAD") == "submission/toy_explainer-1"
    assert git(clone, "diff", "--name-only", "main") == "submissions/toy_explainer-1.xaib.zip"
    git(clone, "checkout", "--quiet", "main")
    with pytest.raises(SubmissionError, match="submission must be new"):
        prepare_branch(packed, clone)


@pytest.mark.parametrize("failing", ["add", "commit"])
def test_a_failure_leaves_the_clone_as_it_was(packed, clone, monkeypatch, failing):
    before = (git(clone, "rev-parse", "HEAD"), git(clone, "branch", "--list"), sorted(p.name for p in clone.iterdir()))
    real = repo._git

    def fails(root, *arguments):
        if arguments[0] == failing:
            raise SubmissionError("git is out of order, got nothing; wait")
        return real(root, *arguments)

    monkeypatch.setattr(repo, "_git", fails)
    with pytest.raises(SubmissionError, match="out of order"):
        prepare_branch(packed, clone)
    monkeypatch.undo()
    left = sorted(p.name for p in clone.iterdir() if p.name != "submissions" or any(p.iterdir()))
    assert (git(clone, "rev-parse", "HEAD"), git(clone, "branch", "--list"), left) == before
    assert git(clone, "status", "--porcelain") == ""


def test_a_clone_with_changes_is_not_touched(packed, clone):
    (clone / "README.md").write_text("mine\n")
    with pytest.raises(SubmissionError, match="clone must be clean"):
        prepare_branch(packed, clone)
    assert (clone / "README.md").read_text() == "mine\n"
