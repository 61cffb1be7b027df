"""Training: twins are disturbed alike, equal seeds give equal weights, and a detector learns what differs."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from wav2vec2_toys import FRONT

from xaibench.errors import MissingExtraError, RunError, UnknownNameError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors import training
from xaibench.tasks.detectors.batches import BatchRecipe, PairBatches
from xaibench.tasks.detectors.card import baseline_log_odds
from xaibench.tasks.detectors.checkpoints import Checkpoint
from xaibench.tasks.detectors.launch import Launch, launch
from xaibench.tasks.detectors.recipes import RECIPES, TrainingRecipe, named_recipe
from xaibench.tasks.detectors.training import _loss, train_detector
from xaibench.tasks.detectors.wav2vec2 import Wav2Vec2
from xaibench.tasks.detectors.weights import write_safetensors
from xaibench.types import Clip, Pair, Task, tensors_hash

SAMPLES = 12_000


class Clicks(Task):
    """A chord, and its twin with clicks; ``strength`` 0 makes equal twins."""

    name = "clicks"

    def __init__(self, strength: float = 1.0, splits: tuple[str, ...] = ("train", "dev", "test")):
        object.__setattr__(self, "strength", strength)
        object.__setattr__(self, "splits", splits)

    def pairs(self, split):
        count = {"train": 12, "dev": 4, "test": 6}[split] if split in self.splits else 0
        return [
            Pair(f"{split}{n}", f"{split}{n}", f"{split}{n}", "click", f"{split}{n}", f"{split}{n}s", split=split) for n in range(count)
        ]

    def load(self, pair):
        generator = torch.Generator().manual_seed(sum(map(ord, pair.id)))
        pitches = 0.02 + 0.1 * torch.rand(4, 1, generator=generator)
        chord = 0.05 * torch.sin(pitches * torch.arange(SAMPLES)).sum(0) + 0.001 * torch.randn(SAMPLES, generator=generator)
        spoof = chord.clone()
        spoof[::400] += self.strength * 0.5
        return Clip(pair, chord, spoof, SAMPLES)

    def references(self, pair):
        return torch.zeros(20, SAMPLES)

    def fingerprint(self):
        return "clicks"


def test_equal_twins_stay_equal_whatever_is_drawn_and_empty_clips_have_even_targets():
    batches = PairBatches(Clicks(strength=0), BatchRecipe(n_pairs=3, noise_share=1.0, shortest_s=0.3), seed=1)
    lengths = set()
    for _ in range(5):
        waveform, target = batches.batch()
        lengths.add(waveform.shape[1])
        assert target.tolist() == [0, 0, 0, 1, 1, 1, 0.5, 0.5]
        assert torch.equal(waveform[:3], waveform[3:6])
        assert waveform[:6].abs().max() <= 1
        assert not torch.equal(waveform[0], waveform[1])
    assert len(lengths) > 1


@pytest.mark.parametrize("algorithm", range(1, 9))
def test_equal_twins_stay_equal_under_rawboost_in_a_batch(algorithm: int):
    recipe = replace(RECIPES["ssl_antispoofing"].batches, n_pairs=2, shortest_s=0.5, longest_s=0.5, rawboost=algorithm)
    waveform, target = PairBatches(Clicks(strength=0), recipe, seed=2).batch()
    assert waveform.shape == (4, 8_000)
    assert target.tolist() == [0, 0, 1, 1]
    assert torch.equal(waveform[:2], waveform[2:])
    plain, _ = PairBatches(Clicks(strength=0), replace(recipe, rawboost=0), seed=2).batch()
    assert not torch.allclose(waveform, plain, atol=1e-3)


def test_batches_depend_on_the_seed_alone():
    streams = [iter(PairBatches(Clicks(), BatchRecipe(n_pairs=2), seed=s)) for s in (3, 3, 4)]
    first, again, other = (next(s)[0] for s in streams)
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_a_detector_learns_clicks_reproducibly_and_its_card_says_so(tmp_path):
    shares = []
    card = train_detector(Clicks(), "spectrogram_cnn", out=tmp_path, steps=12, seed=0, progress=lambda share, figures: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert card["quality"]["test"]["all"]["auc"] > 0.95
    assert card["quality"]["test"]["vocoder:click"]["pairs"] == 6
    assert card["steps"] == 12
    assert set(card["average_spectrum_control"]) == {"dev", "test"}
    path = tmp_path / "spectrogram_cnn-clicks.safetensors"
    detector = DETECTORS.load("spectrogram_cnn", weights=str(path))
    assert detector.fingerprint() == card["fingerprint"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]
    assert json.loads(path.with_suffix(".json").read_text())["fingerprint"] == card["fingerprint"]
    with torch.no_grad():
        assert baseline_log_odds(detector, [])["silence"] == pytest.approx(card["log_odds"]["silence"], abs=1e-5)

    few = [
        train_detector(Clicks(), "spectrogram_cnn", out=tmp_path / n, steps=2, seed=s)["fingerprint"]
        for n, s in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert few[0] == few[1] != few[2]


def test_the_published_recipe_is_the_published_one():
    recipe = RECIPES["ssl_antispoofing"]
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay, recipe.epochs) == ("adam", 1e-6, 1e-4, 100)
    assert (2 * recipe.batches.n_pairs + recipe.batches.n_empty, recipe.batches.rawboost) == (14, 5)
    assert (recipe.schedule, recipe.ranking_weight, recipe.clip_norm) == ("constant", 0, 0)
    logits, target = torch.randn(14, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0] * 7 + [1.0] * 7)
    published = torch.nn.functional.cross_entropy(logits, 1 - target.long(), weight=torch.tensor([0.1, 0.9]))  # class 0 is spoof there
    torch.testing.assert_close(_loss(logits[:, 0] - logits[:, 1], target, 7, recipe), published)
    with pytest.raises(UnknownNameError, match="recipe must be one of twins, tiny, planted, ssl_antispoofing, got 'best'"):
        named_recipe("best")


FAST = replace(RECIPES["ssl_antispoofing"].batches, n_pairs=3, shortest_s=0.3, longest_s=0.3)
TINY_RECIPE = replace(RECIPES["ssl_antispoofing"], batches=FAST, epochs=1, checks=2, learning_rate=1e-3)


def test_an_epoch_is_as_many_steps_as_it_takes_pairs(tmp_path):
    card = train_detector(Clicks(), "spectrogram_cnn", out=tmp_path, recipe=TINY_RECIPE)
    assert card["steps"] == 4  # 12 pairs, 3 in a batch
    assert card["recipe"]["batches"]["rawboost"] == 5


class StoppedError(Exception):
    pass


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "Checkpoint", partial(Checkpoint, every_s=0.0))
    name = "wav2vec2_aasist_tiny"  # has dropout: random states count

    def train(out, **options):
        return train_detector(Clicks(), name, out=out, recipe=TINY_RECIPE, **options)["fingerprint"]

    def stop(share, figures):
        if share >= 0.5:
            raise StoppedError

    whole = train(tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(tmp_path / "halves", progress=stop)
    checkpoint = tmp_path / "halves" / f"{name}-clicks.checkpoint"
    assert checkpoint.is_file()
    with pytest.raises(RunError, match=r"must be free or hold a checkpoint of this training, got .*checkpoint of another"):
        train(tmp_path / "halves", seed=1)
    seen = []
    assert train(tmp_path / "halves", progress=lambda share, _: seen.append(share)) == whole
    assert seen == [0.75, 1.0]
    assert not checkpoint.exists()


def test_training_leaves_the_callers_random_state(tmp_path):
    before = torch.get_rng_state()
    train_detector(Clicks(), "wav2vec2_aasist_tiny", out=tmp_path, recipe=TINY_RECIPE, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_accelerate_trains_to_the_same_weights(tmp_path, monkeypatch):
    accelerate = pytest.importorskip("accelerate", reason="pip install 'xaibench[train]' to run this test")
    plain = train_detector(Clicks(), "wav2vec2_aasist_tiny", out=tmp_path / "plain", recipe=TINY_RECIPE)
    monkeypatch.setattr(training, "launch", lambda device, precision: Launch(torch.device("cpu"), accelerate.Accelerator(cpu=True)))
    through = train_detector(Clicks(), "wav2vec2_aasist_tiny", out=tmp_path / "through", recipe=TINY_RECIPE)
    assert through["fingerprint"] == plain["fingerprint"]


def test_precision_and_processes_need_accelerate(monkeypatch):
    with pytest.raises(ValueError, match="precision must be one of float32, bf16, got 'fp8'"):
        launch("cpu", "fp8")
    assert launch("cpu").accelerator is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert launch("cpu").accelerator is None
    with pytest.raises(
        MissingExtraError, match=r"precision bf16 in 1 process\(es\) needs accelerate; run: pip install 'xaibench\[train\]'"
    ):
        launch("cpu", "bf16")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MissingExtraError, match=r"precision float32 in 2 process"):
        launch("cpu")


def test_a_training_without_budget_or_pairs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="steps or minutes must be given, got neither"):
        train_detector(Clicks(), "spectrogram_cnn", out=tmp_path)
    with pytest.raises(ValueError, match="task must have training pairs, got none in 'clicks'"):
        train_detector(Clicks(splits=("test",)), "spectrogram_cnn", out=tmp_path, steps=1)


def test_channels_can_be_chosen_for_untrained_cnns_only(tmp_path):
    recipe = TrainingRecipe(channels=(4, 6, 8))
    card = train_detector(Clicks(), "waveform_cnn", out=tmp_path / "small.safetensors", steps=1, recipe=recipe)
    assert DETECTORS.load("waveform_cnn", weights=tmp_path / "small.safetensors").config.channels == (4, 6, 8)
    assert card["recipe"]["channels"] == [4, 6, 8]
    with pytest.raises(ValueError, match="channels must be left out for spectrogram_cnn from minivoc"):
        train_detector(Clicks(), "spectrogram_cnn", out=tmp_path, steps=1, recipe=TrainingRecipe(channels=(4,), start="minivoc"))


def hugging_face_folder(folder: Path) -> Path:
    """Save an untrained front end of the toy sizes under Hugging Face's names."""
    folder.mkdir()
    channels, kernels, strides = zip(*FRONT.convolutions, strict=True)
    sizes = {"hidden_size": FRONT.width, "num_hidden_layers": FRONT.depth, "num_attention_heads": FRONT.heads}
    sizes |= {"intermediate_size": FRONT.hidden, "conv_dim": channels, "conv_kernel": kernels, "conv_stride": strides}
    sizes |= {"num_conv_pos_embeddings": FRONT.position_kernel, "num_conv_pos_embedding_groups": FRONT.position_groups}
    form = {"model_type": "wav2vec2", "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, "hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(form | sizes))
    write_safetensors(folder / "model.safetensors", Wav2Vec2(FRONT).state_dict(), {"format": "pt"})
    return folder


