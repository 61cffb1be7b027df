"""Any registered metric as an accumulator with ``update``, ``compute`` and ``reset``, the way torchmetrics writes it.

``Streaming("dice")`` needs nothing but torch. ``as_torchmetrics("dice")`` returns a true ``torchmetrics.Metric`` for collections, loggers
and distributed training. Both average clips with a defined score and count the others in ``undefined``.
"""

from typing import Any

import torch
from torch import Tensor, nn

from xaibench.benchmark.metrics.info import Metric
from xaibench.errors import MissingExtraError
from xaibench.registry import METRICS

STATES = ("total", "count", "undefined")


class Streaming(nn.Module):
    """Mean of a metric over all clips seen since ``reset``.

    Args:
        metric: Registered name or spec, e.g. ``"pointing_game:tolerance_bins=2"``, or a metric.
    """

    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self, metric: str | Metric):
        super().__init__()
        self.metric: Metric = METRICS.load(metric) if isinstance(metric, str) else metric
        self.higher_is_better = self.metric.info.higher_is_better
        for state in STATES:
            self.register_buffer(state, torch.zeros((), dtype=torch.float64))

    def update(self, *args: Any, **kwargs: Any) -> Tensor:
        """Score a batch with the metric's own arguments, add it, and return the scores, (B,)."""
        scores: Tensor = torch.as_tensor(self.metric(*args, **kwargs))
        add(self, scores)
        return scores

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Add a batch and return its own mean; NaN where no clip has a score."""
        return self.update(*args, **kwargs).nanmean()

    def compute(self) -> Tensor:
        """Return the mean over all clips with a defined score; NaN without any."""
        return mean_of(self)

    def reset(self) -> None:
        """Forget all clips."""
        for state in STATES:
            getattr(self, state).zero_()


def add(accumulator: Any, scores: Tensor) -> None:
    """Add the scores of a batch to the states of an accumulator."""
    defined = torch.isfinite(scores)
    accumulator.total += scores[defined].sum().to(accumulator.total)
    accumulator.count += defined.sum().to(accumulator.count)
    accumulator.undefined += (~defined).sum().to(accumulator.undefined)


def mean_of(accumulator: Any) -> Tensor:
    """Return total over count, NaN where the count is 0."""
    mean: Tensor = accumulator.total / accumulator.count
    return mean


def as_torchmetrics(metric: str | Metric) -> Any:
    """Return the metric as a ``torchmetrics.Metric`` whose states are summed over processes.

    Raises:
        MissingExtraError: If torchmetrics is not installed.
    """
    try:
        import torchmetrics
    except ImportError as error:
        raise MissingExtraError(
            "torchmetrics is not installed; pip install xaibench[xcheck], or use Streaming, which needs only torch"
        ) from error
    chosen: Metric = METRICS.load(metric) if isinstance(metric, str) else metric

    class Adapter(torchmetrics.Metric):  # type: ignore[misc,unused-ignore]
        higher_is_better = chosen.info.higher_is_better
        is_differentiable = False
        full_state_update = False

        def __init__(self) -> None:
            super().__init__()
            for state in STATES:
                self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

        def update(self, *args: Any, **kwargs: Any) -> None:
            add(self, torch.as_tensor(chosen(*args, **kwargs)))

        def compute(self) -> Tensor:
            return mean_of(self)

    Adapter.__name__ = type(chosen).__name__
    return Adapter()
