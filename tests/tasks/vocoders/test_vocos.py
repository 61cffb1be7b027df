import torch
from torch import Tensor, nn

from xaibench.tasks.spectrogram import magnitude, stft
from xaibench.tasks.vocoders.neural.features import GRID, Condition, log_mel
from xaibench.tasks.vocoders.neural.losses import RESOLUTIONS, mel_distance, reconstruction, spectral_distance
from xaibench.tasks.vocoders.neural.vocos import VocosNetwork


class _Told(nn.Module):
    """A head that knows the answer."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, hidden: Tensor) -> Tensor:
        return self.answer.transpose(1, 2)


def test_the_head_rebuilds_a_recording_from_its_level_and_phase(voice: Tensor) -> None:
    network = VocosNetwork(VocosNetwork.presets["tiny"])
    spectrum = stft(voice[None].double(), GRID)
    network.head = _Told(torch.cat([torch.log(spectrum.abs() + 1e-12), spectrum.angle()], dim=1))
    copy = network.generate(Condition(log_mel(voice[None]), torch.zeros(1, spectrum.shape[-1])), len(voice), [])
    torch.testing.assert_close(copy[0], voice.double(), rtol=0, atol=1e-9)


def test_distances_are_zero_for_equals_and_a_logarithm_for_a_gain(voice: Tensor) -> None:
    wave = 20 * voice[None]  # far above the floor
    assert reconstruction(wave, wave) < 1e-5
    grid = RESOLUTIONS[1]
    heard = magnitude(wave, grid).square() > 1e-3
    share = float(heard.float().mean())
    # Convergence |2x - x| / |x| = 1, log distance ln 2 in every cell above the floor.
    distance = float(spectral_distance(2 * wave, wave, grid))
    assert 1 + 0.693 * share <= distance + 1e-3 <= 1 + 0.694 + 1e-3
    assert 0 < mel_distance(2 * wave, wave) <= 0.5 * 0.6932


def test_output_frames_depend_on_as_many_frames_as_the_layers_reach() -> None:
    torch.manual_seed(0)
    network = VocosNetwork(VocosNetwork.presets["tiny"]).eval()
    mel = torch.randn(1, 80, 41, generator=torch.Generator().manual_seed(0))
    moved = mel.clone()
    moved[..., 20] += 1
    with torch.no_grad():
        one, two = (network.spectrum(Condition(m, torch.zeros(1, 41))) for m in (mel, moved))
    changed = (one - two).abs().amax((0, 1)).nonzero().flatten()
    reach = 3 * (1 + network.sizes.layers)
    assert (changed.min(), changed.max()) == (20 - reach, 20 + reach)
