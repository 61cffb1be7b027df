"""Masks kept by content: computed once, read afterwards, made again when damaged; a corpus is streamed whatever its size."""

import resource
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from xaibench.benchmark.score import ClipScorer
from xaibench.errors import DataError, PairError
from xaibench.tasks import shelf
from xaibench.tasks.corpora.asvspoof2019 import ASVspoof2019
from xaibench.tasks.corpora.public_pairs import PublicPairs
from xaibench.tasks.corpora.vocv4 import FAMILIES, VocV4
from xaibench.tasks.masks import truth
from xaibench.tasks.pairs import PairedTask
from xaibench.tasks.recipes import recipe
from xaibench.tasks.shelf import build, kept_mask, mask_path
from xaibench.tasks.spectrogram import DEFAULT_STFT
from xaibench.types import Clip, Pair

RECIPES = ("sym-floor60-v1", "grinberg-rel-linear-v1")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def clip_of(seed, samples=16384):
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(samples, generator=generator) * torch.linspace(0.01, 0.2, samples)
    fake = real + 0.05 * torch.randn(samples, generator=generator)
    return Clip(Pair(str(seed), "u", "s", "v", "b", "f"), real, fake, samples)


def test_a_kept_mask_is_the_mask_and_is_computed_once(monkeypatch):
    clip = clip_of(0)
    expected = {name: truth(clip, name) for name in RECIPES}
    for name in RECIPES:
        assert torch.equal(kept_mask(clip, name)[0], expected[name].mask)
    monkeypatch.setattr(shelf, "truth", lambda *a: pytest.fail("computed again"))
    for name in RECIPES:
        mask, valid = kept_mask(clip, name)
        assert torch.equal(mask, expected[name].mask)
        assert torch.equal(valid, expected[name].valid)


def test_the_scorer_of_a_run_sees_the_kept_mask_bit_for_bit(shared_data):
    task = PublicPairs(data=str(shared_data))
    pair = task.pairs("dev")[0]
    clip = task.load(pair)
    world = SimpleNamespace(stft=lambda label: DEFAULT_STFT)
    scorer = ClipScorer(world, SimpleNamespace(ref=SimpleNamespace(task="public_pairs")), clip)
    for name in RECIPES:
        mask, valid = kept_mask(clip, name)
        target = scorer.target(name)
        assert (target.mask == mask.numpy()).all()
        assert (target.valid == valid.numpy()).all()


def test_another_sample_recipe_or_length_is_another_mask():
    clip = clip_of(0)
    changed = clip_of(0)
    changed.spoof[5000] += 1e-3
    short = Clip(clip.pair, clip.bonafide, clip.spoof, 9000)
    paths = {mask_path(c, recipe(name), DEFAULT_STFT) for c, name in product((clip, changed, short), RECIPES)}
    assert len(paths) == 6


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b"", lambda b: b"none" + b[4:], lambda b: b[:5] + b"\x07" + b[6:]])
def test_a_damaged_file_is_made_again(harm):
    clip = clip_of(0)
    expected, _ = kept_mask(clip)
    path = mask_path(clip, recipe(RECIPES[0]), DEFAULT_STFT)
    path.write_bytes(harm(path.read_bytes()))
    assert torch.equal(kept_mask(clip)[0], expected)
    assert torch.equal(shelf._read(path, tuple(expected.shape)), expected)


def test_without_a_cache_masks_are_computed_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "file"))
    clip = clip_of(0)
    assert torch.equal(kept_mask(clip)[0], truth(clip).mask)


def test_real_pairs_are_built_once_and_not_read_again(shared_data, tmp_path, monkeypatch):
    task = PublicPairs(data=str(shared_data))
    chosen = task.pairs("dev")[:4]
    monkeypatch.setattr(PublicPairs, "pairs", lambda self, split: list(chosen))
    first = build(task, ["dev"], RECIPES)
    assert (first.clips, first.masks, first.made) == (4, 8, 8)
    monkeypatch.setattr(PublicPairs, "load", lambda self, pair: pytest.fail("read again"))
    again = build(PublicPairs(data=str(shared_data)), ["dev"], RECIPES, jobs=2)
    assert (again.clips, again.masks, again.made, again.refused) == (4, 8, 0, {})


@dataclass(frozen=True)
class Many(PairedTask):
    """20 000 listed pairs of two clips; every tenth thousandth is no pair."""

    name: ClassVar[str] = "many"

    def listed(self):
        return [Pair(f"p{i}", f"u{i // 4}", f"s{i // 40}", f"v{i % 4}", "b", "f") for i in range(20_000)]

    def root(self):
        raise DataError("root must not be asked, got a call; nothing lies on the disk")

    def load(self, pair):
        number = int(pair.id[1:])
        if number == 7:
            raise PairError("spoof must be the same speech as its twin, got an envelope correlation of 0.1; pair it with its own recording")
        return clip_of(number % 2, 4096)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(monkeypatch):
    monkeypatch.setattr(shelf, "_stamps", lambda task, pair, recipes: pair.id)
    task, seen = Many(), {}
    built = build(task, ["test"], RECIPES[:1], progress=lambda done, total: seen.setdefault(done, peak_mb()) if done % 2000 == 0 else None)
    assert (built.clips, built.made, list(built.refused)) == (19_999, 2, ["p7"])
    assert seen[20_000] - seen[2000] < 40


def test_a_whole_voc_v4_tree_of_20512_names_is_listed_without_being_read(tmp_path):
    """The published number of files, all empty: listing reads none, counts all and asks for no `partial`."""
    voc, lines = tmp_path / "voc.v4", []
    (voc / "wav").mkdir(parents=True)
    (voc / "scp").mkdir()
    for letter, part, count in (("T", "train", 2580), ("D", "dev", 2548)):
        folder = tmp_path / f"LA/ASVspoof2019_LA_{part}/flac"
        folder.mkdir(parents=True)
        names = [f"LA_{letter}_{1000000 + 37 * i}" for i in range(count)]
        stems = [f"{vocoder}_{name}" for name in names for vocoder in FAMILIES]
        for name in names:
            (folder / f"{name}.flac").touch()
        for stem in stems:
            (voc / f"wav/{stem}.wav").touch()
        (voc / f"scp/{part}.lst").write_text("\n".join(stems))
        lines += [f"LA_{'00' if letter == 'T' else '01'}{int(s[-7:]) % 20:02d} {s} - {s.rpartition('_LA_')[0]} spoof" for s in stems]
    (voc / "protocol.txt").write_text("\n".join(lines))
    task = VocV4(data=str(tmp_path))
    assert (len(task.pairs("train")), len(task.pairs("test"))) == (10320, 10192)


def test_a_corpus_without_twins_has_nothing_to_build():
    with pytest.raises(DataError, match=r"task must hold twins to have masks, got asvspoof2019"):
        build(ASVspoof2019(), ["test"], RECIPES)
