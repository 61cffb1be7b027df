"""What lies in files is what was put there, in the order that memory would give; and a run of many units needs the memory of few."""

import os
import random
import subprocess
import sys

import pytest
from toys import Toy, ToyTask, toy_run

from xaibench.benchmark import results, spool
from xaibench.benchmark.plan import Keys
from xaibench.benchmark.spool import Spool, merged
from xaibench.errors import RunError
from xaibench.types import content_hash


def test_a_spool_is_a_list():
    items = [{"a": i, "b": "x" * (i % 7)} for i in range(100)]
    found = Spool(items)
    assert (list(found), len(found), found[3], found[-1], found[10:13]) == (items, 100, items[3], items[-1], tuple(items[10:13]))
    assert found == items
    assert found != items[1:]
    with pytest.raises(IndexError):
        found[100]
    pairs = [(a["a"], b["a"]) for a in found for b in found if a["a"] < 3 > b["a"]]  # read from two places at once
    assert pairs == [(a, b) for a in range(3) for b in range(3)]


def test_a_spool_leaves_nothing_behind_and_is_read_by_forks(tmp_path, monkeypatch):
    monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))
    made = Spool(range(1000))
    assert list(tmp_path.iterdir()) == []
    child = os.fork()
    if child == 0:
        os._exit(0 if sum(made) == sum(range(1000)) else 1)
    assert sum(made) == sum(range(1000))
    assert os.waitpid(child, 0)[1] == 0
    handle = made._handle
    del made
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_no_room_for_a_spool_is_one_sentence(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match="folder for temporary files must have room"):
        Spool([1])


@pytest.mark.parametrize("count", [0, 1, 4, 5, 23])
def test_rows_are_sorted_as_in_memory_equal_ones_in_their_order(monkeypatch, count):
    monkeypatch.setattr(spool, "ROWS", 5)
    monkeypatch.setattr(spool, "BLOCK", 2)
    rows = [(random.Random(i).randrange(4), i) for i in range(count)]
    assert list(merged(iter(rows), key=lambda row: row[0])) == sorted(rows, key=lambda row: row[0])


def test_keys_are_those_of_a_sorted_list():
    names = [content_hash(i) for i in range(50)]
    keys = Keys(names)
    assert list(keys) == sorted(names)
    assert all(name in keys for name in names)
    assert not any(content_hash(i) in keys for i in range(50, 80))
    assert content_hash(0) not in Keys([])


def test_the_plan_is_named_by_the_hash_of_its_whole(tmp_path, monkeypatch):
    from xaibench.benchmark import run

    plans = []
    monkeypatch.setattr(run, "describe", lambda world, plan, *_: plans.append(plan) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        toy_run(tmp_path / "run", Toy())
    (plan,) = plans
    keys = sorted(unit.key for units in plan.units for unit in units)
    recipes = {task: sorted(names) for task, names in plan.recipes.items()}
    assert plan.id == content_hash({"units": keys, "recipes": recipes, "tier": plan.tier, "suite": plan.suite_hash})


def test_tables_written_in_many_groups_hold_the_same_rows(tmp_path, monkeypatch):
    task = ToyTask(utterances=2)
    whole = toy_run(tmp_path / "whole", Toy(), Toy(fault="raises"), task=task)
    monkeypatch.setattr(results, "BATCH", 7)
    monkeypatch.setattr(results, "GROUP", 50)
    monkeypatch.setattr(spool, "ROWS", 64)
    monkeypatch.setattr(spool, "BLOCK", 8)
    parts = toy_run(tmp_path / "parts", Toy(), Toy(fault="raises"), task=task)
    assert parts.frame.equals(whole.frame)
    assert parts.curves.equals(whole.curves)
    assert (parts.path / "summary.json").read_bytes() == (whole.path / "summary.json").read_bytes()
    import pyarrow.parquet

    groups = pyarrow.parquet.ParquetFile(parts.path / "units.parquet").num_row_groups
    assert groups > 5
    assert not list(parts.path.glob(".*.part"))


GROWTH = """
from xaibench.benchmark import results, spool
from xaibench.benchmark.bench_harness import measure
spool.ROWS = results.BATCH = 256  # both runs have more rows than stay in memory
results.GROUP = 1024
few, many = measure(600), measure(3000)
print(many.growth_mb, many.peak_mb - few.peak_mb)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_units():
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    growth, more = map(float, done.stdout.split())
    assert growth < 4
    assert more < 12
