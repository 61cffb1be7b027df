import csv
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xaibench.errors import DataError, DataMismatchError, MissingExtraError
from xaibench.registry import TASKS, VOCODERS
from xaibench.tasks.audio import decoded_sha256, read_audio
from xaibench.tasks.corpora.minivoc import Minivoc, make, synthesis
from xaibench.tasks.corpora.minivoc.lists import BONAFIDE, PACKAGE, default_train_dir, read_list, write_list
from xaibench.tasks.corpora.minivoc.make import make_train, make_utterance
from xaibench.tasks.corpora.minivoc.room import Recording, record
from xaibench.tasks.corpora.minivoc.voices import SEEN_VOCODERS, UNSEEN_VOCODERS, generator, plan, texts, voices
from xaibench.types import content_hash

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def task() -> Minivoc:
    return TASKS.get("minivoc")()


def test_counts(task: Minivoc) -> None:
    test, dev, train = task.pairs("test"), task.pairs("dev"), task.pairs("train")
    assert len({p.utterance for p in test}) == 42
    assert len({p.speaker for p in test}) == 21
    assert Counter(p.vocoder for p in test) == dict.fromkeys((*SEEN_VOCODERS, *UNSEEN_VOCODERS), 42)
    assert len({p.utterance for p in dev}) == 12
    assert len({p.speaker for p in dev}) == 6
    assert len({p.vocoder for p in dev}) == 5
    assert len({p.utterance for p in train}) >= 500
    assert len({p.speaker for p in train}) >= 24
    assert {p.vocoder for p in train} == set(SEEN_VOCODERS)
    assert {p.vocoder for p in test if not p.seen_vocoder} == set(UNSEEN_VOCODERS)
    assert len({p.utterance for p in test[:48]}) >= 40


def test_no_split_shares_a_speaker_variant_utterance_or_sentence(task: Minivoc) -> None:
    for a, b in itertools.combinations(SPLITS, 2):
        for key in (lambda p: p.speaker, lambda p: p.utterance, lambda p: p.spoof_sha256, lambda p: p.bonafide_sha256):
            assert not {key(p) for p in task.pairs(a)} & {key(p) for p in task.pairs(b)}
        variants = [{v.variant.lower() for v in voices() if v.split == s} for s in (a, b)]
        assert not variants[0] & variants[1]
        assert not {u.text for u in plan(a)} & {u.text for u in plan(b)}
    spoken = [line for lines in texts().values() for line in lines]
    assert len(spoken) == len(set(spoken))
    assert len({u.text for s in SPLITS for u in plan(s)}) == sum(len(plan(s)) for s in SPLITS)


def test_manifest_follows_the_plan(task: Minivoc) -> None:
    for split in SPLITS:
        assert {p.utterance for p in task.pairs(split)} == {u.id for u in plan(split)}
        assert {(p.utterance, p.speaker) for p in task.pairs(split)} == {(u.id, u.voice.id) for u in plan(split)}


def test_families_are_the_kinds_of_the_vocoders(task: Minivoc) -> None:
    names = (*SEEN_VOCODERS, *UNSEEN_VOCODERS)
    assert len(names) == 6
    assert {(p.vocoder, p.family) for p in task.pairs("test")} == {(n, VOCODERS.get(n).kind) for n in names}


def test_every_shipped_file_is_listed_and_has_its_hash(task: Minivoc) -> None:
    listed = {r.path: r.sha256 for r in read_list(PACKAGE / "references.csv")}
    for p in (*task.pairs("test"), *task.pairs("dev")):
        listed |= {p.bonafide: p.bonafide_sha256, p.spoof: p.spoof_sha256}
    shipped = sorted((PACKAGE / "audio").rglob("*.flac"))
    assert {f.relative_to(PACKAGE).as_posix() for f in shipped} == set(listed)
    assert sum(f.stat().st_size for f in shipped) < 30e6
    for file in shipped:
        waveform = read_audio(file)
        assert decoded_sha256(waveform) == listed[file.relative_to(PACKAGE).as_posix()]
        assert waveform.shape == (synthesis.UTTERANCE_SAMPLES,)
        assert waveform.abs().max() < 1


def test_frozen_part_never_changes(task: Minivoc) -> None:
    """Results are compared across years; a new corpus is a new version."""
    hashes = sorted(p.spoof_sha256 + p.bonafide_sha256 for s in ("test", "dev") for p in task.pairs(s))
    hashes += sorted(r.sha256 for r in read_list(PACKAGE / "references.csv"))
    assert content_hash(hashes) == "52b6b34e7174db6119a221c0e0e265d652ce4d566a0bdbf5380680e8ea17277a"


