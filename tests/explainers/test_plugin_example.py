"""A third party's package is installed, found by its entry point, keeps the contract and is on the board, without an edit of ours."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from xaibench.benchmark.results import Results
from xaibench.registry import EXPLAINERS

SOURCE = Path(__file__).resolve().parents[1] / "plugin_example"


@pytest.fixture(scope="module", name="installed")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package into a folder of its own, offline."""
    builder = version("setuptools")
    if int(builder.split(".")[0]) < 77:
        pytest.skip(f"setuptools must be at least 77 to build the example offline, got {builder}; pip install -e .[dev]")
    home = tmp_path_factory.mktemp("plugin")
    source = home / "source"
    source.mkdir()
    for file in SOURCE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())  # the build leaves its folders there
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(home / "site")]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return home


def python(installed: Path, script: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed / "site"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, cwd=installed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CLI = "from xaibench.cli import main; main()"
RUN = """
import xaibench
xaibench.run(["loudest_frame", "loudest_frame:power=1"], ["minivoc"], limit=1, jobs=1, faithfulness=False, out="board")
"""


def test_the_plugin_is_listed_and_keeps_the_contract(installed: Path):
    assert "loudest_frame" in python(installed, CLI, "list", "explainers")
    assert "loudest_frame" not in EXPLAINERS.names()
    python(installed, CLI, "check", "loudest_frame")


def test_the_plugin_is_on_the_board(installed: Path):
    python(installed, RUN)
    frame = Results.read(installed / "board").frame
    scores = frame[(frame.metric == "generalized_dice") & (frame.polarity == "declared")].groupby("explainer").value.mean()
    assert 0 < scores["loudest_frame"] < 1
    assert 0 < scores["loudest_frame:power=1.0"] < 1
