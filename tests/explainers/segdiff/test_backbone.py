"""A pretrained denoiser keeps its weights, is conditioned once, and travels in the weights file."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from xaibench.errors import WeightsError
from xaibench.explainers.segdiff.backbone import Backbone
from xaibench.explainers.segdiff.training import TrainingConfig, start
from xaibench.explainers.segdiff.weights import assemble, dump, preset, read

diffusers = pytest.importorskip("diffusers", reason="pretrained backbones need diffusers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = diffusers.UNet2DModel(
            sample_size=32, in_channels=3, out_channels=3, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        model.save_pretrained(path, safe_serialization=True)
    return path


def test_the_denoiser_starts_from_the_pretrained_weights_and_is_conditioned_once(folder: Path, tmp_path: Path) -> None:
    model = preset("specsegdiff", "tiny", backbone=str(folder))
    assert model.network.multiple == (16, 16)
    run = start(TrainingConfig(model=model, backbone=str(folder)))
    network = run.network.eval()
    assert isinstance(network.unet, Backbone)
    theirs = diffusers.UNet2DModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    for name, tensor in theirs.mid_block.state_dict().items():
        assert torch.equal(network.unet.model.mid_block.state_dict()[name], tensor)
    torch.nn.init.normal_(network.unet.last.weight)
    image, noisy, times = torch.randn(2, 3, 128, 64), torch.randn(2, 2, 128, 64), torch.tensor([3, 70])
    with torch.no_grad():
        condition = network.condition(image)
        first = network(noisy, times, condition)
        network.unet.first.bias += 1
        shifted = network(noisy, times, condition._replace(features=condition.features - 1))
        other = network(noisy, torch.tensor([4, 70]), condition)
    assert first.shape == (2, 2, 128, 64)
    torch.testing.assert_close(first, shifted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first[0], other[0])
    with torch.no_grad():
        network.unet.first.bias -= 1
    path = tmp_path / "w.safetensors"
    path.write_bytes(dump(model, network.state_dict()))
    again = assemble(*read(path))
    assert again.config == model
    with torch.no_grad():
        repeated = again.network(noisy, times, again.network.condition(image))
    assert float((repeated - first).abs().max()) < 0.02 * float(first.abs().max())


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="backbone must be a folder with a diffusers model"):
        preset("specsegdiff", "tiny", backbone=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet1DModel"}))
    with pytest.raises(WeightsError, match="backbone must be a UNet2DModel, got 'UNet1DModel'"):
        preset("specsegdiff", "tiny", backbone=str(tmp_path))
    assert replace(preset("specsegdiff", "tiny").network).backbone == ""
