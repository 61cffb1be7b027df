"""The verbs of the command line, with their exit codes."""

import contextlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from xaibench.cli import main


def xaibench(*arguments, cwd):
    """Give a command in this process; what it ends with and says."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["xaibench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return SimpleNamespace(returncode=int(ended.value.code or 0), stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A package of code, made as a stranger makes it."""
    folder = tmp_path_factory.mktemp("stranger")
    made = xaibench("new", "explainer", "gradient_view", cwd=folder)
    assert made.returncode == 0, made.stderr
    packed = xaibench("submit", "pack", "gradient_view", cwd=folder)
    assert packed.returncode == 0, packed.stderr
    return folder / packed.stdout.strip()


def test_code_is_not_scored_as_heatmaps(code, tmp_path):
    assert code.name == "gradient_view-1.0.xaib.zip"
    scored = xaibench("submit", "score", code, cwd=tmp_path)
    assert scored.returncode == 6
    assert "use `xaibench submit run`" in " ".join(scored.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_refused_package_ends_with_code_six_and_one_printable_sentence(tmp_path):
    (tmp_path / "bad\x1b.zip").write_bytes(b"PK" + bytes(100))
    ended = xaibench("submit", "check", "bad\x1b.zip", cwd=tmp_path)
    assert ended.returncode == 6
    assert "\x1b" not in ended.stderr
    assert ended.stderr.startswith("error: package must be")


def test_level_two_is_refused_with_code_seven_unless_somebody_vouches(code, tmp_path):
    ended = xaibench("submit", "run", code, "--isolation", "2", cwd=tmp_path)
    assert ended.returncode == 7
    assert "--i-trust-this-code" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_heatmaps_of_another_task_end_with_code_eight(finished, tmp_path):
    from xaibench.leaderboard.submission.pack import pack_run

    facts = {"authors": ["A"], "licence": "CC0-1.0", "suite": "xaibench-v1"}
    ended = xaibench("submit", "check", pack_run(finished, tmp_path, facts), "--task", "minivoc", cwd=tmp_path)
    assert ended.returncode == 8
    assert "task must be the minivoc that was explained" in " ".join(ended.stderr.split())


@pytest.mark.slow
def test_both_tracks_run_on_the_embedded_task_from_the_command_line(code, tmp_path):
    """From a scaffold to the page, through the sandbox; then the same run packed as heatmaps, checked and scored."""
    ran = xaibench("submit", "run", code, "--limit", 4, "--i-trust-this-code", "--out", "ran", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "C · code" in (tmp_path / "ran/report/index.html").read_text()
    packed = xaibench("submit", "pack", "ran", "--author", "A. Author", "--licence", "CC0-1.0", "--out", "heatmaps", cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr
    package = Path(packed.stdout.strip())
    scored = xaibench("submit", "score", package, "--limit", 4, "--out", "scored", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert "B · heatmaps" in (tmp_path / "scored/report/index.html").read_text()
