import json
import random
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch

from xaibench.errors import AudioError, DataError, DataMismatchError, PairError
from xaibench.tasks import pairs as module
from xaibench.tasks.audio import decoded_sha256, read_audio
from xaibench.tasks.pairs import (
    PairedTask,
    check_disjoint,
    load_pair,
    read_manifest,
    split_by_speaker,
    spread,
    write_manifest,
)
from xaibench.types import CLIP_SAMPLES, SAMPLE_RATE, Pair


def pair(name="p", speaker="s1", utterance="u1", vocoder="v", **fields):
    return Pair(name, utterance, speaker, vocoder, f"b/{utterance}.flac", f"s/{vocoder}/{utterance}.flac", **fields)


def speech(seconds, seed=0):
    """Noise with a moving level: it has a lag, and no two places are alike."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * SAMPLE_RATE)
    knots = samples // 800 + 2
    return 0.1 * rng.standard_normal(samples) * np.interp(np.arange(samples), np.linspace(0, samples, knots), rng.random(knots))


def write(path, samples, rate=SAMPLE_RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def write_twins(root, bonafide, spoof, name="u1"):
    write(root / f"b/{name}.flac", bonafide)
    write(root / f"s/v/{name}.flac", spoof)


# --- manifest ---


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_manifest_comes_back_as_it_was_written(tmp_path, suffix):
    rows = [
        pair(
            "a/1",
            lag=-37,
            split="train",
            seen_vocoder=False,
            corpus='Ö, "quoted"',
            family="F",
            bonafide_sha256="0" * 64,
            licence="CC BY 4.0",
        ),
        pair("a/2", utterance="u,2", speaker="s;2"),
    ]
    write_manifest(tmp_path / f"m{suffix}", rows)
    assert read_manifest(tmp_path / f"m{suffix}") == rows


CSV_HEADER = "id,utterance,speaker,vocoder,bonafide,spoof,lag,split,seen_vocoder\n"
BAD = {
    "id,utterance,speaker,vocoder,bonafide,spoof,lagg\na,u,s,v,b,s,1\n": "m.csv row 1 must have columns among .*, got 'lagg'",
    "id,utterance,vocoder,bonafide,spoof\na,u,v,b,s\n": "m.csv row 1 must name id, .*, got no speaker",
    CSV_HEADER + "a,u,s,v,b.flac,s.flac,3.5,test,true\n": "must give lag as whole samples at 16 kHz, got '3.5'",
    CSV_HEADER + "a,u,s,v,b.flac,s.flac,3,eval,true\n": "must give split as one of train, dev, test, got 'eval'",
    CSV_HEADER + "a,u,s,v,b.flac,s.flac,3,test,maybe\n": "must give seen_vocoder as true or false, got 'maybe'",
    CSV_HEADER + "a,u,s,v,b.flac,s.flac,3,test,true\n" * 2: "must give every pair its own id, got 'a' 2 times",
    CSV_HEADER + "a,u,s,v,../b.flac,s.flac,3,test,true\n": r"relative to the data folder .*, got '\.\./b.flac'",
    CSV_HEADER + "a,u,s,v,b.flac,/etc/s.flac,3,test,true\n": "relative to the data folder .*, got '/etc/s.flac'",
    CSV_HEADER + "a,u,s,v,b.flac,s.flac,3,test,true,extra\n": "must have columns among",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_csv_is_one_sentence_that_names_row_and_value(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=BAD[text]) as caught:
        read_manifest(tmp_path / "m.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("m.json", "{", "must be JSON"),
        ("m.json", '{"pairs": []}', "must be a list of objects, one per pair, got dict"),
        ("m.json", json.dumps([asdict(pair()) | {"id": 7}]), "must hold text, got 7"),
        ("m.json", json.dumps([asdict(pair()) | {"lag": 1.5}]), "whole samples at 16 kHz, got 1.5"),
        ("m.txt", "", "must be a .csv or .json file, got m.txt"),
    ],
)
def test_a_bad_json_is_one_sentence(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=match):
        read_manifest(tmp_path / name)


def test_missing_manifest_and_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"m.csv must be a readable manifest"):
        read_manifest(tmp_path / "m.csv")
    write_manifest(tmp_path / "m.csv", [pair("a"), pair("b", utterance="u2")])
    write(tmp_path / "b/u1.flac", speech(0.1))
    with pytest.raises(DataError, match=r"got 3 of 4 missing, first s/v/u1.flac"):
        read_manifest(tmp_path / "m.csv", tmp_path)


# --- splits ---


def test_check_disjoint_names_the_speaker_or_utterance_and_its_splits():
    check_disjoint([pair("a", split="train"), pair("b", speaker="s2", utterance="u2")])
    with pytest.raises(DataError, match=r"splits must share no speaker, got 's1' \(test, train\)"):
        check_disjoint([pair("a", split="train"), pair("b", utterance="u2")])
    with pytest.raises(DataError, match=r"splits must share no utterance, got 'u1' \(dev, train\)"):
        check_disjoint([pair("a", split="train"), pair("b", speaker="s2", split="dev")])


def many(speakers=40, utterances=3, vocoders=2):
    return [
        pair(f"{v}/{s}-{u}", f"s{s}", f"s{s}-{u}", f"v{v}", family=f"f{v}")
        for s in range(speakers)
        for u in range(utterances)
        for v in range(vocoders)
    ]


def test_split_by_speaker_is_disjoint_has_the_shares_asked_for_and_ignores_order():
    listed = many()
    done = split_by_speaker(listed, dev=0.1, test=0.25)
    check_disjoint(done)
    assert Counter(p.split for p in done) == {"test": 60, "dev": 24, "train": 156}
    assert [replace(p, split="test") for p in done] == listed
    shuffled = random.Random(1).sample(listed, len(listed))
    assert {p.id: p.split for p in split_by_speaker(shuffled, dev=0.1, test=0.25)} == {p.id: p.split for p in done}
    assert {p.id: p.split for p in split_by_speaker(listed, dev=0.1, test=0.25, salt="other")} != {p.id: p.split for p in done}


def test_speakers_of_parallel_text_stay_together_and_small_corpora_fill_every_split():
    chained = [pair(f"{s}{u}", s, u) for s, u in [("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("d", "3"), ("e", "4")]]
    done = split_by_speaker(chained, dev=0.01, test=0.01)
    check_disjoint(done)
    assert {p.split for p in done} == {"train", "dev", "test"}
    assert len({p.split for p in done if p.speaker in "abc"}) == 1
    with pytest.raises(DataError, match=r"a group of speakers without common utterances per split, got 1 for 3 splits"):
        split_by_speaker(chained[:4])
    with pytest.raises(ValueError, match="dev and test must be shares"):
        split_by_speaker(chained, dev=0.5, test=0.5)


def test_spread_puts_different_utterances_speakers_and_vocoders_first_whatever_the_order():
    listed = many(speakers=6, utterances=4, vocoders=3)
    ordered = spread(listed)
    assert sorted(p.id for p in ordered) == sorted(p.id for p in listed)
    assert ordered == spread(random.Random(2).sample(listed, len(listed)))
    assert {p.speaker for p in ordered[:6]} == {f"s{i}" for i in range(6)}
    assert len({p.utterance for p in ordered[:24]}) == 24
    for n in (3, 6, 24):
        counts = Counter(p.vocoder for p in ordered[:n])
        assert max(counts.values()) - min(counts.values()) == 0, counts


# --- loading ---


@pytest.mark.parametrize("lag", [0, 37, -250])
def test_load_undoes_lag_and_level_and_crops_to_the_overlap(tmp_path, lag):
    whole = speech(5.5)
    inner = whole[1000:81000]
    write_twins(tmp_path, inner, 0.5 * whole[1000 - lag : 81000 - lag])
    clip = load_pair(pair(lag=lag), tmp_path)
    assert clip.bonafide.shape == clip.spoof.shape == (CLIP_SAMPLES,)
    assert clip.bonafide.dtype == torch.float32
    assert clip.valid_samples == CLIP_SAMPLES
    start = max(0, -lag)
    np.testing.assert_allclose(clip.bonafide, inner[start : start + CLIP_SAMPLES], atol=1.5 / 32768)
    np.testing.assert_allclose(clip.spoof, clip.bonafide, atol=3 / 32768)


def test_short_twins_are_tiled_with_one_period_and_never_padded(tmp_path):
    bonafide, spoof = speech(1.3), speech(1.25, seed=1)
    write_twins(tmp_path, bonafide, spoof)
    clip = load_pair(pair(lag=100), tmp_path)
    period = len(spoof) - 100
    assert clip.valid_samples == period
    for waveform in (clip.bonafide, clip.spoof):
        assert torch.equal(waveform[period:], waveform[:-period])
    assert clip.bonafide[:period].square().mean().item() == pytest.approx(clip.spoof[:period].square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 2), (44100, 1)])
def test_other_rates_and_stereo_load_on_the_common_grid(tmp_path, rate, channels):
    t = np.arange(5 * rate) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * t)
    write_twins(tmp_path, np.stack([tone] * channels, -1), np.stack([tone] * channels, -1))
    for name in ("b/u1", "s/v/u1"):
        write(tmp_path / f"{name}.flac", np.stack([tone] * channels, -1), rate)
    clip = load_pair(pair(), tmp_path)
    spectrum = torch.fft.rfft(clip.bonafide * torch.hann_window(CLIP_SAMPLES)).abs()
    assert spectrum.argmax().item() * SAMPLE_RATE / CLIP_SAMPLES == pytest.approx(440, abs=0.5)


def test_hashes_are_verified_and_a_file_that_changes_is_read_again(tmp_path):
    write_twins(tmp_path, speech(4.5), speech(4.5, seed=1))
    sha = {n: decoded_sha256(read_audio(tmp_path / n)) for n in ("b/u1.flac", "s/v/u1.flac")}
    listed = pair(bonafide_sha256=sha["b/u1.flac"], spoof_sha256=sha["s/v/u1.flac"])
    load_pair(listed, tmp_path)
    samples, rate = soundfile.read(tmp_path / "s/v/u1.flac", dtype="int16")
    samples[4000] += 1
    write(tmp_path / "s/v/u1.flac", samples, rate)
    with pytest.raises(DataMismatchError, match=r"u1.flac must decode to the listed samples .*; fetch the file again"):
        load_pair(listed, tmp_path)
    content = (tmp_path / "s/v/u1.flac").read_bytes()
    (tmp_path / "s/v/u1.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"u1\.flac"):
        load_pair(listed, tmp_path)
    (tmp_path / "s/v/u1.flac").unlink()
    with pytest.raises(DataError, match=r"u1.flac must exist"):
        load_pair(listed, tmp_path)


def test_the_loaded_clip_is_the_callers_own(tmp_path):
    write_twins(tmp_path, speech(4.5), speech(4.5, seed=1))
    first = load_pair(pair(), tmp_path)
    kept = first.spoof.clone()
    first.spoof.zero_()
    assert torch.equal(load_pair(pair(), tmp_path).spoof, kept)


def test_twins_that_hardly_overlap_are_refused_with_the_number(tmp_path):
    write_twins(tmp_path, speech(0.4), speech(0.4, seed=1))
    with pytest.raises(PairError, match=r"'p' must overlap by 1024 samples after lag 6000, got 400"):
        load_pair(pair(lag=6000), tmp_path)


# --- PairedTask ---


@dataclass(frozen=True)
class Listed(PairedTask):
    name: ClassVar[str] = "listed"
    rows: tuple[Pair, ...] = ()

    def listed(self):
        return self.rows

    def root(self):
        return module.Path(self.data)


def test_references_share_no_speaker_or_utterance_and_come_from_train_first(tmp_path):
    train = [pair(f"t{i}", f"s{i % 5}", f"u{i}", split="train") for i in range(30)]
    task = Listed(rows=(*train, *(replace(p, id=f"{p.id}x", vocoder="w") for p in train), pair("q", "other", "uq")))
    chosen = task.reference_pairs(task.pairs("test")[0])
    assert len({p.bonafide for p in chosen}) == 20
    assert {p.split for p in chosen} == {"train"}
    assert Counter(p.speaker for p in chosen) == dict.fromkeys(("s0", "s1", "s2", "s3", "s4"), 4)
    for p in train:
        assert all(r.speaker != p.speaker and r.utterance != p.utterance for r in task.reference_pairs(p))


def test_too_few_references_are_filled_from_other_splits_then_repeated_then_refused(tmp_path):
    rows = (
        *(pair(f"t{i}", "s1", f"u{i}", split="train") for i in range(3)),
        pair("d", "s2", "ud", split="dev"),
        pair("q", "s3", "uq"),
        pair("r", "s4", "ur"),
    )
    chosen = [p.id for p in Listed(rows=rows).reference_pairs(rows[4])]
    assert set(chosen[:3]) == {"t0", "t1", "t2"}
    assert chosen[3:5] == ["d", "r"]
    assert chosen[5:10] == chosen[:5]
    assert len(chosen) == 20
    with pytest.raises(DataError, match=r"must hold a recording of a speaker other than 's1' as reference"):
        Listed(rows=rows[:3]).reference_pairs(rows[0])


def test_references_are_recordings_cut_or_tiled_to_the_detectors_length(tmp_path):
    rows = tuple(pair(f"p{i}", f"s{i}", f"u{i}") for i in range(3))
    for i, p in enumerate(rows):
        write_twins(tmp_path, speech(1 + 3.5 * i, seed=i), speech(1, seed=9), p.utterance)
    task = Listed(data=str(tmp_path), rows=rows)
    references = task.references(rows[1])
    assert references.shape == (20, CLIP_SAMPLES)
    found = {tuple(r[:50].tolist()) for r in references}
    assert found == {tuple(read_audio(tmp_path / f"b/u{i}.flac")[:50].tolist()) for i in (0, 2)}


def test_fingerprint_follows_content_and_not_paths_or_order():
    rows = (pair("a", lag=3), pair("b", "s2", "u2"))
    same = tuple(replace(p, bonafide=f"x/{p.bonafide}", spoof=f"y/{p.spoof}") for p in reversed(rows))
    assert Listed(rows=rows).fingerprint() == Listed(rows=same, data="elsewhere").fingerprint()
    for changed in (replace(rows[0], lag=4), replace(rows[0], spoof_sha256="1" * 64), replace(rows[0], split="train")):
        assert Listed(rows=rows).fingerprint() != Listed(rows=(changed, rows[1])).fingerprint()


def test_splits_that_cross_are_refused_and_unknown_splits_named():
    with pytest.raises(DataError, match="splits must share no speaker"):
        Listed(rows=(pair("a", split="train"), pair("b", utterance="u2"))).pairs("test")
    with pytest.raises(ValueError, match="split must be one of train, dev, test, got 'eval'"):
        Listed(rows=()).pairs("eval")
