"""Noising and samplers agree with closed forms and with diffusers, and a perfect denoiser recovers the mask."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from xaibench.explainers.segdiff.diffusion import Diffusion, Estimate, Start
from xaibench.explainers.segdiff.distillation import two_steps_as_one

FEW = Diffusion(schedule="cosine", zero_terminal_snr=True, prediction="logit", shift=0.3, variance="posterior", empty_start=True)
THEIRS = {"noise": "epsilon", "mask": "sample", "velocity": "v_prediction"}


def scheduler(name: str, **options: Any) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is an oracle of this test only")
    return getattr(diffusers, name)(num_train_timesteps=100, beta_start=1e-3, beta_end=0.2, clip_sample=False, **options)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_linear_schedule_is_the_published_one() -> None:
    betas = torch.linspace(1e-3, 0.2, 100, dtype=torch.float64)
    torch.testing.assert_close(Diffusion().signal, (1 - betas).cumprod(0))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Diffusion(), {}),
        (Diffusion(prediction="mask", zero_terminal_snr=True, variance="posterior"), {"rescale_betas_zero_snr": True}),
        (Diffusion(schedule="cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_schedules_and_noising_are_those_of_diffusers(ours: Diffusion, theirs: dict[str, Any]) -> None:
    oracle = scheduler("DDPMScheduler", **theirs)
    torch.testing.assert_close(ours.signal.float(), oracle.alphas_cumprod, atol=2e-6, rtol=1e-4)
    mask, noise, times = drawn(3, 1, 4, 5), drawn(3, 1, 4, 5, seed=1), torch.tensor([0, 40, 99])
    torch.testing.assert_close(ours.noisy(mask, times, noise), oracle.add_noise(mask, noise, times), atol=1e-4, rtol=1e-4)


def test_shift_scales_the_signal_to_noise_ratio() -> None:
    plain, shifted = Diffusion().signal, Diffusion(shift=0.1).signal
    torch.testing.assert_close(shifted / (1 - shifted), 0.01 * plain / (1 - plain))


@pytest.mark.parametrize("prediction", ["noise", "mask", "velocity"])
@pytest.mark.parametrize("variance", ["large", "posterior"])
def test_ancestral_steps_are_those_of_diffusers(prediction: Any, variance: Any) -> None:
    ours = Diffusion(prediction=prediction, variance=variance)
    oracle = scheduler(
        "DDPMScheduler", prediction_type=THEIRS[prediction], variance_type="fixed_large" if variance == "large" else "fixed_small"
    )
    noisy, output = drawn(1, 1, 4, 5), drawn(1, 1, 4, 5, seed=1)
    for time in (99, 50, 1, 0):
        at, earlier = torch.tensor([time]), torch.tensor([time - 1])
        noise = drawn(1, 1, 4, 5, seed=2)
        mine = ours.ancestral(ours.read(output, noisy, at), noisy, at, earlier, noise)
        theirs = oracle.step(output, time, noisy, generator=torch.Generator().manual_seed(2)).prev_sample
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["noise", "mask", "velocity"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_steps_are_those_of_diffusers(prediction: Any, eta: float) -> None:
    ours = Diffusion(prediction=prediction)
    oracle = scheduler("DDIMScheduler", prediction_type=THEIRS[prediction], timestep_spacing="trailing")
    oracle.set_timesteps(5)
    assert ours.times(5) == oracle.timesteps.tolist()
    noisy, output = drawn(1, 1, 4, 5), drawn(1, 1, 4, 5, seed=1)
    for time, following in zip(ours.times(5), [*ours.times(5)[1:], -1], strict=True):
        at, earlier, noise = torch.tensor([time]), torch.tensor([following]), drawn(1, 1, 4, 5, seed=2)
        mine = ours.ddim(ours.read(output, noisy, at), at, earlier, noise, eta)
        theirs = oracle.step(output, time, noisy, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_strided_posterior_is_the_product_of_its_steps() -> None:
    """Bayes: the density of x_s given x_t and the mask, from the Gaussians of both ways, without the formula."""
    ours, mask, noisy = Diffusion(variance="posterior"), 1.0, 0.3
    signal_t, signal_s = (float(ours.signal[t]) for t in (80, 20))
    ratio = signal_t / signal_s
    precision = 1 / (1 - signal_s) + ratio / (1 - ratio)
    mean = (signal_s**0.5 * mask / (1 - signal_s) + ratio**0.5 * noisy / (1 - ratio)) / precision
    one = torch.ones(1, 1, 1, 1)
    at, earlier = torch.tensor([80]), torch.tensor([20])
    low, high = (ours.ancestral(Estimate(one, one), noisy * one, at, earlier, sign * one) for sign in (-1, 1))
    assert float((low + high) / 2) == pytest.approx(mean, rel=1e-5)
    assert float((high - low) / 2) == pytest.approx(precision**-0.5, rel=1e-5)


@pytest.mark.parametrize("n_steps", [3, 8])
def test_dpm_solver_trajectories_are_those_of_diffusers(n_steps: int) -> None:
    """The same denoiser, asked by our loop and by theirs, step by step."""
    ours = Diffusion(prediction="mask")
    diffusers = pytest.importorskip("diffusers", reason="diffusers is an oracle of this test only")
    oracle = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=100, beta_start=1e-3, beta_end=0.2, prediction_type="sample", timestep_spacing="trailing"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        oracle.set_timesteps(n_steps)
    assert oracle.timesteps.tolist() == ours.times(n_steps)
    weight = drawn(1, 1, 6, 6, seed=3)

    def denoise(noisy: Tensor, times: Tensor, estimate: Tensor | None) -> Tensor:
        return torch.tanh(noisy + weight)

    start = drawn(2, 1, 6, 6)
    mine = list(ours.trajectory(denoise, start.clone, n_steps, "dpm"))[-1]
    state = start.clone()
    for time in oracle.timesteps:
        state = oracle.step(denoise(state, time, None), time, state).prev_sample
    torch.testing.assert_close(mine, state, atol=1e-4, rtol=1e-4)


def test_a_second_order_solver_is_nearer_to_the_flow_than_ddim() -> None:
    """For a Gaussian mask the posterior mean, and so the probability flow, has a closed form: x_0 = x_T s / sqrt(a s^2 + 1 - a)."""
    ours, spread = Diffusion(prediction="mask"), 0.5
    final = drawn(4, 1, 8, 8)

    def denoise(noisy: Tensor, times: Tensor, estimate: Tensor | None) -> Tensor:
        signal = ours.at(times)
        return signal.sqrt() * spread**2 / (signal * spread**2 + 1 - signal) * noisy

    signal = float(ours.signal[-1])
    exact = final * spread / (signal * spread**2 + 1 - signal) ** 0.5
    errors = {
        sampler: float((list(ours.trajectory(denoise, final.clone, 12, sampler))[-1] - exact).abs().mean())  # type: ignore[arg-type]
        for sampler in ("ddim", "dpm")
    }
    assert errors["dpm"] < 0.6 * errors["ddim"]
    assert errors["ddim"] < 0.1


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpm"])
def test_a_start_is_noised_to_its_time_and_denoised_from_there(sampler: Any) -> None:
    ours = Diffusion(prediction="mask")
    mask, noise, asked = (drawn(1, 1, 8, 8, seed=4) > 0).float() * 2 - 1, drawn(3, 1, 8, 8), []

    def denoise(noisy: Tensor, times: Tensor, estimate: Tensor | None) -> Tensor:
        asked.append((noisy.clone(), int(times[0]), estimate))
        return mask.expand_as(noisy)

    estimates = list(ours.trajectory(denoise, noise.clone, 2, sampler, start=Start(mask, 39)))
    assert [time for _, time, _ in asked] == [39, 19]
    torch.testing.assert_close(asked[0][0], ours.noisy(mask, torch.tensor([39] * 3), noise))
    assert asked[0][2] is not None
    torch.testing.assert_close(estimates[-1], mask.expand_as(noise))


@pytest.mark.parametrize("student_steps", [1, 2, 4, 100])
@pytest.mark.parametrize("diffusion", [Diffusion(prediction="mask"), FEW], ids=["linear", "empty start"])
def test_a_perfect_teacher_hands_down_the_mask(diffusion: Diffusion, student_steps: int) -> None:
    mask = (drawn(3, 1, 8, 8, seed=4) > 0).float() * 2 - 1
    logit = diffusion.prediction == "logit"
    times = torch.tensor([diffusion.times(student_steps)[i % student_steps] for i in range(3)])
    state = diffusion.noisy(mask, times, drawn(3, 1, 8, 8))
    target = two_steps_as_one(diffusion, lambda noisy, at: 40 * mask if logit else mask, state, times, student_steps)
    torch.testing.assert_close(target, mask, atol=2e-3, rtol=0)


def test_a_student_that_follows_its_target_arrives_where_two_steps_of_the_teacher_do() -> None:
    ours, weight = Diffusion(prediction="mask"), drawn(1, 1, 6, 6, seed=3)
    state = drawn(2, 1, 6, 6)
    teach = lambda noisy, times, _=None: torch.tanh(noisy + weight)  # noqa: E731
    *_, twice = ours.trajectory(teach, state.clone, 4, "ddim")
    reached = []

    def student(noisy: Tensor, times: Tensor, estimate: Tensor | None) -> Tensor:
        reached.append(int(times[0]))
        return two_steps_as_one(ours, teach, noisy, times, 2)

    *_, once = ours.trajectory(student, state.clone, 2, "ddim")
    assert reached == [99, 49]
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=1e-4)


def test_deterministic_samplers_spread_from_an_empty_start_too() -> None:
    """The first estimate sees no noise, but the state it continues from holds the draw, so that samples differ."""
    states = []

    def denoise(noisy: Tensor, times: Tensor, estimate: Tensor | None) -> Tensor:
        states.append(noisy)
        return torch.zeros_like(noisy)

    noise = drawn(4, 1, 16, 16)
    list(FEW.trajectory(denoise, noise.clone, 2, "ddim"))
    assert [len(s) for s in states] == [1, 4]
    assert bool((states[0] == 0).all())
    torch.testing.assert_close(states[1], (1 - FEW.at(torch.tensor([FEW.times(2)[1]]))).sqrt() * noise)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpm"])
@pytest.mark.parametrize("n_steps", [1, 2, 7])
@pytest.mark.parametrize(
    "diffusion", [Diffusion(), Diffusion(prediction="velocity"), Diffusion(prediction="mask"), FEW], ids=lambda d: d.prediction
)
def test_a_perfect_denoiser_recovers_the_mask(diffusion: Diffusion, n_steps: int, sampler: Any) -> None:
    mask = (drawn(3, 2, 8, 8) > 1).float() * 2 - 1

    def denoise(noisy: Tensor, times: Tensor, estimate: Tensor | None) -> Tensor:
        target = mask[: len(noisy)]
        if diffusion.prediction == "logit":
            return 40 * target
        if diffusion.prediction == "mask":
            return target
        signal = diffusion.at(times)
        noise = (noisy - signal.sqrt() * target) / (1 - signal).sqrt()
        return noise if diffusion.prediction == "noise" else diffusion.velocity(target, times, noise)

    estimates = list(diffusion.trajectory(denoise, lambda: drawn(3, 2, 8, 8, seed=5), n_steps, sampler))
    assert len(estimates) == n_steps
    torch.testing.assert_close(estimates[-1], mask[: len(estimates[-1])], atol=1e-4, rtol=0)


def test_an_empty_start_shares_its_first_estimate_and_spreads_after_it() -> None:
    sizes = []

    def denoise(noisy: Tensor, times: Tensor, estimate: Tensor | None) -> Tensor:
        sizes.append((len(noisy), float(noisy.std())))
        return noisy

    list(FEW.trajectory(denoise, lambda: drawn(4, 1, 32, 32, seed=len(sizes)), 3, "ancestral"))
    assert [count for count, _ in sizes] == [1, 4, 4]
    assert sizes[0][1] == 0
    assert sizes[1][1] == pytest.approx(float((1 - FEW.signal[FEW.times(3)[1]]) ** 0.5), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "steps must be at least 2, got 1"),
        ({"schedule": "sigmoid"}, "schedule must be linear or cosine, got 'sigmoid'"),
        ({"prediction": "score"}, "prediction must be noise, mask, logit or velocity, got 'score'"),
        ({"zero_terminal_snr": True, "variance": "posterior"}, "prediction must not be noise where zero_terminal_snr is set"),
        ({"zero_terminal_snr": True, "prediction": "mask"}, "variance must be posterior where zero_terminal_snr is set"),
        ({"empty_start": True}, "empty_start must come with zero_terminal_snr"),
        ({"shift": 0.0}, "shift must be positive, got 0.0"),
    ],
)
def test_impossible_diffusions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Diffusion(**options)


def test_impossible_samplings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_steps must be in 1..100, got 101"):
        Diffusion().times(101)
    with pytest.raises(ValueError, match="sampler must be ddim, ancestral or dpm, got 'euler'"):
        next(Diffusion().trajectory(lambda x, *_: x, lambda: torch.zeros(1, 1, 1, 1), 2, "euler"))  # type: ignore[arg-type]
