import json
import shutil

import numpy as np
import pytest
import soundfile

from xaibench import load
from xaibench.errors import DataError, UnknownNameError
from xaibench.tasks.alignment import constant_lag
from xaibench.tasks.manifest import read_manifest
from xaibench.tasks.vocode import Selection, copy_recording, label, read_journal, vocode
from xaibench.types import CLIP_SAMPLES

VOCODERS = ["lpc", "opus:kbps=12"]


@pytest.fixture
def speech(tmp_path, shared_data):
    """Six recordings of five speakers, one at 44.1 kHz in a subfolder, and what is no recording."""
    folder = tmp_path / "speech"
    recordings = sorted((shared_data / "public_pairs/univnet_mindslab/gt").glob("*.flac"))[:5]
    for i, path in enumerate(recordings):
        samples, rate = soundfile.read(path)
        place = folder / f"s{i}" / f"{path.stem}.wav"
        place.parent.mkdir(parents=True)
        soundfile.write(place, samples[: 2 * rate] if i else np.repeat(samples[:rate], 3), 48000 if not i else rate)
    shutil.copy(folder / f"s4/{recordings[4].stem}.wav", folder / "s4/again.wav")
    (folder / "s1/notes.txt").write_text("no audio")
    (folder / "s1/broken.wav").write_bytes(b"RIFF, it says")
    return folder


def test_a_corpus_comes_out_that_the_folder_task_reads(speech, tmp_path):
    out, seen = tmp_path / "pairs", []
    done = vocode(speech, VOCODERS, out, progress=lambda *a: seen.append(a))
    assert (done.pairs, done.made, done.kept) == (12, 12, 0)
    assert list(done.failed) == ["s1/broken"]
    assert seen[-1] == (7, 7)
    pairs = read_manifest(done.manifest, out)
    assert {p.vocoder for p in pairs} == {"lpc", "opus-kbps12"}
    assert {p.family for p in pairs} == {load("vocoder", "lpc").kind, "codec"}
    assert {p.speaker for p in pairs} == {"s0", "s1", "s2", "s3", "s4"}
    assert {p.split for p in pairs} == {"train", "dev", "test"}
    task = load("task", "folder", data=str(out))
    for split in ("train", "dev", "test"):
        for p in task.pairs(split)[:2]:
            clip = task.load(p)
            assert clip.spoof.shape == (CLIP_SAMPLES,)
            assert abs(constant_lag(clip.bonafide[: clip.valid_samples], clip.spoof[: clip.valid_samples])) < 20


@pytest.mark.slow
def test_the_same_command_goes_on_and_makes_again_what_changed(speech, tmp_path, monkeypatch):
    out = tmp_path / "pairs"
    vocode(speech, VOCODERS, out, limit=2)
    (out / "spoof/lpc/s0").rename(out / "lost")
    with (out / "vocode.jsonl").open("a") as stream:
        stream.write('{"name": "cut sho')
    done = vocode(speech, VOCODERS, out)
    assert (done.pairs, done.made, done.kept) == (12, 9, 3)
    before = {(c.name, c.vocoder): c.spoof_sha256 for c in read_journal(out / "vocode.jsonl")}
    samples, rate = soundfile.read(speech / "s4/again.wav")
    soundfile.write(speech / "s4/again.wav", 0.5 * samples, rate)
    done = vocode(speech, ["lpc", "opus:kbps=12", "lpc:seed=1"], out)
    assert (done.pairs, done.made) == (18, 2 + 6)
    after = {(c.name, c.vocoder): c.spoof_sha256 for c in read_journal(out / "vocode.jsonl")}
    assert {k for k in before if after[k] != before[k]} == {("s4/again", "lpc"), ("s4/again", "opus-kbps12")}
    assert vocode(speech, VOCODERS, out).made == 0


