import csv
import warnings
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from xaibench import load
from xaibench.errors import DataError
from xaibench.tasks.corpora import folder as module
from xaibench.tasks.corpora.folder import Folder
from xaibench.tasks.pairs import write_manifest
from xaibench.types import CLIP_SAMPLES, Pair

RATE = 16000


def speech(seed, seconds=1.0, rate=RATE):
    """Syllables of filtered noise: band envelopes that only the same seed shares; at another rate the same sound."""
    rng = np.random.default_rng(seed)
    n = round(seconds * 48000)
    sound = np.zeros(n)
    for start in range(0, n - 4800, 7200):
        length = int(rng.integers(3000, 7000))
        t = np.arange(min(length, n - start)) / 48000
        sound[start : start + len(t)] += np.hanning(len(t)) * sum(
            np.sin(2 * np.pi * f * t + rng.random()) for f in rng.uniform(150, 6000, 6)
        )
    sound = 0.1 * sound + 1e-4 * rng.standard_normal(n)
    import soxr

    return soxr.resample(sound, 48000, rate) if rate != 48000 else sound


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)


@pytest.fixture
def twins(tmp_path):
    """Three recordings of three speakers and two vocoders, one late by 48 samples, one that names its files ``_gen``."""
    for i, name in enumerate(("1089_a", "p225_b", "lj-c")):
        whole = speech(i)
        write(tmp_path / f"bonafide/{name}.wav", whole)
        write(tmp_path / f"spoof/late/{name}.flac", 0.5 * np.concatenate([whole[:48][::-1], whole]))
        write(tmp_path / f"spoof/suffixed/{name}_gen.wav", whole[160:])
    return tmp_path


def test_pairs_are_found_by_name_with_speakers_lags_and_hashes(twins):
    task = load("task", "folder", data=str(twins))
    pairs = task.pairs("test")
    assert {p.id for p in pairs} == {
        *(f"late/{n}" for n in ("1089_a", "p225_b", "lj-c")),
        *(f"suffixed/{n}_gen" for n in ("1089_a", "p225_b", "lj-c")),
    }
    assert {p.speaker for p in pairs} == {"1089", "p225", "lj"}
    assert {p.utterance for p in pairs} == {"1089_a", "p225_b", "lj-c"}
    for p in pairs:
        assert p.lag == pytest.approx(48 if p.vocoder == "late" else -160, abs=4)
        assert len(p.bonafide_sha256) == len(p.spoof_sha256) == 64
        assert task.load(p).bonafide.shape == (CLIP_SAMPLES,)
    assert not task.pairs("train")
    assert not task.pairs("dev")
    assert not task.report.sentences()


def test_without_a_train_split_references_are_the_folders_other_speakers(twins):
    task = Folder(data=str(twins))
    for p in task.pairs("test"):
        chosen = task.reference_pairs(p)
        assert len(chosen) == 20
        assert {r.speaker for r in chosen} == {"1089", "p225", "lj"} - {p.speaker}
    assert task.references(p).shape == (20, CLIP_SAMPLES)


def test_every_rate_and_format_is_read(tmp_path):
    write(tmp_path / "bonafide/a_1.wav", speech(0, rate=8000), 8000)
    stereo = speech(0, rate=48000)
    write(tmp_path / "spoof/v/a_1.ogg", np.stack([stereo, stereo], -1), 48000)
    task = Folder(data=str(tmp_path))
    (p,) = task.pairs("test")
    assert task.load(p).valid_samples == pytest.approx(RATE, abs=200)


def test_nothing_is_dropped_silently(twins):
    write(twins / "bonafide/solo_x.wav", speech(7))
    write(twins / "spoof/late/orphan.wav", speech(8))
    write(twins / "spoof/late/solo2_gen.flac", speech(8))
    write(twins / "bonafide/other_y.wav", speech(9))
    write(twins / "spoof/late/other_y.wav", speech(10))
    write(twins / "bonafide/long_z.wav", speech(11))
    write(twins / "spoof/late/long_z.wav", np.tile(speech(11), 2))
    write(twins / "bonafide/broken_w.wav", speech(12))
    (twins / "spoof/late/broken_w.wav").write_bytes(b"no audio")
    task = Folder(data=str(twins))
    with pytest.warns(UserWarning, match=r"no spoof|no recording|refused") as caught:
        assert len(task.pairs("test")) == 6
    said = sorted(str(w.message).split(": ", 1)[1] for w in caught)
    assert said[0] == "1 recordings have no spoof: bonafide/solo_x.wav"
    assert said[1] == "2 spoof files have no recording of the same name: spoof/late/orphan.wav, spoof/late/solo2_gen.flac"
    assert said[2].startswith("3 pairs are refused: ")
    assert set(task.report.refused) == {"late/other_y", "late/long_z", "late/broken_w"}
    assert "correlation of" in task.report.refused["late/other_y"]
    assert "got 2.00 s and 1.00 s" in task.report.refused["late/long_z"]
    assert "broken_w.wav" in task.report.refused["late/broken_w"]


