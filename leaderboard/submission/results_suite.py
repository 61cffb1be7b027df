"""The validator of a repository of results, as tests: ``pytest --pyargs xaibench.leaderboard.submission.results_suite``.

Give the repository with ``--xaibench-results DIR`` (default: the working directory), and the key, where there is one, in
``XAIBENCH_SIGNING_KEY``: without it, as in a pull request from a fork, the test of the signatures is skipped and says so.
"""

from pathlib import Path

import pytest

from xaibench.leaderboard.submission.record import RECORD, read_record, signing_key
from xaibench.leaderboard.submission.repository import problems_between, problems_of, record_folders


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each record."""
    if "record_folder" in metafunc.fixturenames:
        folders = record_folders(_repository(metafunc.config))
        metafunc.parametrize("record_folder", folders, ids=["-".join(path.parts[-3:]) for path in folders])


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> Path:
    """Return the repository."""
    return _repository(request.config)


def _repository(config: pytest.Config) -> Path:
    return Path(config.getoption("--xaibench-results")).resolve()


def test_records_are_distinct_and_in_their_places(repository: Path) -> None:
    """No clash of names, no package twice, nothing out of place, no quota overrun."""
    assert problems_between(repository) == []


def test_record_is_what_its_values_give(record_folder: Path) -> None:
    """Shape, place, card, hashes, and every mean made again from the values of single clips."""
    assert problems_of(record_folder) == []


def test_record_is_signed(record_folder: Path) -> None:
    """The HMAC over everything that is shown."""
    key = signing_key()
    if key is None:
        pytest.skip("XAIBENCH_SIGNING_KEY is not set: the HMAC cannot be checked here")
    assert read_record(record_folder / RECORD).is_genuine(key)