def test_clip(task: Minivoc) -> None:
    pair = task.pairs("test")[0]
    clip = task.load(pair)
    assert clip.pair == pair
    assert clip.bonafide.shape == clip.spoof.shape == (64_600,)
    assert clip.valid_samples == 64_600
    assert float(clip.spoof.square().mean()) == pytest.approx(float(clip.bonafide.square().mean()), rel=1e-3)
    quiet = clip.bonafide[: 64_600 // 1600 * 1600].reshape(-1, 1600).square().mean(1).sqrt()
    assert quiet.min() > 1e-4  # a noise floor throughout, never digital silence


def test_references_are_of_other_voices_that_train(task: Minivoc) -> None:
    references = task.references(task.pairs("test")[0])
    assert references.shape == (20, 64_600)
    assert len({tuple(r[:50].tolist()) for r in references}) == 20
    rows = read_list(PACKAGE / "references.csv")
    assert len({r.speaker for r in rows}) == 20
    train = {(p.utterance, p.bonafide_sha256) for p in task.pairs("train")}
    assert {(r.utterance, r.sha256) for r in rows} <= train
    own = next(p for p in task.pairs("train") if p.speaker == rows[0].speaker)
    others = task.references(own)
    assert others.shape == (20, 64_600)
    assert not any(torch.equal(r, references[0]) for r in others)


def test_train_pair_that_was_not_made(task: Minivoc) -> None:
    with pytest.raises(DataError, match=r"train split of minivoc must be made before use, .* run `xaibench data make minivoc`"):
        task.load(task.pairs("train")[0])


def test_room_keeps_length_level_and_time() -> None:
    click = np.zeros(16_000)
    click[4000] = 1.0
    wet = record(click, generator("a test"))
    assert wet.shape == click.shape
    assert abs(wet).argmax() == 4000
    level = Recording.draw(generator("a test")).speech_dbfs
    assert 10 * np.log10(np.mean(wet**2)) == pytest.approx(level, abs=0.1)


def needs(*programs: str) -> None:
    for program in programs:
        if not synthesis.engine_version(program):
            pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("engine", ["espeak-ng", "flite"])
def test_one_utterance_end_to_end(engine: str, tmp_path: Path) -> None:
    needs(engine)
    utterance = next(u for u in plan("train") if u.voice.engine == engine)
    made = make_utterance(utterance, vocoders=("lpc",), folder=tmp_path, known={})
    assert [r.path for r in made] == [f"bonafide/{utterance.id}.flac", f"lpc/{utterance.id}.flac"]
    again = make_utterance(utterance, vocoders=("lpc",), folder=tmp_path / "again", known={})
    assert made == again
    for row in made:
        assert decoded_sha256(read_audio(tmp_path / row.path)) == row.sha256
    published = make.published()
    if "1.51" in synthesis.engine_version("espeak-ng"):
        assert {published[r.utterance, r.vocoder] for r in made[:1]} == {made[0].sha256}


def test_making_resumes_and_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("espeak-ng")
    monkeypatch.setattr(make, "SEEN_VOCODERS", ("lpc",))
    monkeypatch.setattr(make, "published", dict)
    steps: list[tuple[int, int]] = []
    made = make_train(tmp_path, jobs=1, limit=2, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    assert read_list(tmp_path / "made.csv") == made
    first, second = tmp_path / made[0].path, tmp_path / made[3].path
    stamp = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:5000])
    assert make_train(tmp_path, jobs=1, limit=2) == made
    assert first.stat().st_mtime_ns == stamp
    assert decoded_sha256(read_audio(second)) == made[3].sha256


def test_other_samples_than_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("espeak-ng")
    monkeypatch.setattr(make, "SEEN_VOCODERS", ())
    monkeypatch.setattr(make, "published", lambda: {(plan("train")[0].id, BONAFIDE): "0" * 64})
    with pytest.warns(UserWarning, match="train split of minivoc must have the published samples, got 1 other files of 1"):
        make_train(tmp_path, jobs=1, limit=1)
    with pytest.raises(DataMismatchError, match="published with eSpeak NG"):
        make_train(tmp_path, jobs=1, limit=1, strict=True)


def test_local_train_split_is_verified_by_its_own_list(task: Minivoc) -> None:
    folder = default_train_dir()
    pair = next(p for p in task.pairs("train") if any(r.utterance == p.utterance for r in read_list(PACKAGE / "references.csv")))
    shipped = read_audio(PACKAGE / f"audio/references/bonafide/{pair.utterance}.flac")
    for path in (pair.bonafide, pair.spoof):
        make.write_audio(folder / path, shipped)
    fresh = Minivoc()
    with pytest.raises(DataMismatchError, match="must decode to the listed samples"):
        fresh.load(pair)
    rows = [make.Recorded(pair.utterance, pair.speaker, v, "", decoded_sha256(shipped)) for v in (BONAFIDE, pair.vocoder)]
    write_list(folder / "made.csv", rows)
    assert torch.equal(Minivoc().load(pair).bonafide, shipped[:64_600])
    assert Minivoc().fingerprint() == task.fingerprint()


def test_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis.shutil, "which", lambda _: None)
    with pytest.raises(MissingExtraError, match="needs espeak-ng, which is not installed; run `apt-get install espeak-ng flite`"):
        synthesis.speak(voices()[0], "hello")


def test_short_sentence_is_refused() -> None:
    needs("espeak-ng")
    with pytest.raises(DataError, match=r"must have 4.1 s of speech, got .* lengthen its sentence"):
        synthesis.recording(replace(plan("test")[0], text="Too short."))


def test_card_tells_the_truth() -> None:
    card = (PACKAGE / "CARD.md").read_text()
    with (PACKAGE / "manifest.csv").open(newline="") as stream:
        vocoders = {row["vocoder"] for row in csv.DictReader(stream)}
    assert all(f"`{name}`" in card for name in vocoders)
    for words in ("CC0-1.0", "no human speech", "espeak-ng", "flite", "pyworld"):
        assert words in card
