"""Planted truth: regions are honest, clips repeat, parts add up, decoys match, voices do not cross, and the causal checks can fail."""

from dataclasses import replace
from itertools import product

import pytest
import soundfile
import torch
from torch import nn

from xaibench.errors import DataError, PairError, UnknownNameError
from xaibench.explainers.baselines import baselines
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import TASKS
from xaibench.tasks.corpora.planted import PlantedTask
from xaibench.tasks.corpora.planted.batches import STARTS, at_places, faded, stray
from xaibench.tasks.corpora.planted.kinds import KINDS
from xaibench.tasks.corpora.planted.plant import DECOYS, GRADES, SIZES, decoy, plant, transplant, undo
from xaibench.tasks.corpora.planted.region import AREA, FRAMES, Region, draw_region, elsewhere
from xaibench.tasks.detectors.batches import BatchRecipe
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN
from xaibench.tasks.masks import difference, truth
from xaibench.tasks.planted_checks import Evidence, causal_evidence
from xaibench.tasks.spectrogram import DEFAULT_STFT, inverse, log_magnitude, stft
from xaibench.types import CLIP_SAMPLES, Detector


@pytest.fixture(scope="module")
def task() -> PlantedTask:
    return TASKS.load("planted", kind="all")


@pytest.fixture(scope="module")
def recording(task):
    return task.recording(task.pairs("test")[0])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def energy(waveform: torch.Tensor) -> float:
    return float(waveform.square().sum())


@pytest.mark.parametrize(("kind", "grade"), [*product(KINDS, GRADES)])
def test_an_artifact_stays_in_its_region(recording, kind, grade):
    planted = plant(recording, kind, grade, seeded(3))
    low, high = SIZES[grade]
    assert low <= planted.size <= high
    inside = planted.region.mask(len(recording))
    power = stft(planted.artifact).abs().square()
    assert float(power[~inside].sum() / power.sum()) < 0.005
    reach = planted.region.mask(len(recording)).float()[None, None]
    reach = nn.functional.max_pool2d(reach, (9, 9), stride=1, padding=4)[0, 0] > 0
    assert float(power[~reach].max() / power.max()) < 1e-5  # a window away from the region nothing changed
    assert float(power[inside].sum()) > 0


def test_area_and_duration_are_as_stated():
    regions = [draw_region(251, seeded(i)) for i in range(200)]
    areas = [r.cells / (513 * 253) for r in regions]
    assert min(areas) > AREA[0] * 0.97
    assert max(areas) < AREA[1] * 1.03
    assert {r.stop - r.start for r in regions} <= set(range(FRAMES[0], FRAMES[1] + 1))
    assert all(r.start >= 0 and r.stop <= 251 and r.low >= 8 and r.high <= 440 for r in regions)
    assert len({r.start for r in regions}) > 100


def test_quarters_partition_the_region_and_undoing_them_adds_up(recording):
    planted = plant(recording, "clicks", "coarse", seeded(1))
    quarters = planted.region.quarters()
    counted = sum(q.mask(len(recording)).int() for q in quarters)
    assert torch.equal(counted > 0, planted.region.mask(len(recording)))
    assert int(counted.max()) == 1
    parts = [undo(planted.artifact, [q]) for q in quarters]
    torch.testing.assert_close(sum(parts), undo(planted.artifact, quarters), atol=1e-5, rtol=0)
    assert energy(planted.artifact - sum(parts)) < 0.005 * energy(planted.artifact)


def test_clips_repeat_to_the_bit_and_differ_between_pairs(task):
    first, other = task.pairs("test")[0], task.pairs("test")[1]
    once, again = task.load(first), TASKS.load("planted", kind=first.family).load(first)
    assert torch.equal(once.spoof, again.spoof)
    assert torch.equal(once.planted, again.planted)
    assert not torch.equal(once.planted, task.load(other).planted)
    assert once.valid_samples == CLIP_SAMPLES
    assert not torch.equal(once.spoof, once.bonafide)


def test_voices_do_not_cross_and_references_are_other_voices(task):
    speakers = {split: {p.speaker for p in task.pairs(split)} for split in ("train", "dev", "test")}
    assert (len(speakers["train"]), len(speakers["dev"]), len(speakers["test"])) == (20, 6, 21)
    assert not speakers["train"] & speakers["test"]
    assert not speakers["dev"] & (speakers["train"] | speakers["test"])
    assert len(task.pairs("test")) == 42 * len(KINDS) * 2
    pair = task.pairs("test")[0]
    assert task.references(pair).shape == (20, CLIP_SAMPLES)
    assert all(p.split == "train" for p in task.reference_pairs(pair))
    assert task.fingerprint() == TASKS.load("planted", kind="all").fingerprint()
    assert task.fingerprint() != TASKS.load("planted", kind="all", grade="coarse").fingerprint()


