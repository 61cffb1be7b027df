import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import soundfile

from xaibench.errors import AudioError
from xaibench.tasks import facts
from xaibench.tasks.audio import decoded_sha256, read_audio
from xaibench.tasks.facts import file_sha256, remember


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def forget(monkeypatch):
    monkeypatch.setattr(facts, "_memory", {})
    monkeypatch.setattr(facts, "_connections", {})


def test_a_fact_is_found_once_and_outlives_the_process(cache, monkeypatch):
    asked = []

    def find():
        asked.append(1)
        return [7, "why"]

    assert remember("kind-v1", "k", find) == remember("kind-v1", "k", find) == [7, "why"]
    forget(monkeypatch)
    assert remember("kind-v1", "k", find) == [7, "why"]
    assert len(asked) == 1
    remember("kind-v2", "k", find)
    assert len(asked) == 2


def test_a_reason_to_refuse_is_not_kept_as_a_fact(cache):
    with pytest.raises(ZeroDivisionError):
        remember("kind", "k", lambda: 1 / 0)
    assert remember("kind", "k", lambda: 3) == 3


def test_a_file_that_changed_is_hashed_again(cache, tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, [0.0, 0.25, 0.5], 16000)
    first = file_sha256(path)
    assert first == decoded_sha256(read_audio(path))
    forget(monkeypatch)
    monkeypatch.setattr(facts, "read_audio", lambda path: pytest.fail("read again"))
    assert file_sha256(path) == first
    monkeypatch.undo()
    soundfile.write(path, [0.0, 0.25, 0.75], 16000)
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) != first
    path.write_bytes(b"no audio")
    with pytest.raises(AudioError):
        file_sha256(path)


def test_without_a_cache_that_can_be_written_facts_last_as_long_as_the_process(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "file"))
    asked = []
    for _ in range(2):
        assert remember("kind", "k", lambda: asked.append(1) or 5) == 5
    assert len(asked) == 1


def _write_many(start):
    return [remember("kind", str(i), lambda i=i: i) for i in range(start, start + 50)]


def test_processes_write_beside_each_other(cache, monkeypatch):
    remember("kind", "before", lambda: 0)
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        list(pool.map(_write_many, [0, 25, 50, 75]))
    forget(monkeypatch)
    assert [remember("kind", str(i), lambda: None) for i in range(125)] == list(range(125))
