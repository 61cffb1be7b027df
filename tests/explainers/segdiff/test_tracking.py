"""Training tells MLflow what it tells everybody, through the three calls that its interface has had since version 1."""

import sys
from contextlib import contextmanager
from types import ModuleType

import pytest
from typer.testing import CliRunner

from xaibench.cli import app
from xaibench.errors import MissingExtraError
from xaibench.explainers.segdiff.tracking import tracked


@pytest.fixture
def calls(monkeypatch):
    """Stand in for mlflow and note what it is told."""
    told, module = [], ModuleType("mlflow")

    @contextmanager
    def start_run(run_name=None):
        told.append(("start", run_name))
        yield
        told.append(("end", run_name))

    module.start_run = start_run
    module.log_params = lambda params: told.append(("params", params))
    module.log_metrics = lambda metrics, step=None: told.append(("metrics", step, metrics))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return told


def test_parameters_losses_and_scores_are_logged_in_one_run(calls):
    with tracked("one_shot", {"steps": 2}) as report:
        report({"step": 1, "loss": 0.5})
        report({"step": 2, "loss": 0.25, "dev": {"mean": 30.0, "unseen": None}})
    assert calls == [
        ("start", "one_shot"),
        ("params", {"steps": 2}),
        ("metrics", 1, {"loss": 0.5}),
        ("metrics", 2, {"loss": 0.25, "dev/mean": 30.0}),
        ("end", "one_shot"),
    ]


def test_the_command_reports_to_it(calls, tmp_path, monkeypatch):
    from xaibench.explainers.segdiff import job

    def pretend(task, training, *, report, **_):
        report({"step": training.steps, "loss": 1.0})
        return {}

    monkeypatch.setattr(job, "train_explainer", pretend)
    options = ["train", "one_shot", "--steps", "3", "--config", "tiny", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, options, catch_exceptions=False).exit_code == 0
    assert calls == []
    assert CliRunner().invoke(app, [*options, "--mlflow"], catch_exceptions=False).exit_code == 0
    assert [call[0] for call in calls] == ["start", "params", "metrics", "end"]
    assert calls[1][1]["steps"] == 3
    assert calls[2] == ("metrics", 3, {"loss": 1.0})


def test_without_it_the_command_to_install_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'xaibench\[mlflow\]'"), tracked("one_shot", {}):
        pass
