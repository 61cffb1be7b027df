"""Fixtures of the whole suite: where the real recordings and published checkpoints lie, and one thread for equal bits."""

import json
import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]


def _shared(folder: str, variable: str) -> Path:
    """Return a folder beside the checkout; skip with the reason where it is missing, fail where continuous integration should have it."""
    path = Path(os.environ.get(variable) or ROOT.parent / "shared" / folder)
    if not path.is_dir():
        reason = f"{path} is missing: set {variable} to run this test"
        if os.environ.get("CI") == "true" and (ROOT.parent / "shared").is_dir():
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings with real vocoded twins."""
    return _shared("data", "XAIBENCH_DATA")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Published AASIST checkpoints."""
    return _shared("weights", "XAIBENCH_WEIGHTS")


@pytest.fixture(scope="session")
def published():
    """File names of the corpora, those that were read somewhere first and what completes them behind."""
    return _joined(json.loads((ROOT / "tests/tasks/corpora/published.json").read_text()))


def _joined(node):
    if not isinstance(node, dict):
        return node
    if node.keys() == {"published", "completed"}:
        return node["published"] + node["completed"]
    return {key: _joined(value) for key, value in node.items() if key not in ("", "sources")}


@pytest.fixture(autouse=True)
def _isolated_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's cache."""
    if "XAIBENCH_TEST_CACHE" not in os.environ:
        monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
