"""The network has the published size, and its conditioning is what it says."""

from dataclasses import replace

import pytest
import torch

from xaibench.explainers.segdiff.network import CONFIGS, ImageEncoder, NetworkConfig, SegDiffNetwork, fold, parameters, unfold

PAPER = CONFIGS["paper"]
SHORT = (1, 1, 2, 2, 4, 4)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (PAPER, 126.41),
        (replace(PAPER, rrdb_blocks=1), 118.50),
        (replace(PAPER, channel_mult=SHORT), 127.71),
        (replace(PAPER, channel_mult=SHORT, rrdb_blocks=1), 119.80),
        (replace(PAPER, num_res_blocks=3), 164.15),
    ],
)
def test_parameter_counts_are_those_of_the_published_network(config: NetworkConfig, millions: float) -> None:
    with torch.device("meta"):
        assert parameters(SegDiffNetwork(config)) / 1e6 == pytest.approx(millions, abs=0.005)


def test_encoder_of_six_channels_and_one_block_has_the_published_count() -> None:
    with torch.device("meta"):
        assert parameters(ImageEncoder(6, replace(PAPER, rrdb_blocks=1))) == 870_656


def test_configs_keep_their_promised_sizes() -> None:
    with torch.device("meta"):
        sizes = {name: parameters(SegDiffNetwork(config)) / 1e6 for name, config in CONFIGS.items()}
    assert 10 <= sizes["base"] <= 20
    assert sizes["small"] <= 3
    assert sizes["tiny"] < 0.2


def test_unfold_undoes_fold_and_folding_moves_blocks_only() -> None:
    image = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    folded = fold(image, (4, 2))
    assert folded.shape == (2, 24, 2, 6)
    assert torch.equal(folded[0, :8, 1, 2].reshape(4, 2), image[0, 0, 4:8, 4:6])
    assert torch.equal(unfold(folded, (4, 2)), image)


def test_condition_is_added_once_and_knows_no_time() -> None:
    torch.manual_seed(0)
    network = SegDiffNetwork(replace(CONFIGS["tiny"], table_levels=0)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    image, noisy, times = torch.randn(2, 3, 128, 64), torch.randn(2, 1, 128, 64), torch.tensor([3, 70])
    calls = []
    network.encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        condition = network.condition(image)
        first = network(noisy, times, condition)
        shifted = network(noisy, times, condition._replace(features=condition.features + 1))
        moved = network.unet.first.bias.data
        moved += 1
        added = network(noisy, times, condition)
    assert len(calls) == 1
    assert not torch.allclose(first, shifted, atol=1e-3)
    torch.testing.assert_close(shifted, added)


def test_table_gives_an_untrained_network_its_log_odds() -> None:
    config = replace(CONFIGS["tiny"], mask_channels=2, table_levels=4, table_bins=128)
    network = SegDiffNetwork(config).eval()
    network.table.log_odds.copy_(torch.randn(2, 128, 4))
    image = torch.rand(1, 3, 128, 64) * 2 - 1
    with torch.no_grad():
        out = network(torch.randn(1, 2, 128, 64), torch.tensor([9]), network.condition(image))
    level = int((image[0, 1, 77, 13] + 1) * 2)
    torch.testing.assert_close(out[0, :, 77, 13], network.table.log_odds[:, 77, level])


def test_a_refinement_starts_as_the_identity_and_sees_single_cells() -> None:
    torch.manual_seed(0)
    plain, config = CONFIGS["tiny"], replace(CONFIGS["tiny"], detail=4)
    coarse, fine = SegDiffNetwork(plain), SegDiffNetwork(config)
    for parameter in coarse.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    fine.load_state_dict(coarse.state_dict(), strict=False)
    image, noisy, times = torch.randn(1, 3, 128, 64), torch.randn(1, 1, 128, 64), torch.tensor([9])
    with torch.no_grad():
        torch.testing.assert_close(fine(noisy, times, fine.condition(image)), coarse(noisy, times, coarse.condition(image)))
        torch.nn.init.normal_(fine.detail.last.weight)
        seen = [
            fine.detail(noisy, torch.zeros(1, 2, 128, 64), noisy, fine.detail.see(i))
            for i in (image, image.index_fill(2, torch.tensor([70]), 0))
        ]
    changed = (seen[0] != seen[1]).any(1)[0].any(1).nonzero()[:, 0]
    assert (int(changed.min()), int(changed.max())) == (65, 75)  # two bins of `see`, two of `reach`, one of `last`


def test_grids_that_the_levels_cannot_halve_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image must have bins and frames that are multiples of 16 and 16, got \(1, 3, 513, 253\)"):
        SegDiffNetwork(CONFIGS["tiny"]).condition(torch.zeros(1, 3, 513, 253))
