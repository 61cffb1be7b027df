"""The registered explainers keep their promises: channels by recipe, cost, seeds, grids, and weights that beat the controls."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import xaibench
from xaibench.errors import WeightsError
from xaibench.explainers.segdiff.evaluation import generalized_dice
from xaibench.explainers.segdiff.network import SegDiffNetwork
from xaibench.explainers.segdiff.spec import SpecSegDiff
from xaibench.explainers.segdiff.weights import SHIPPED, preset, write
from xaibench.tasks.masks import truth
from xaibench.tasks.spectrogram import STFTConfig
from xaibench.types import Detector

METHODS = ("specsegdiff", "one_shot")
RECIPES = ("sym-floor60-v1", "grinberg-rel-linear-v1")
SAMPLES = 16_200
SHIPPED_FILES = sorted(SHIPPED.glob("*.safetensors"))


class Deaf(Detector):
    """Fails when it is asked."""

    def forward(self, waveform: Tensor) -> Tensor:
        raise AssertionError("SegDiff asks no detector")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of random tiny networks, one per method."""
    torch.manual_seed(0)
    paths = {}
    for method in METHODS:
        model = preset(method, "tiny")
        network = SegDiffNetwork(model.network)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        paths[method] = str(tmp_path_factory.mktemp(method) / "random.safetensors")
        write(Path(paths[method]), model, network.state_dict(), {})
    return paths


@pytest.fixture
def waveform() -> Tensor:
    return 0.1 * torch.randn(2, SAMPLES, generator=torch.Generator().manual_seed(1))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("method", METHODS)
def test_heatmaps_are_probabilities_on_the_grid_and_a_batch_equals_its_singles(
    method: str, weights: dict[str, str], waveform: Tensor
) -> None:
    explainer = xaibench.load("explainer", method, weights=weights[method])
    heatmap = explainer.explain(waveform, Deaf(), generator=generators(1, 2))
    assert heatmap.shape == (2, 513, 64)
    assert heatmap.dtype == torch.float32
    assert 0 <= float(heatmap.min()) < float(heatmap.max()) <= 1
    assert torch.equal(heatmap[:, 512], heatmap[:, 511])
    for i, seed in enumerate((1, 2)):
        single = explainer.explain(waveform[i : i + 1], Deaf(), generator=generators(seed))
        torch.testing.assert_close(single[0], heatmap[i], atol=1e-5, rtol=0)


