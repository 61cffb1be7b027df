"""Streaming: batches add up to the whole, and undefined clips are counted."""

import pytest
import torch

from xaibench.benchmark.metrics.localization import dice
from xaibench.benchmark.metrics.streaming import Streaming, as_torchmetrics


@pytest.fixture
def clips():
    torch.manual_seed(0)
    mask = torch.rand(6, 20, 20) < 0.1
    mask[2] = False
    return torch.randn(6, 20, 20), mask


def test_batches_add_up_and_undefined_clips_are_counted(clips):
    heatmap, mask = clips
    metric = Streaming("dice")
    expected = dice(heatmap, mask)
    assert metric(heatmap[:2], mask[:2]) == pytest.approx(float(expected[:2].mean()))
    metric.update(heatmap[2:], mask[2:])
    assert metric.compute() == pytest.approx(float(expected.nanmean()))
    assert (metric.count, metric.undefined) == (5, 1)
    assert metric.higher_is_better
    metric.reset()
    assert metric.compute().isnan()


def test_the_torchmetrics_adapter_works_in_a_collection(clips):
    torchmetrics = pytest.importorskip("torchmetrics", reason="needs the extra: pip install xaibench[xcheck]")
    collection = torchmetrics.MetricCollection({"dice": as_torchmetrics("dice"), "pg": as_torchmetrics("pointing_game:tolerance_bins=3")})
    collection.update(*clips)
    found = collection.compute()
    assert found["dice"] == pytest.approx(float(dice(*clips).nanmean()))
    assert set(found) == {"dice", "pg"}
    assert collection["dice"].undefined == 1
