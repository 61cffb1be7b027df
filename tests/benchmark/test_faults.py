"""What the machine may do to a run: kill it at any moment, fill its disk, forbid writing, turn its clock. Nothing finished is lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from toys import Toy, ToyTask, toy_run

from xaibench.benchmark.journal import Journal
from xaibench.errors import RunError

BYTES = ("units.parquet", "curves.parquet", "summary.json")
TASK = ToyTask(utterances=2)


def contents(path):
    return {name: (path / name).read_bytes() for name in BYTES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return contents(toy_run(tmp_path_factory.mktemp("whole") / "run", Toy(), task=TASK).path)


def kill_at_random(folder, seed):
    """Start a run in a process of its own and kill the whole group at a random moment after its journal appears."""
    body = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom toys import *\nfrom pathlib import Path\n"
        f"toy_run(Path({str(folder)!r}), Toy(pause_s=0.02), task=ToyTask(utterances=2), jobs=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", body], start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "journal.sqlite").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 2.5))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def killed_and_resumed(folder, seed, whole):
    kill_at_random(folder, seed)
    assert contents(toy_run(folder, Toy(), task=TASK).path) == whole
    with Journal(folder / "journal.sqlite", read_only=True) as journal:
        assert journal.damage() == []


@pytest.mark.parametrize("seed", range(5))
def test_sigkill_at_a_random_moment(tmp_path, whole, seed):
    killed_and_resumed(tmp_path / "run", seed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 35))
def test_sigkill_at_many_random_moments(tmp_path, whole, seed):
    killed_and_resumed(tmp_path / "run", seed, whole)


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte in memory; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    made = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
        if (sys.platform.startswith("linux") and shutil.which("mount"))
        else None
    )
    if made is None or made.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {made.stderr.strip() if made else 'no mount'}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def remount(place, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True, capture_output=True)


def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on_with_more_room(disk, whole):
    with pytest.raises(RunError, match="free some space"):
        toy_run(disk / "run", Toy(), task=TASK)
    remount(disk, "size=64m")
    assert contents(toy_run(disk / "run", Toy(), task=TASK).path) == whole


def test_a_folder_that_cannot_be_written_is_told_and_left_alone(disk, whole):
    remount(disk, "size=64m")
    toy_run(disk / "run", Toy(), task=TASK)
    remount(disk, "ro")
    with pytest.raises(RunError, match=r"must be a folder that can be written|must be a file that can be read and written"):
        toy_run(disk / "run", Toy(), task=TASK)
    with pytest.raises(RunError, match="must be a folder that can be written"):
        toy_run(disk / "new", Toy(), task=TASK)
    assert contents(disk / "run") == whole


@pytest.mark.parametrize("jobs", [1, 2])
def test_garbage_on_the_standard_streams_reaches_no_result(tmp_path, whole, jobs, capfd):
    class Babbling(Toy):
        name = "toy_explainer"

        def explain(self, waveform, detector, *, references=None, generator=None):
            os.write(1, b"\x00\xff\x1b[2J\r\n" * 200)
            os.write(2, b'{"event": "end"}\n')
            return super().explain(waveform, detector, generator=generator)

    run = toy_run(tmp_path / "run", Babbling(), task=TASK, jobs=jobs)
    values = [column for column in run.frame.columns if column != "key"]
    other = toy_run(tmp_path / "quiet", Toy(), task=TASK)
    assert run.frame[values].equals(other.frame[values])
    if jobs == 2:
        assert capfd.readouterr().out == ""


def test_a_clock_that_jumps_changes_no_result(tmp_path, whole, monkeypatch):
    from xaibench.benchmark import observe

    ticks = iter(range(10**6))

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2031, 1, 1, tzinfo=UTC) - timedelta(days=400 * (next(ticks) % 7))

    monkeypatch.setattr(observe, "datetime", Jumping)
    monkeypatch.setattr(time, "time", lambda: 1e9 * (next(ticks) % 3))
    for name in ("journal", "again"):  # a second start, with a clock before the first one's
        run = toy_run(tmp_path / "run", Toy(), task=TASK, jobs=2, timeout_s=60)
        assert contents(run.path) == whole, name
    assert run.timings.started_at.str.startswith("2031").any() or run.timings.started_at.str[:4].nunique() > 1
    assert (run.timings.seconds >= 0).all()
