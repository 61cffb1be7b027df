"""The contract suite as a pytest plugin: third parties test their explainers and detectors with one line.

    def test_mine_keeps_the_contract(assert_explainer):
        assert_explainer("my_explainer")            # a registered name, NAME:option=value, or an instance

A test with an argument ``any_explainer`` or ``any_detector`` runs once for each registered name, third-party plugins included.
"""

from collections.abc import Callable
from typing import Any

import pytest

Check = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the validator of results (see ``xaibench.leaderboard.submission.results_suite``)."""
    parser.addoption("--xaibench-results", default=".", help="repository of results to validate (default: the working directory)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that ask for ``any_explainer`` or ``any_detector`` over all registered names."""
    from xaibench.registry import DETECTORS, EXPLAINERS

    for argument, registry in (("any_explainer", EXPLAINERS), ("any_detector", DETECTORS)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, registry.names())


@pytest.fixture(scope="session")
def assert_explainer() -> Check:
    """Return a function that fails the test with every broken rule of an explainer."""
    from xaibench.benchmark.check import check_explainer, require
    from xaibench.registry import EXPLAINERS

    def check(explainer: Any, detector: Any = None, **options: Any) -> None:
        explainer = EXPLAINERS.load(explainer) if isinstance(explainer, str) else explainer
        require(check_explainer(explainer, _detector(detector), **options), explainer.name)

    return check


@pytest.fixture(scope="session")
def assert_detector() -> Check:
    """Return a function that fails the test with every broken rule of a detector."""
    from xaibench.benchmark.check import check_detector, require

    def check(detector: Any, **options: Any) -> None:
        loaded = _detector(detector)
        require(check_detector(loaded, **options), loaded.name)

    return check


def _detector(detector: Any) -> Any:
    from xaibench.registry import DETECTORS

    return DETECTORS.load(detector) if isinstance(detector, str) else detector
