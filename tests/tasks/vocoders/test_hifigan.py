import torch

from xaibench.tasks.vocoders.neural.discriminators import PERIODS, fold
from xaibench.tasks.vocoders.neural.features import HOP, Condition
from xaibench.tasks.vocoders.neural.hifigan import KERNELS, RATES, HiFiGANNetwork


def test_a_frame_becomes_two_hundred_samples_and_reaches_as_far_as_its_kernels() -> None:
    torch.manual_seed(0)
    network = HiFiGANNetwork(HiFiGANNetwork.presets["tiny"]).eval().double()
    mel = torch.randn(1, 80, 31, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    moved = mel.clone()
    moved[..., 15] += 1000  # the outermost samples hang on a product of small weights
    with torch.no_grad():
        one, two = (network.generate(Condition(m, torch.zeros(1, 31)), 31 * HOP, []) for m in (mel, moved))
    assert one.shape == (1, 31 * HOP)
    low, high = 12, 18  # the first convolution has kernel 7
    for rate, kernel in zip(RATES, KERNELS, strict=True):
        padding = (kernel - rate) // 2
        low, high = low * rate - padding, high * rate - padding + kernel - 1
        reach = sum(d + 1 for d in network.sizes.dilations)  # kernel 3: a dilated and a plain convolution each
        low, high = low - reach, high + reach
    changed = (one != two)[0].nonzero().flatten()
    assert (int(changed.min()), int(changed.max())) == (low - 3, high + 3)


def test_folding_keeps_every_sample_in_its_column() -> None:
    wave = torch.arange(101.0)[None]
    for period in PERIODS:
        folded = fold(wave, period)
        assert folded.shape == (1, 1, -(-101 // period), period)
        assert torch.equal(folded.flatten()[:101], wave[0])
        assert (folded[0, 0, :, 0] % period == 0)[:-1].all()
