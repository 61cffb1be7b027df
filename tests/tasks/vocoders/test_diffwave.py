import pytest
import torch
from torch import Tensor

from xaibench.tasks.vocoders.neural import diffwave
from xaibench.tasks.vocoders.neural.diffwave import FAST, TIMES, DiffWaveNetwork, Schedule
from xaibench.tasks.vocoders.neural.features import LEVEL, Condition


def test_one_jump_to_a_time_is_all_the_steps_before_it() -> None:
    """Means multiply and variances add: iterating ``x -> sqrt(1 - beta) x + sqrt(beta) noise`` gives the closed form."""
    schedule = Schedule.linear()
    mean, variance = 1.0, 0.0
    for t in range(TIMES):
        beta = 1e-4 + t / (TIMES - 1) * (0.05 - 1e-4)
        assert float(schedule.beta[t]) == pytest.approx(beta, rel=1e-9)
        mean, variance = mean * (1 - beta) ** 0.5, variance * (1 - beta) + beta
        assert float(schedule.kept[t]) == pytest.approx(mean**2, rel=1e-9)
        assert float(1 - schedule.kept[t]) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("times", [tuple(range(TIMES)), FAST])
def test_a_step_back_is_bayes_rule(times: tuple[int, ...]) -> None:
    """Mean and variance of x[t-1] given x[t] and x[0], from the product of the two Gaussians that meet there."""
    schedule = Schedule.linear().at(times)
    clean, noise = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    for index in range(1, len(times)):
        noisy = schedule.noised(clean, noise, torch.tensor([index]))
        beta, before = float(schedule.beta[index]), float(schedule.kept[index - 1])
        precision = (1 - beta) / beta + 1 / (1 - before)
        mean = ((1 - beta) ** 0.5 / beta * noisy + before**0.5 / (1 - before) * clean) / precision
        torch.testing.assert_close(schedule.step(noisy, noise, index, torch.zeros_like(noisy)), mean)
        assert float(schedule.posterior_variance[index]) == pytest.approx(1 / precision)


def test_the_last_step_is_exact_and_draws_nothing(monkeypatch: pytest.MonkeyPatch, voice: Tensor) -> None:
    """With a network that knows the noise, a copy is the recording, whatever noise it started from."""
    network, clean = DiffWaveNetwork(DiffWaveNetwork.presets["tiny"]), voice[None, :3000].double() / LEVEL

    def oracle(noisy: Tensor, kept: Tensor, condition: Condition) -> Tensor:
        return (noisy - kept[:, None].sqrt() * clean) / (1 - kept[:, None]).sqrt()

    monkeypatch.setattr(network, "predict", oracle)
    condition = Condition(torch.zeros(1, 80, 16, dtype=torch.double), torch.zeros(1, 16))
    copy = network.generate(condition, 3000, [torch.Generator().manual_seed(0)])
    torch.testing.assert_close(copy, clean * LEVEL, rtol=0, atol=1e-9)


def test_an_output_depends_on_as_many_samples_as_the_dilations_reach() -> None:
    torch.manual_seed(0)
    network = DiffWaveNetwork(DiffWaveNetwork.presets["tiny"]).eval()
    torch.nn.init.normal_(network.leave[2].weight)
    noisy = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    moved = noisy.clone()
    moved[0, 500] += 1
    condition = Condition(torch.zeros(1, 80, 6), torch.zeros(1, 6))
    with torch.no_grad():
        one, two = (network.predict(w, torch.tensor([0.5]), condition) for w in (noisy, moved))
    changed = (one != two)[0].nonzero().flatten()
    assert network.stack.reach == 1 + 2 + 4 + 8
    assert (int(changed.min()), int(changed.max())) == (500 - 15, 500 + 15)


def test_the_loss_is_the_mean_absolute_noise_where_nothing_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    network = DiffWaveNetwork(DiffWaveNetwork.presets["tiny"])
    monkeypatch.setattr(network, "predict", lambda noisy, kept, condition: torch.zeros_like(noisy))
    waveform = torch.zeros(4, 8000)
    loss, _ = network(waveform, Condition(torch.zeros(4, 80, 41), torch.zeros(4, 41)), [torch.Generator().manual_seed(s) for s in range(4)])
    assert float(loss) == pytest.approx((2 / torch.pi) ** 0.5, rel=0.02)
    assert diffwave.DiffWave.network is DiffWaveNetwork
