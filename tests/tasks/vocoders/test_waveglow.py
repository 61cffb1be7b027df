import math

import pytest
import torch
from torch import Tensor

from xaibench.tasks.vocoders.neural.features import LEVEL, Condition
from xaibench.tasks.vocoders.neural.waveglow import WaveGlowNetwork, WaveGlowSizes


@pytest.fixture
def network() -> WaveGlowNetwork:
    """A flow whose couplings do something, in double precision; two channels leave early."""
    torch.manual_seed(0)
    flow = WaveGlowNetwork(WaveGlowSizes(4, 2, 8, 2, 8)).double()
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return flow


def condition(frames: int, batch: int = 1) -> Condition:
    mel = torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    return Condition(mel, torch.zeros(batch, frames))


def test_speech_becomes_noise_and_speech_again(network: WaveGlowNetwork, voice: Tensor) -> None:
    wave = voice[None, :4000].double()
    noise, _ = network.encode(wave, condition(21))
    assert noise.shape == (1, 8, 500)
    assert (noise - (wave / LEVEL).reshape(1, 500, 8).transpose(1, 2)).abs().max() > 0.1
    torch.testing.assert_close(network.decode(noise, condition(21)), wave, rtol=0, atol=1e-10)


def test_the_volume_is_the_determinant_of_the_jacobian(network: WaveGlowNetwork) -> None:
    wave = LEVEL * torch.randn(1, 32, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda w: network.encode(w, condition(2))[0].flatten(), wave)
    _, claimed = network.encode(wave, condition(2))
    direct = torch.linalg.slogdet(jacobian.reshape(32, 32) * LEVEL)[1]
    torch.testing.assert_close(claimed[0], direct)


def test_the_loss_of_a_new_flow_is_that_of_a_gaussian(voice: Tensor) -> None:
    """Steps are rotations at first, so the likelihood is that of white noise of the usual level."""
    network = WaveGlowNetwork(WaveGlowNetwork.presets["tiny"])
    wave = voice[None, :4000]
    loss, generated = network(wave, Condition(condition(21).mel.float(), torch.zeros(1, 21)), [])
    expected = 0.5 * math.log(2 * math.pi) + 0.5 * float((wave / LEVEL).square().mean())
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert generated is None