def test_options_choose_kinds_and_grades():
    task = TASKS.load("planted:kind=notch+tones,grade=subtle")
    assert {p.vocoder for p in task.pairs("test")} == {"notch_subtle", "tones_subtle"}
    assert {p.family for p in task.pairs("dev")} == {"notch", "tones"}
    with pytest.raises(UnknownNameError, match="kind must be default, all or some of plateau"):
        TASKS.load("planted:kind=notches").pairs("test")
    with pytest.raises(UnknownNameError, match="grade must be subtle, coarse or both"):
        TASKS.load("planted:grade=loud").pairs("test")


@pytest.mark.parametrize("how", DECOYS)
def test_decoys_match_area_and_energy_and_lie_elsewhere(recording, how):
    planted = plant(recording, "texture", "subtle", seeded(2))
    place = elsewhere(planted.region, 251, seeded(5))
    edit = decoy(recording, planted, place, how, recording.flip(0), seeded(5))
    assert energy(edit) == pytest.approx(energy(planted.artifact), rel=1e-4)
    power = stft(edit).abs().square()
    columns = power.sum(0) / power.sum()
    assert float(columns[planted.region.start : planted.region.stop].sum()) < 1e-3
    assert float(power[: planted.region.low - 4].sum() + power[planted.region.high + 4 :].sum()) < 1e-3 * float(power.sum())


def test_without_room_there_is_no_other_place():
    region = Region(20, 50, 8, 200)
    assert elsewhere(region, 80, seeded()) is None
    moved = elsewhere(region, 110, seeded())
    assert moved is not None
    assert 54 <= moved.start <= 80
    assert (moved.low, moved.high, moved.cells) == (region.low, region.high, region.cells)


def test_transplants_are_the_same_edit_at_another_place(recording):
    planted = plant(recording, "tones", "coarse", seeded(4))
    moved = transplant(recording, planted, seeded(6), away=True)
    assert energy(moved) == pytest.approx(energy(planted.artifact), rel=0.2)
    assert abs(float(moved @ planted.artifact)) < 1e-2 * energy(planted.artifact)


def test_planted_truth_is_the_region_and_needs_one(task):
    clip = task.load(task.pairs("test")[0])
    found = truth(clip, "planted-v1")
    assert torch.equal(found.mask, clip.planted)
    assert torch.equal(found.difference > 0, clip.planted)
    assert not found.empty
    assert 0 <= found.share_added <= 1
    assert truth(clip, "sym-floor60-v1").mask.sum() > 0
    with pytest.raises(PairError, match="clip must hold a planted region"):
        truth(replace(clip, planted=None), "planted-v1")
    with pytest.raises(ValueError, match="recipe must compare twins"):
        difference(clip.bonafide[None], clip.spoof[None], "planted-v1")


