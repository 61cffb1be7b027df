"""The run that vouches for an explainer: finished, newest, of the same detector first."""

import json
import os
from pathlib import Path

from xaibench.leaderboard.standing import newest_run


def make(folder: Path, name: str, explainer: str, detector: str, age: int, *, done: bool = True) -> Path:
    run = folder / name
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"rows": [{"explainer": explainer, "detector": detector}]}), encoding="utf-8")
    if done:
        (run / "DONE").write_text("x", encoding="utf-8")
        os.utime(run / "DONE", (age, age))
    return run


def test_the_same_detector_comes_before_a_newer_run_of_another(tmp_path: Path) -> None:
    assert newest_run("energy", "cnn", tmp_path) is None
    make(tmp_path, "old", "energy", "cnn", 10)
    right = make(tmp_path, "new", "energy", "cnn", 20)
    make(tmp_path, "newer", "energy", "aasist", 30)
    make(tmp_path, "open", "energy", "cnn", 40, done=False)
    make(tmp_path, "other", "edge", "cnn", 50)
    (make(tmp_path, "torn", "energy", "cnn", 60) / "summary.json").write_text("{", encoding="utf-8")
    assert newest_run("energy", "cnn", tmp_path) == right
    assert newest_run("energy", "raw", tmp_path) == tmp_path / "newer"
    assert newest_run("saliency", "cnn", tmp_path) is None
