"""Training learns, resumes exactly after a kill, and treats both twins alike."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xaibench.errors import DataError, WeightsError
from xaibench.explainers.segdiff.checkpoints import records
from xaibench.explainers.segdiff.data import Batch, Examples, Recipe, augment, cached, from_clips
from xaibench.explainers.segdiff.evaluation import evaluate, generalized_dice, reliability
from xaibench.explainers.segdiff.frontend import FrontEnd
from xaibench.explainers.segdiff.job import board, train_explainer
from xaibench.explainers.segdiff.objective import segmentation_loss
from xaibench.explainers.segdiff.training import TrainingConfig, start, train
from xaibench.explainers.segdiff.weights import assemble, preset, read, write
from xaibench.tasks.masks import truth
from xaibench.types import Clip, Pair, Split, Task

SAMPLES = 16_200  # 64 frames


def clip(seed: int, split: Split = "train") -> Clip:
    """Noise whose twin has a band ten times as loud."""
    generator = torch.Generator().manual_seed(seed)
    real = 0.1 * torch.randn(SAMPLES, generator=generator)
    spectrum = torch.fft.rfft(real)
    low = int(torch.randint(1000, 6000, (), generator=generator))
    spectrum[low : low + 500] *= 10
    pair = Pair(f"p{seed}", f"u{seed}", f"s{seed}", "louder", "", "", split=split)
    return Clip(pair, real, torch.fft.irfft(spectrum, n=SAMPLES), valid_samples=SAMPLES)


@dataclass(frozen=True)
class Louder(Task):
    """Six training and two development pairs in memory."""

    name = "louder"
    loads: Callable[[], None] = lambda: None

    def pairs(self, split: Split) -> list[Pair]:
        return [clip(i, split).pair for i in {"train": range(6), "dev": range(6, 8), "test": ()}[split]]

    def load(self, pair: Pair) -> Clip:
        self.loads()
        return clip(int(pair.id[1:]), pair.split)

    def references(self, pair: Pair) -> torch.Tensor:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "louder-1"


def config(method: str = "specsegdiff", **options: object) -> TrainingConfig:
    return replace(
        TrainingConfig(model=preset(method, "tiny"), steps=8, batch_size=2, warmup=2, evaluate_every=4, ema=0.9, copies=1), **options
    )


def examples(count: int = 4) -> Examples:
    return from_clips([clip(i) for i in range(count)], Recipe(front=FrontEnd()))


def test_examples_hold_the_image_and_the_truth_of_their_clip() -> None:
    recipe = Recipe(front=FrontEnd(), recipes=("sym-floor60-v1", "abs-log-v1"))
    made = from_clips([clip(0), clip(1)], recipe)
    batch = made.batch([1])
    image = recipe.front.image(clip(1).spoof[None])
    assert batch.image.shape == (1, 3, 512, 64)
    torch.testing.assert_close(batch.image, image, atol=1 / 127, rtol=0)
    for r, name in enumerate(recipe.recipes):
        known = truth(clip(1), name).mask[:-1].float()
        assert torch.equal(batch.mask[0, r], known)
    assert batch.weight.shape == (1, 2, 1, 64)
    assert bool((batch.weight == 1).all())


def test_tiled_frames_and_clips_without_a_mask_have_no_weight() -> None:
    whole = clip(0)
    short = replace(whole, valid_samples=SAMPLES // 2)
    same = replace(whole, spoof=whole.bonafide)
    batch = from_clips([short, same], Recipe(front=FrontEnd())).batch([0, 1])
    assert bool((batch.weight[0, :, 0, :30] == 1).all())
    assert bool((batch.weight[0, :, 0, 32:] == 0).all())
    assert bool((batch.weight[1] == 0).all())


def test_augmentation_treats_twins_alike_and_moves_no_level_between_them() -> None:
    whole = clip(3)
    twin = replace(whole, spoof=0.5 * whole.bonafide)
    changed = augment(twin, torch.Generator().manual_seed(1))
    torch.testing.assert_close(changed.spoof, 0.5 * changed.bonafide)
    assert not torch.allclose(changed.bonafide, twin.bonafide, atol=1e-3)
    assert changed.valid_samples <= twin.valid_samples
    first, second = (augment(whole, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first.spoof, second.spoof)


def test_cache_is_computed_once_and_equals_memory(tmp_path: Path) -> None:
    calls: list[int] = []
    task = Louder(loads=lambda: calls.append(1))
    recipe = config(copies=2).examples()
    first = cached(task, "train", recipe, tmp_path)
    again = cached(task, "train", recipe, tmp_path)
    fresh = from_clips([clip(i) for i in range(6)], recipe)
    assert len(calls) == 6
    assert len(again) == 12
    for name in ("images", "masks", "valid"):
        assert np.array_equal(getattr(first, name), getattr(fresh, name))
        assert np.array_equal(getattr(again, name), getattr(fresh, name))
    assert again.pairs == fresh.pairs
    with pytest.raises(DataError, match="task 'louder' must have a test split, got none"):
        cached(task, "test", recipe, tmp_path)


def test_a_failed_computation_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("gone")

    with pytest.raises(DataError, match="gone"):
        cached(Louder(loads=fail), "train", config().examples(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["specsegdiff", "one_shot"])
def test_training_learns_what_the_image_shows(method: str) -> None:
    made, plain = examples(), config(method).model
    blind = replace(plain, network=replace(plain.network, table_levels=0))
    run_config = config(method, model=blind, steps=25, batch_size=4, learning_rate=1e-2, evaluate_every=25)
    guess = torch.rand(4, 512, 64, generator=torch.Generator().manual_seed(0))
    chance = 25 * sum(generalized_dice(guess[i], made.batch([i]).mask[0, 0], torch.ones(512, 64) > 0) for i in range(4))
    assert chance < 12
    assert train(run_config, made, made).best > 45


def test_killed_and_resumed_training_has_the_losses_of_an_unbroken_one(tmp_path: Path) -> None:
    unbroken: list[float] = []
    train(config(), examples(), report=lambda r: unbroken.append(r["loss"]))
    script = (
        f"import os, signal, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; from test_training import config, examples, train\n"
        "stop = lambda r: os.kill(os.getpid(), signal.SIGKILL) if r['step'] == 6 else None\n"
        f"train(config(), examples(), out=Path({str(tmp_path)!r}), report=stop)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert [r["step"] for r in records(tmp_path)] == list(range(1, 7))
    run = train(config(), examples(), out=tmp_path)
    assert [r["loss"] for r in records(tmp_path)] == unbroken
    assert run.step == 8


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(config(), examples(), out=tmp_path, stop_after=4)
    with pytest.raises(WeightsError, match="out must be empty or hold a checkpoint of this run"):
        train(config(seed=1), examples(), out=tmp_path)


def test_a_job_writes_weights_and_a_card_that_describe_each_other(tmp_path: Path) -> None:
    run_config, done = config(steps=6), []
    known = train_explainer(
        Louder(), run_config, out=tmp_path / "out", examples_dir=tmp_path / "examples", report=lambda record: done.append(record["step"])
    )
    path = tmp_path / "out" / "specsegdiff-louder.safetensors"
    model = assemble(*read(path))
    written = json.loads(path.with_suffix(".json").read_text())
    assert model.config == run_config.model
    assert model.sha256 == written["weights_sha256"] == known["weights_sha256"]
    assert written["file_bytes"] == path.stat().st_size
    assert (written["data_fingerprint"], written["steps"], written["examples"]) == ("louder-1", 6, 6)
    assert written["dev"]["calibration"]["calibration_error"] < 0.2
    assert done == list(range(1, 7))
    dev = cached(Louder(), "dev", run_config.plain_examples(), tmp_path / "examples")
    assert evaluate(model.network, model.config, dev)["mean"] == pytest.approx(written["dev"]["mean"], abs=1.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_losses_and_scores(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra train is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with board(tmp_path) as report:
        for step in (1, 2):
            report({"step": step, "loss": 0.5 / step} | ({"dev": {"mean": 30.0}} if step == 2 else {}))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [e.value for e in events.Scalars("dev/mean")] == [30.0]


def test_initial_weights_start_a_run(tmp_path: Path) -> None:
    first = train(config("one_shot"), examples())
    path = tmp_path / "w.safetensors"
    write(path, config("one_shot").model, first.best_weights, {})
    follow = start(config(initial=str(path)))
    for name, tensor in follow.network.state_dict().items():
        torch.testing.assert_close(tensor, first.best_weights[name], atol=1e-3, rtol=1e-3)
    with pytest.raises(WeightsError, match="initial must hold the network that is trained"):
        start(replace(config(initial=str(path)), model=preset("specsegdiff", "tiny", ("abs-log-v1",))))


def test_segmentation_loss_by_hand() -> None:
    logits = torch.tensor([[[[2.0, -1.0]], [[0.5, 0.5]]]])  # (1, 2, 1, 2)
    batch = Batch(torch.zeros(1, 3, 1, 2), torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]]))
    expected = (3 * np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2
    assert float(segmentation_loss(logits, batch, 3.0, 0.0)) == pytest.approx(expected, rel=1e-6)
    soft = torch.sigmoid(logits[0, 0, 0])
    dice = float((2 * soft[0] + 1) / (soft.sum() + 1 + 1))
    assert float(segmentation_loss(logits, batch, 3.0, 1.0)) == pytest.approx(expected + 1 - (dice + 1) / 2, rel=1e-6)


def test_generalized_dice_by_hand() -> None:
    heatmap, mask = torch.arange(20.0).reshape(4, 5), torch.zeros(4, 5)
    mask.view(-1)[[19, 18, 0, 1]] = 1
    value = 2 * (2 / 16 + 14 / 256) / (8 / 16 + 32 / 256)
    assert generalized_dice(heatmap, mask, torch.ones(4, 5) > 0) == pytest.approx(value)


def test_reliability_knows_calibrated_from_overconfident_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(200_000, generator=generator)
    mask = (torch.rand(200_000, generator=generator) < probability).float()
    honest = reliability(probability, probability * (1 - probability), mask)
    assert honest["calibration_error"] < 0.01
    assert honest["squared_error"] == pytest.approx(honest["expected_squared_error"], rel=0.02) == pytest.approx(1 / 6, rel=0.02)
    assert honest["deviation_correlation"] > 0.3
    sure = reliability((probability > 0.5).float(), torch.zeros(200_000), mask)
    assert sure["calibration_error"] == pytest.approx(0.25, abs=0.01)
    assert sure["deviation_correlation"] == 0


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate joins the processes")
    alone: list[float] = []
    train(config(batch_size=4), examples(), report=lambda r: alone.append(r["loss"]))
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; from test_training import config, examples, train\n"
        f"train(config(batch_size=4), examples(), out=Path({str(tmp_path / 'out')!r}))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    together = [r["loss"] for r in records(tmp_path / "out")]
    assert together == pytest.approx(alone, rel=2e-3)
    assert len(together) == 8


def test_a_student_learns_from_its_teacher(tmp_path: Path) -> None:
    made, path = examples(), tmp_path / "teacher.safetensors"
    teacher = train(config(steps=4), made)
    write(path, config().model, teacher.best_weights, {})
    student = config(steps=4, initial=str(path), teacher=str(path), student_steps=2)
    losses: list[float] = []
    train(student, made, report=lambda r: losses.append(r["loss"]))
    assert all(np.isfinite(losses))
    with pytest.raises(WeightsError, match="teacher must be the network that is trained"):
        train(replace(student, model=replace(student.model, network=replace(student.model.network, detail=2))), made)
    with pytest.raises(ValueError, match="teacher and student_steps must come together"):
        config(teacher=str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps must be at least 1, got 0"), ({"precision": "fp8"}, "precision must be float32 or bf16, got 'fp8'")],
)
def test_impossible_runs_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)
    with pytest.raises(ValueError, match="config must be one of paper, base, small, tiny, got 'huge'"):
        preset("specsegdiff", "huge")
