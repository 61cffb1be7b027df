"""A toy world for submissions: a finished run, and a package packed from it."""

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("toys", Path(__file__).parents[2] / "benchmark" / "toys.py")
if "toys" not in sys.modules:
    toys = importlib.util.module_from_spec(_spec)
    sys.modules["toys"] = toys
    _spec.loader.exec_module(toys)

from toys import SUITE, Toy, ToyDetector, ToyTask  # noqa: E402
from toys import toy_run as run_toys  # noqa: E402

FACTS = {"authors": ["A. Author"], "licence": "CC0-1.0"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run of the toy explainer; read only."""
    path = tmp_path_factory.mktemp("finished") / "run"
    run_toys(path, Toy())
    return path


@pytest.fixture(scope="session")
def packed(finished, tmp_path_factory):
    """The package of that run; read only."""
    from xaibench.leaderboard.submission.pack import pack_run

    return pack_run(finished, tmp_path_factory.mktemp("packed"), FACTS)


@pytest.fixture(scope="session")
def place():
    """What toy packages are judged on."""
    from xaibench.leaderboard.submission.scoring import Setting

    return Setting(ToyTask(), ToyDetector().eval(), SUITE)


@pytest.fixture
def scored(place, tmp_path, monkeypatch):
    """Score a package in the toy world."""
    from xaibench.leaderboard.submission.package import Package
    from xaibench.leaderboard.submission.scoring import score

    def run(path, out="scored", **options):
        with Package(path) as package:
            return score(package, place, tmp_path / out, jobs=1, **options)

    return run