def test_lags_are_kept_by_content_hash_and_estimated_once(twins, monkeypatch):
    calls = []
    estimate = module.constant_lag
    monkeypatch.setattr(module, "constant_lag", lambda b, s: calls.append(1) or estimate(b, s))
    first = Folder(data=str(twins))
    lags = {p.id: p.lag for p in first.pairs("test")}
    assert len(calls) == 6
    monkeypatch.setattr(module, "read_audio", lambda _: pytest.fail("a known file was read again"))
    again = Folder(data=str(twins))
    assert {p.id: p.lag for p in again.pairs("test")} == lags
    assert again.fingerprint() == first.fingerprint()
    monkeypatch.undo()
    write(twins / "spoof/late/lj-c.flac", speech(2))
    changed = Folder(data=str(twins))
    assert next(p.lag for p in changed.pairs("test") if p.id == "late/lj-c") == pytest.approx(0, abs=2)
    assert changed.fingerprint() != first.fingerprint()


def test_speakers_come_from_the_table_or_the_subfolder(twins):
    write(twins / "bonafide/anna/x_1.wav", speech(20))
    write(twins / "spoof/late/anna/x_1.wav", speech(20))
    with (twins / "speakers.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "speaker"), ("1089_a", "same"), ("p225_b.wav", "same")])
    speakers = {p.utterance: p.speaker for p in Folder(data=str(twins)).pairs("test")}
    assert speakers == {"1089_a": "same", "p225_b": "same", "lj-c": "lj", "anna/x_1": "anna"}
    (twins / "speakers.csv").write_text("name,speaker\na,b\n")
    with pytest.raises(DataError, match=r"speakers.csv must have columns file and speaker"):
        Folder(data=str(twins)).pairs("test")


def test_a_manifest_decides_splits_and_its_lags_count_only_where_given(twins):
    pairs = Folder(data=str(twins)).pairs("test")
    split = {"1089": "train", "p225": "dev", "lj": "test"}
    listed = [replace(p, split=split[p.speaker], lag=7) for p in pairs if p.vocoder == "late"]
    write_manifest(twins / "manifest.csv", listed)
    with pytest.warns(UserWarning, match=r"3 spoof files have no recording"):
        (test,) = Folder(data=str(twins)).pairs("test")
    assert (test.speaker, test.lag) == ("lj", 7)
    with (twins / "manifest.csv").open() as stream:
        rows = [{k: v for k, v in row.items() if k != "lag"} for row in csv.DictReader(stream)]
    with (twins / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.warns(UserWarning, match=r"3 spoof files"):
        (test,) = Folder(data=str(twins)).pairs("test")
    assert test.lag == pytest.approx(48, abs=4)


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        ([], r"data must name a folder with bonafide/\*\.wav and spoof/<vocoder>/\*\.wav, got .*; correct the path"),
        (["bonafide/a.wav"], r"data must name a folder with"),
        (["bonafide/a.wav", "spoof/a.wav"], r"spoof/ must hold a folder per vocoder, got 1 files directly in it, first a.wav"),
        (["bonafide/a.wav", "bonafide/a.flac", "spoof/v/a.wav"], r"one file per name, got a.flac and a.wav"),
        (
            ["bonafide/a.wav", "spoof/v/b.wav"],
            r"at least one pair, got none in .*1 spoof files have no recording of the same name: spoof/v/b.wav",
        ),
    ],
)
def test_a_wrong_layout_is_one_sentence(tmp_path, layout, match):
    for name in layout:
        write(tmp_path / name, speech(0, 0.5))
    with pytest.raises(DataError, match=match) as caught:
        Folder(data=str(tmp_path)).pairs("test")
    assert "\n" not in str(caught.value)


def test_data_is_required_only_when_pairs_are_asked_for():
    with pytest.raises(DataError, match=r"data must name a folder .*got nothing; give --data DIR"):
        Folder().pairs("test")


def test_real_pairs_in_a_users_folder_get_the_listed_lags(shared_data, tmp_path):
    public = load("task", "public_pairs", data=str(shared_data))
    listed: dict[str, Pair] = {}
    for p in public.pairs("test"):
        if p.family != "WaveNet":  # its lag is not constant: up to 10 ms in single windows
            listed.setdefault(p.speaker, p)
    listed = dict(list(listed.items())[:3])
    for speaker, p in listed.items():
        for side, name in (("bonafide", p.bonafide), ("spoof/v", p.spoof)):
            (tmp_path / side).mkdir(parents=True, exist_ok=True)
            (tmp_path / side / f"{speaker}.flac").symlink_to(shared_data / "public_pairs" / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Folder(data=str(tmp_path)).pairs("test")
    assert len(found) == 3
    for p in found:
        twin = listed[p.utterance]
        assert p.lag == pytest.approx(twin.lag, abs=16), p.id
        assert (p.bonafide_sha256, p.spoof_sha256) == (twin.bonafide_sha256, twin.spoof_sha256)


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(twins, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "file"))
    assert len(Folder(data=str(twins)).pairs("test")) == 6
