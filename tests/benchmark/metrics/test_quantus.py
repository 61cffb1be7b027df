"""Quantus as an oracle where it is right: maps without ties and without negative cells, masks that are not empty."""

import numpy as np
import pytest
import torch

from xaibench.benchmark.metrics import localization

quantus = pytest.importorskip("quantus", reason="Quantus is not installed; pip install 'xaibench[quantus]'")
PAIRS = {"PointingGame": "pointing_game", "RelevanceMassAccuracy": "relevance_mass", "RelevanceRankAccuracy": "relevance_rank"}


class Silent(torch.nn.Module):
    """Quantus asks for a model that these metrics never use."""

    def forward(self, clips):
        return clips.flatten(1)[:, :2]


@pytest.mark.parametrize("name", PAIRS)
def test_localisation_is_quantus_on_maps_without_ties_and_signs(name):
    rng = np.random.default_rng(0)
    masks = rng.random((12, 20, 30)) < 0.2
    maps = rng.random(masks.shape) + 0.4 * masks
    metric = getattr(quantus, name)(disable_warnings=True, display_progressbar=False)
    clips = maps[:, None]
    theirs = metric(
        model=Silent(), x_batch=clips, y_batch=np.zeros(12, int), a_batch=clips, s_batch=masks[:, None].astype(int), device="cpu"
    )
    ours = getattr(localization, PAIRS[name])(maps, masks)
    np.testing.assert_allclose(ours, np.asarray(theirs, float).ravel(), atol=1e-6)
    assert 0 < ours.mean() < 1 or name == "PointingGame"