def test_any_folder_of_speech_will_do(tmp_path, recording):
    for speaker, samples in (("anna", 40_000), ("bert", 64_600), ("carl", 8_000)):
        (tmp_path / speaker).mkdir()
        soundfile.write(tmp_path / speaker / "one.wav", recording[:samples].numpy(), 16_000)
    task = TASKS.load("planted:speech=folder,kind=clicks,grade=coarse", data=str(tmp_path))
    pairs = {p.speaker: p for p in task.pairs("test")}
    clip = task.load(pairs["anna"])
    assert clip.valid_samples == 40_000
    assert torch.equal(clip.spoof[40_000:], clip.spoof[: CLIP_SAMPLES - 40_000])  # tiled with the artifact in every copy
    assert not clip.planted[:, 40_000 // 256 :].any()
    assert task.references(pairs["anna"]).shape == (20, CLIP_SAMPLES)
    with pytest.raises(PairError, match="must last a second"):
        task.load(pairs["carl"])
    with pytest.raises(DataError, match="data must name a folder that holds recordings"):
        TASKS.load("planted:speech=folder").pairs("test")


def test_training_batches_repeat_and_targets_follow_the_area(task):
    batches = [task.training_batches(BatchRecipe(n_pairs=2), seed=7) for _ in range(2)]
    waveform, target = batches[0].batch()
    same = batches[1].batch()
    assert torch.equal(waveform, same[0])
    assert torch.equal(target, same[1])
    assert waveform.shape == (12, 32_000)
    recordings, planted, parts, decoys, faded, empty = target.mean(dim=(1, 2)).split(2)
    assert not any(part.any() for part in (recordings, decoys, empty))
    assert bool((planted > parts).all() and (parts > 0).all())
    assert bool((planted > faded).all() and (faded > 0).all())
    assert set(target[:8].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", STARTS)
def test_faded_clips_lie_on_the_path_that_explainers_walk(task, recording, name):
    other = task.recording(task.pairs("test")[-1])
    wrapper = RawWrapper(SpectrogramCNN("random"), DEFAULT_STFT, len(recording))
    start = baselines(name, wrapper, other[None])
    level, phase = wrapper.split(recording[None])
    expected = inverse(torch.polar((0.3 * level + 0.7 * start).exp(), phase), len(recording))[0]
    torch.testing.assert_close(faded(recording, name, 0.3, other), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(faded(recording, name, 1.0, other), recording, atol=1e-4, rtol=0)


class Weighted(torch.nn.Module):
    """Log-magnitudes, weighed: the gradients by them are the weights."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward(self, waveform):
        return (self.weights * log_magnitude(waveform)).sum(dim=(1, 2))


def test_gradients_outside_a_region_count_by_their_share(recording):
    clips = torch.stack([recording, recording.flip(0)])[:, :16_000]
    weights = torch.zeros(513, 63)
    weights[100:200, 20:40], weights[300:320, 20:40] = 1, -2
    region = torch.zeros(2, 513, 63)
    region[:, 100:200] = 1
    net = Weighted(weights)
    found = stray(net, clips, region)
    # 2000 inside against 800 outside; neighbouring cells overlap, so what a waveform can be made of blurs the shares a little
    assert found.item() == pytest.approx(800 / 2800, abs=0.05)
    found.backward()
    assert net.weights.grad[310, 30].item() < 0  # it is larger in size that costs more
    assert net.weights.grad[150, 30].item() < 0
    deaf = Weighted(torch.zeros(513, 63))
    assert stray(deaf, clips, region).item() == 0


def test_places_are_centred_where_strided_layers_look():
    planted = torch.zeros(1, 513, 126)
    planted[:, 72:88, 24:40] = 1  # around bin 80 and frame 32, that is place (5, 2) at a stride of 16
    found = at_places(planted, 33, 8)[0]
    assert found.shape == (33, 8)
    assert found[5, 2] == 1
    assert found.sum() == 1
    assert at_places(torch.ones(1, 513, 126), 8, 16).shape == (1, 8, 16)


class Meter(Detector):
    """Ten times the energy in some bins, over that of an average clip."""

    name = "meter"

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, waveform):
        return stft(waveform)[:, self.low : self.high].abs().square().sum((1, 2)) / 1e4


def test_a_meter_of_energy_falls_for_decoys_and_closes_each_quarter_by_its_energy(task):
    found = causal_evidence(task, "tones", Meter(0, 513), clips=4)
    assert found.moved_place == pytest.approx(1, abs=0.2)
    assert found.moved_clip > 0.2
    assert sum(found.quarters) == pytest.approx(1, abs=0.1)
    assert max(found.decoys["speech"], found.decoys["phases"]) > 0.5
    assert any("decoy" in failure for failure in found.failures())


def test_a_detector_of_one_band_leaves_quarters_idle(task):
    found = causal_evidence(task, "tones", Meter(0, 60), clips=12)  # the upper half of every region lies above bin 60
    assert found.gap > 0.01
    assert max(found.quarters[2:]) < 0.01
    assert sum(failure.startswith(("quarter 3", "quarter 4")) for failure in found.failures()) == 2


def test_each_bound_can_fail_alone():
    good = Evidence("tones", 8, 0.0, 6.0, 1.0, 1.0, dict.fromkeys(DECOYS, 0.01), (0.25,) * 4, {"occlusion": 0.7})
    assert good.failures() == []
    bad = {
        "eer": 0.02,
        "moved_place": 0.94,
        "moved_clip": 0.94,
        "decoys": {**good.decoys, "gain": 0.05},
        "quarters": (0.3, 0.3, 0.3, 0.09),
        "found": {"occlusion": 0.59},
    }
    for name, value in bad.items():
        assert len(replace(good, **{name: value}).failures()) == 1, name
