import errno
import os

import pytest

from xaibench.errors import DataError
from xaibench.tasks import cache


def test_data_dir_is_none_unless_named_and_refuses_what_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XAIBENCH_DATA", raising=False)
    assert cache.data_dir() is None
    monkeypatch.setenv("XAIBENCH_DATA", str(tmp_path))
    assert cache.data_dir() == tmp_path
    monkeypatch.setenv("XAIBENCH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"XAIBENCH_DATA must name a folder, got .*nowhere"):
        cache.data_dir()


def test_cache_dir_follows_the_variable_and_falls_back_to_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "c"))
    assert cache.cache_dir() == tmp_path / "c"
    monkeypatch.delenv("XAIBENCH_CACHE")
    assert cache.cache_dir().name == "xaibench"


def test_atomic_write_makes_parents_replaces_whole_files_and_keeps_the_users_mode(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    cache.atomic_write(path, b"old")
    cache.atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, code):
    path = tmp_path / "file.bin"
    cache.atomic_write(path, b"old")

    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=f"file.bin must be writable, got {os.strerror(code)}") as caught:
        cache.atomic_write(path, b"new")
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_parent_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"must be writable, got .*; free space, or choose another folder"):
        cache.atomic_write(tmp_path / "file" / "below", b"x")


def test_a_block_that_fails_leaves_nothing(tmp_path):
    def interrupted() -> None:
        with cache.atomic_path(tmp_path / "x.flac") as part:
            assert part.suffix == ".flac"
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