def test_noise_comes_from_the_clips_own_generator(weights: dict[str, str], waveform: Tensor) -> None:
    explainer = xaibench.load("explainer", "specsegdiff", weights=weights["specsegdiff"])
    state = torch.get_rng_state()
    first, second, other = (explainer.explain(waveform[:1], Deaf(), generator=generators(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
def test_recipe_chooses_the_channel(method: str, weights: dict[str, str], waveform: Tensor) -> None:
    first, second = (
        xaibench.load("explainer", method, weights=weights[method], recipe=recipe).explain(waveform[:1], Deaf()) for recipe in RECIPES
    )
    assert not torch.equal(first, second)
    with pytest.raises(WeightsError, match=r"recipe must be one that the weights were trained for, got 'abs-log-v1'; available: sym"):
        xaibench.load("explainer", method, weights=weights[method], recipe="abs-log-v1").explain(waveform, Deaf())


@pytest.mark.parametrize(
    ("options", "denoised"),
    [({"steps": 3, "samples": 5}, [1, 5, 5]), ({"protocol": "paper"}, [1] + 99 * [32])],
)
def test_the_image_is_encoded_once_per_clip(
    options: dict[str, Any], denoised: list[int], weights: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = xaibench.load("explainer", "specsegdiff", weights=weights["specsegdiff"], **options)
    network = explainer.model().network
    encoded, seen = [], []
    hook = network.encoder.register_forward_hook(lambda *_: encoded.append(1))

    def cheap(noisy: Tensor, *_: object) -> Tensor:
        seen.append(len(noisy))
        return noisy

    monkeypatch.setattr(network, "forward", cheap)
    explainer.explain(torch.randn(1, 1024), Deaf())
    hook.remove()
    assert (encoded, seen) == ([1], denoised)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpm"])
def test_every_sampler_draws_masks_that_differ(sampler: str, weights: dict[str, str], waveform: Tensor) -> None:
    explainer = SpecSegDiff(weights=weights["specsegdiff"], sampler=sampler, steps=3, samples=3)  # type: ignore[arg-type]
    drawn = explainer.draw(waveform[:1], generators(3))
    assert bool(torch.isfinite(drawn.mean).all())
    assert float(drawn.variance.mean()) > 1e-6


def test_a_start_from_one_shot_keeps_to_its_answer(waveform: Tensor) -> None:
    plain, started = (SpecSegDiff(start=start, steps=1, samples=1) for start in ("noise", "one_shot"))  # type: ignore[arg-type]
    answer = xaibench.load("explainer", "one_shot").explain(waveform[:1], Deaf())
    near, far = (float((e.explain(waveform[:1], Deaf()) - answer).abs().mean()) for e in (started, plain))
    assert near < far
    assert started.state_hash() != plain.state_hash()


def test_variance_is_that_of_the_samples(weights: dict[str, str], waveform: Tensor) -> None:
    explainer = SpecSegDiff(weights=weights["specsegdiff"], samples=6)
    drawn = explainer.draw(waveform[:1], generators(3))
    shown = replace(explainer, output="deviation").explain(waveform[:1], Deaf(), generator=generators(3))
    assert float(drawn.variance.max()) > 1e-6
    torch.testing.assert_close(shown**2, drawn.variance)
    assert float(SpecSegDiff(weights=weights["specsegdiff"], samples=1).draw(waveform[:1]).variance.max()) == 0
    assert float(xaibench.load("explainer", "one_shot", weights=weights["one_shot"]).draw(waveform).variance.max()) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_level_changes_nothing_and_silence_breaks_nothing(method: str, level: float, weights: dict[str, str], waveform: Tensor) -> None:
    explainer = xaibench.load("explainer", method, weights=weights[method])
    heatmap = explainer.explain(level * waveform, Deaf(), generator=generators(1, 2))
    assert bool(torch.isfinite(heatmap).all())
    if level:
        torch.testing.assert_close(heatmap, explainer.explain(waveform, Deaf(), generator=generators(1, 2)), atol=1e-3, rtol=0)


def test_wrong_weights_and_grids_are_refused_with_the_remedy(weights: dict[str, str], waveform: Tensor, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(Path(weights["one_shot"]).read_bytes()[:1000])
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"weights": "nowhere"}, WeightsError, "weights must name a task with shipped specsegdiff weights or a .safetensors file"),
        ({"weights": weights["one_shot"]}, WeightsError, "weights must be of specsegdiff, got .* of one_shot"),
        ({"weights": str(damaged)}, WeightsError, "weights must be a readable safetensors file"),
        ({"weights": weights["specsegdiff"], "stft": STFTConfig(640, 320)}, ValueError, "stft must be the grid of the weights, 1024/256"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            SpecSegDiff(**options).explain(waveform, Deaf())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"protocol": "slow"}, "protocol must be fast or paper, got 'slow'"),
        ({"sampler": "euler"}, "sampler must be ancestral, ddim or dpm, got 'euler'"),
        ({"start": "mask"}, "start must be noise or one_shot, got 'mask'"),
        ({"output": "logits"}, "output must be probability or deviation, got 'logits'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecSegDiff(**options)


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda p: p.stem)
def test_shipped_weights_are_small_and_match_their_card(path: Path) -> None:
    method, _, task = path.stem.partition("-")
    card = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 7_000_000
    assert xaibench.load("explainer", method, weights=task).state_hash() == card["weights_sha256"]
    assert (card["method"], card["task"]) == (method, task)
    assert set(card["dev"]) >= set(RECIPES)


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda p: p.stem)
def test_a_task_takes_the_weights_that_ship_for_it(path: Path) -> None:
    method, _, task = path.stem.partition("-")
    assert xaibench.load("explainer", method).bind(task).weights == task
    assert xaibench.load("explainer", method, weights="mine.safetensors").bind(task).weights == "mine.safetensors"


def test_all_weights_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED_FILES) < 25_000_000


@pytest.fixture(scope="module")
def scores() -> dict[tuple[str, str], float]:
    """GDice in percent of explainers and the strongest control on a few test pairs of the embedded task."""
    task = xaibench.load("task", "minivoc")
    pairs = task.pairs("test")[:10]
    clips = [task.load(pair) for pair in pairs]
    found = {}
    for recipe in RECIPES:
        truths = [truth(clip, recipe) for clip in clips]
        for name in (*METHODS, "frequency_level_prior"):
            explainer = xaibench.load("explainer", name, recipe=recipe)
            maps = [explainer.bind(task.name).explain(c.spoof[None], Deaf())[0] for p, c in zip(pairs, clips, strict=True)]
            values = [generalized_dice(m, t.mask.float(), t.valid) for m, t in zip(maps, truths, strict=True)]
            found[name, recipe] = 100 * sum(values) / len(values)
    return found


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_shipped_weights_beat_the_strongest_control(method: str, recipe: str, scores: dict[tuple[str, str], float]) -> None:
    assert scores[method, recipe] > scores["frequency_level_prior", recipe] + 4
