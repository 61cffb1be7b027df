"""A package of 500 clips is checked and scored within 60 s on two processors, once the controls of the task are known."""

import time
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from xaibench.benchmark.suite import SUITES
from xaibench.leaderboard.submission.archive import INDEX
from xaibench.leaderboard.submission.card import Card, Subject
from xaibench.leaderboard.submission.index import Entry, write_index
from xaibench.leaderboard.submission.npy import dump
from xaibench.leaderboard.submission.pack import write_package
from xaibench.leaderboard.submission.package import Package
from xaibench.leaderboard.submission.scoring import Setting, check, score
from xaibench.registry import DETECTORS, TASKS

FEW, MANY, ASKED = 8, 32, 500


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_hundred_clips_fit_into_a_minute_of_two_processors(tmp_path):
    """By processor time, which a busy machine does not change: what each further clip costs, and what all of them share."""
    suite = replace(SUITES["xaibench-v1"], name="speed", controls=("random", "constant"))
    place = Setting(TASKS.load("minivoc"), DETECTORS.load("spectrogram_cnn").eval(), suite)
    generator, files, entries = np.random.default_rng(0), {}, []
    for pair in place.task.pairs("test")[:MANY]:
        content = dump(generator.standard_normal(place.shape).astype(np.float32))
        digest = sha256(content).hexdigest()
        files[f"heatmaps/{digest}.npy"] = content
        entries.append(Entry(id=pair.id, sha256=digest))
    subjects = {
        name: Subject(name=it.name, fingerprint=it.fingerprint()) for name, it in (("task", place.task), ("detector", place.detector))
    }
    card = Card(name="noise", version="1", suite="speed", authors=("A",), licence="CC0-1.0", **subjects)
    spent = {}
    with Package(write_package(tmp_path, card, {INDEX: write_index(entries), **files})) as package:
        for limit in (FEW, MANY):
            for attempt in ("with controls", "again"):
                start = time.process_time()
                check(package, place)
                score(package, place, tmp_path / f"{attempt}-{limit}", limit=limit, jobs=1)
                spent[limit] = time.process_time() - start
    each = (spent[MANY] - spent[FEW]) / (MANY - FEW)
    assert spent[FEW] + (ASKED - FEW) * each / 2 < 60, spent
