"""MLflow as a witness of training: the parameters once, the loss and the dev scores as they come."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from xaibench.errors import MissingExtraError
from xaibench.explainers.segdiff.training import Report


@contextmanager
def tracked(name: str, parameters: Mapping[str, Any]) -> Iterator[Report]:
    """Yield a report that logs losses and scores as a run of MLflow, which says itself where (``MLFLOW_TRACKING_URI``, else ``./mlruns``).

    Args:
        name: Name of the run.
        parameters: What was asked for.

    Raises:
        MissingExtraError: If mlflow is not installed.
    """
    try:
        import mlflow
    except ImportError as error:
        raise MissingExtraError("--mlflow needs mlflow, which is not installed; run `pip install 'xaibench[mlflow]'`") from error
    with mlflow.start_run(run_name=name):
        mlflow.log_params(dict(parameters))

        def report(record: dict[str, Any]) -> None:
            found = {"loss": record["loss"], **{f"dev/{name}": score for name, score in record.get("dev", {}).items()}}
            mlflow.log_metrics({name: float(value) for name, value in found.items() if value is not None}, step=int(record["step"]))

        yield report
