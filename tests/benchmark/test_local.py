"""Workers may die, hang or shout at any moment: one record per item comes back all the same."""

import errno
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time

import pytest

from xaibench.benchmark.executors import local
from xaibench.benchmark.executors.contract import Chunk, Work, WorkerDied
from xaibench.benchmark.executors.local import Local
from xaibench.benchmark.observe import time_limit
from xaibench.errors import RunError


def records(run, items, **options):
    """Do the items, one chunk each and two workers; a lost item comes back as its exception."""
    work = Work(run, lambda chunk, item, error: (item, error), **options)
    return dict(Local(2).execute(work, [Chunk(None, (item,)) for item in items], lambda: False))


def parent_pipe():
    """File descriptor of the pipe to the parent: the only socket of a worker's own."""
    import multiprocessing.connection as connection

    found = [value for frame in _frames() for value in frame.f_locals.values() if isinstance(value, connection.Connection)]
    return next(c.fileno() for c in found if not c.closed)


def _frames():
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "_serve":
            yield frame
        frame = frame.f_back


@pytest.mark.parametrize("torn", [struct.pack("!i", 1000) + b"half a mess", struct.pack("!i", 8) + b"no pickl"])
def test_a_worker_that_dies_in_the_middle_of_a_message_is_buried(torn):
    def run(chunk):
        for item in chunk.items:
            if item == "bad":
                os.write(parent_pipe(), torn)
                os.kill(os.getpid(), signal.SIGKILL)
            yield item, "fine"

    found = records(run, ["a", "bad", "b", "c"])
    error = found.pop("bad")
    assert isinstance(error, WorkerDied)
    assert "ended by SIGKILL" in str(error)
    assert found == dict.fromkeys("abc", "fine")


def test_a_worker_that_cannot_be_interrupted_is_ended(monkeypatch):
    monkeypatch.setattr(local, "GRACE_S", 0.3)
    monkeypatch.setattr(local, "LOADING_S", 0.0)

    def run(chunk):
        for item in chunk.items:
            while item == "bad":
                try:
                    with time_limit(0.1):
                        time.sleep(60)
                except TimeoutError:
                    continue
            yield item, "fine"

    start = time.monotonic()
    found = records(run, ["a", "bad", "b"], limit_s=0.1)
    error = found.pop("bad")
    assert isinstance(error, TimeoutError)
    assert str(error) == "took longer than 0.1 s and could not be interrupted; its worker was ended"
    assert set(found) == {"a", "b"}
    assert time.monotonic() - start < 30


def test_a_swallowed_timeout_is_raised_at_the_end_of_the_block():
    def swallow():
        try:
            time.sleep(5)
        except TimeoutError:
            return

    with pytest.raises(TimeoutError, match=r"took longer than 0\.05 s"), time_limit(0.05):
        swallow()


def test_what_workers_print_goes_to_the_log(tmp_path, capfd):
    def run(chunk):
        for item in chunk.items:
            sys.stdout.write(f"python says {item}\x1b[2J\n")
            subprocess.run(["echo", f"shell says {item}"], check=True)
            yield item, "fine"

    assert set(records(run, ["a", "b"], log=tmp_path / "log")) == {"a", "b"}
    assert capfd.readouterr() == ("", "")
    text = (tmp_path / "log").read_text()
    assert all(f"{who} says {item}" in text for who in ("python", "shell") for item in "ab")


@pytest.mark.parametrize("room", [0, 1])
def test_a_machine_without_room_for_workers_uses_fewer(monkeypatch, room):
    start, started = multiprocessing.context.ForkProcess.start, []

    def crowded(self):
        if len(started) == room:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        started.append(self)
        start(self)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", crowded)

    def run(chunk):
        yield from ((item, "fine") for item in chunk.items)

    if room:
        assert records(run, ["a", "b", "c"]) == dict.fromkeys("abc", "fine")
    else:
        with pytest.raises(RunError, match="jobs must fit into memory, got no worker process: Cannot allocate memory; use fewer"):
            records(run, ["a", "b"])