@pytest.mark.slow
def test_two_processes_make_the_same_bits(speech, tmp_path):
    one, two = (vocode(speech, ["lpc"], tmp_path / name, jobs=jobs, limit=3) for name, jobs in (("one", 1), ("two", 2)))
    assert read_manifest(one.manifest) == read_manifest(two.manifest)


def test_what_is_there_is_kept_and_what_is_lost_is_made_again(speech, tmp_path):
    first = vocode(speech, ["lpc"], tmp_path / "pairs", limit=2)
    next((tmp_path / "pairs/spoof/lpc").rglob("*.*")).unlink()
    done = vocode(speech, ["lpc"], tmp_path / "pairs", limit=2)
    assert (first.pairs, first.made, done.made, done.kept) == (2, 2, 1, 1)
    assert read_manifest(first.manifest) == read_manifest(done.manifest)


def test_a_corpus_to_train_on_has_pieces_with_drawn_vocoders(speech, tmp_path):
    pool = ["lpc", "lpc:seed=1", "lpc:seed=2", "opus:kbps=12"]
    selection = Selection(per_recording=2, seconds=0.8, train=True)
    folders = [speech / "s2", speech / "s3", speech / "s4"]  # names are relative to their own folder
    one = vocode(folders, pool, tmp_path / "one", selection=selection)
    pairs = read_manifest(one.manifest, tmp_path / "one")
    assert {p.split for p in pairs} == {"train"}
    pieces = {p.utterance for p in pairs}
    assert (len(pieces), len(pairs)) == (4 * 2, 4 * 2 * 2)  # 2 s hold two pieces of .8 s
    assert 2 < len({p.vocoder for p in pairs}) <= 4
    name = sorted(pieces)[0]
    piece, rate = soundfile.read(tmp_path / "one/bonafide" / f"{name}.flac")
    assert len(piece) == 0.8 * rate
    recording, _ = soundfile.read(next(speech.rglob(f"{name.rsplit('-', 1)[0]}.wav")))
    first = np.correlate(recording, piece, "valid").argmax()
    assert np.allclose(recording[first : first + len(piece)], piece, atol=2e-4)
    assert first + len(piece) <= len(recording) / 2  # of its own half
    assert read_manifest(vocode(folders, pool, tmp_path / "two", selection=selection, jobs=2).manifest) == read_manifest(one.manifest)
    assert vocode(folders, pool, tmp_path / "one", selection=selection).made == 0


def test_what_cannot_be_done_is_said(speech, tmp_path):
    with pytest.raises(DataError, match=r"speech must be a folder of recordings, got .*nowhere"):
        vocode(tmp_path / "nowhere", VOCODERS, tmp_path / "out")
    with pytest.raises(UnknownNameError, match=r"vocoder must be a registered name, got 'lcp'; did you mean lpc"):
        vocode(speech, ["lcp"], tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"speech must hold recordings .* got none"):
        vocode(empty, VOCODERS, tmp_path / "out")
    soundfile.write(empty / "short.wav", np.zeros(100), 16000)
    with pytest.raises(DataError, match=r"recordings that can be copied, got none in .*at least 2048 samples"):
        vocode(empty, ["lpc"], tmp_path / "out")
    soundfile.write(empty / "short.flac", np.zeros(100), 16000)
    with pytest.raises(DataError, match=r"one file per name, got short.flac and short.wav"):
        vocode(empty, ["lpc"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"seconds must be 0 or at least 0\.128, got 0\.1"):
        Selection(seconds=0.1)
    with pytest.raises(ValueError, match=r"per_recording must be at least 0, got -1"):
        Selection(per_recording=-1)


def test_labels_are_names_of_folders_and_the_journal_is_plain(speech, tmp_path):
    assert label("opus:kbps=12,seed=3") == "opus-kbps12-seed3"
    path = next(speech.rglob("again.wav"))
    copies, failed = copy_recording(("s4/again", path), out=tmp_path / "o", specs={"lpc": "lpc"}, known={})
    assert not failed
    assert json.loads(copies[0][0].identity)["name"] == "lpc"