@pytest.mark.slow
def test_the_published_recipe_fine_tunes_a_front_end_under_a_new_back_end(tmp_path):
    folder = hugging_face_folder(tmp_path / "xlsr")
    before = DETECTORS.load("wav2vec2_aasist", weights=str(folder), back_end="random", seed=3).state_dict()
    recipe = replace(TINY_RECIPE, start=str(folder))
    card = train_detector(Clicks(), "wav2vec2_aasist:back_end=random", out=tmp_path, steps=2, seed=3, recipe=recipe)
    trained = DETECTORS.load("wav2vec2_aasist", weights=str(tmp_path / "wav2vec2_aasist-clicks.safetensors"))
    assert trained.fingerprint() == card["fingerprint"]
    assert trained.config.front == FRONT
    learned = {name for name, _ in trained.named_parameters()}
    moved = {name for name in learned if not torch.equal(trained.state_dict()[name], before[name])}
    assert {"front.feature_extractor.conv_layers.0.conv.weight", "out_layer.weight"} <= moved
    largest = max((trained.state_dict()[name] - before[name]).abs().max() for name in learned)
    assert largest < 2.2e-3  # two steps of Adam at 1e-3


LAUNCHED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_training import Clicks, TINY_RECIPE
from xaibench.tasks.detectors import training
from xaibench.types import tensors_hash

learned = []
training.assess = lambda detector, task, pairs: learned.append(tensors_hash(dict(detector.named_parameters()))) or {}
card = training.train_detector(Clicks(), "wav2vec2_aasist_tiny", out=sys.argv[2], recipe=TINY_RECIPE)
print("TRAINED", card["steps"], learned[0], flush=True)
"""


@pytest.mark.slow
def test_two_processes_train_one_detector(tmp_path):
    pytest.importorskip("accelerate", reason="pip install 'xaibench[train]' to run this test")
    script, out = tmp_path / "train.py", tmp_path / "out"
    script.write_text(LAUNCHED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    command += [str(Path(__file__).parent), str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    told = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("TRAINED")]
    assert [steps for steps, _ in told] == ["2", "2"]  # 12 pairs, 3 in each of two processes
    saved = DETECTORS.load("wav2vec2_aasist_tiny", weights=str(out / "wav2vec2_aasist_tiny-clicks.safetensors"))
    assert {tensors_hash(dict(saved.named_parameters()))} == {parameters for _, parameters in told}  # of both, after different batches
