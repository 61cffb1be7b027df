import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

from xaibench import load
from xaibench.errors import DataError, DataMismatchError, PairError
from xaibench.tasks.audio import decoded_sha256, read_audio, write_audio
from xaibench.tasks.corpora import public_pairs as module
from xaibench.tasks.corpora.public_pairs import BONAFIDE, PublicPairs, read_list
from xaibench.tasks.corpora.public_pairs_list import HELD_OUT_FAMILIES, build, sketch, table
from xaibench.tasks.pairs import check_disjoint
from xaibench.types import CLIP_SAMPLES


def cells(pairs):
    return len(pairs), len({p.utterance for p in pairs}), len({p.speaker for p in pairs}), len({p.family for p in pairs})


def test_the_list_holds_every_file_once_with_its_home_and_hashes():
    files = read_list()
    assert Counter(f.vocoder == BONAFIDE for f in files) == {True: 117, False: 385}
    assert len({f.path for f in files}) == 502
    assert sum(not f.corpus_named for f in files) == 24
    assert {f.path.split("/")[0] for f in files if not f.corpus_named} == {"wavefit_ddpm"}
    for f in files:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", f.repository)
        assert all(
            re.fullmatch(f"[0-9a-f]{{{n}}}", text)
            for n, text in [(40, f.commit), (40, f.raw_sha1), (40, f.git_blob), (64, f.sha256), (72, f.sketch)]
        )
        assert abs(int(f.sketch[:8], 16) / 16000 - f.seconds) < 1e-3
        assert f.licence
        assert f.speaker
    recordings = {f.path: f for f in files if f.vocoder == BONAFIDE}
    assert all((f.speaker, f.utterance) == (recordings[f.bonafide].speaker, recordings[f.bonafide].utterance) for f in files if f.bonafide)


def test_splits_share_no_speaker_or_utterance_and_training_never_sees_the_held_out_families():
    task = load("task", "public_pairs")
    train, dev, test = (task.pairs(split) for split in ("train", "dev", "test"))
    aside = task.put_aside()
    check_disjoint([*train, *dev, *test])
    assert not {p.speaker for p in train + dev} & {p.speaker for p in test}
    assert not {p.family for p in train + dev} & HELD_OUT_FAMILIES
    assert {p.family for p in aside} <= HELD_OUT_FAMILIES
    assert len(train + dev + test + aside) == 363 + 2
    trained = {p.family for p in train}
    assert all(p.seen_vocoder == (p.family in trained) for p in train + dev + test)
    assert sum(p.speaker == "LJ" for p in train) == 238
    assert {p.speaker for p in test} >= {"clb", "slt", "arctic_clb_or_slt"}


def test_the_table_in_the_module_is_what_the_list_holds():
    task, wide = PublicPairs(), PublicPairs(include_unnamed=True)
    test = task.pairs("test")
    counted = {
        "train": cells(task.pairs("train")),
        "dev": cells(task.pairs("dev")),
        "test, seen in training": cells([p for p in test if p.seen_vocoder]),
        "test, unseen": cells([p for p in test if not p.seen_vocoder]),
        "put aside": cells(task.put_aside()),
        "unnamed corpus (test)": cells([p for p in wide.pairs("test") if p not in test]),
    }
    rows = re.findall(r"^    (\S.*?)\s{2,}(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", module.__doc__, flags=re.M)
    assert {label: tuple(map(int, numbers)) for label, *numbers in rows} == counted


def test_the_first_test_pairs_differ_in_utterance_and_speaker():
    first = PublicPairs().pairs("test")[:24]
    assert cells(first)[1:3] == (24, 24)
    assert len({p.family for p in first}) == 8
    assert 8 <= sum(p.seen_vocoder for p in first) <= 16
    assert cells(PublicPairs().pairs("test")[:48])[1] >= 40


def test_missing_audio_is_one_sentence_with_both_remedies(tmp_path, monkeypatch):
    monkeypatch.delenv("XAIBENCH_DATA", raising=False)
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    task = PublicPairs()
    with pytest.raises(
        DataError, match=r"public_pairs must lie in one of .*cache.*xaibench data get public_pairs.*XAIBENCH_DATA"
    ) as caught:
        task.load(task.pairs("test")[0])
    assert "\n" not in str(caught.value)
    (tmp_path / "cache/public_pairs/freev").mkdir(parents=True)
    with pytest.raises(DataError, match=r"must hold 478 files, got 478 missing, first freev/.*xaibench data get public_pairs"):
        PublicPairs().root()


def test_a_damaged_list_is_one_sentence(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,lag\nx,1\n")
    with pytest.raises(DataError, match=r"manifest.csv must be a list of public pairs"):
        read_list(tmp_path / "manifest.csv")


def link(data, folder, names):
    """Lay a few real files where a test can damage them: copies for those named, links for the rest."""
    for f in PublicPairs().files:
        path = folder / f.path
        path.parent.mkdir(parents=True, exist_ok=True)
        origin = data / "public_pairs" / f.path
        path.write_bytes(origin.read_bytes()) if f.path in names else path.symlink_to(origin)


def test_real_pairs_load_and_data_beats_the_environment(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XAIBENCH_DATA", str(shared_data))
    task = PublicPairs()
    for p in task.pairs("test")[:6]:
        clip = task.load(p)
        assert clip.pair == p
        assert clip.bonafide.shape == clip.spoof.shape == (CLIP_SAMPLES,)
        levels = [w[: clip.valid_samples].square().mean().sqrt().item() for w in (clip.bonafide, clip.spoof)]
        assert levels[0] == pytest.approx(levels[1], rel=1e-4)
    references = task.references(p)
    assert references.shape == (20, CLIP_SAMPLES)
    assert torch.isfinite(references).all()
    assert {r.speaker for r in task.reference_pairs(p)} == {"LJ", "MLS_11463"}
    assert PublicPairs(data=str(shared_data / "public_pairs")).root() == PublicPairs(data=str(shared_data)).root()
    with pytest.raises(DataError, match=r"public_pairs must lie in one of .*nowhere"):
        PublicPairs(data=str(tmp_path / "nowhere")).root()


def test_a_changed_sample_is_refused_unless_the_download_noted_it(shared_data, tmp_path):
    p = PublicPairs().pairs("test")[0]
    link(shared_data, tmp_path, {p.spoof})
    task = PublicPairs(data=str(tmp_path))
    task.load(p)
    waveform = read_audio(tmp_path / p.spoof)
    waveform[5000] += 1 / 32768
    write_audio(tmp_path / p.spoof, waveform)
    with pytest.raises(DataMismatchError, match=r"must decode to the listed samples"):
        task.load(p)
    file = next(f for f in read_list() if f.path == p.spoof)
    (tmp_path / "manifest.csv").write_text(table([replace(file, sha256=decoded_sha256(waveform), sketch=sketch(waveform))]))
    noted = PublicPairs(data=str(tmp_path))
    assert noted.load(p).pair == p
    assert noted.fingerprint() == task.fingerprint()
    (tmp_path / p.spoof).unlink()
    with pytest.raises(DataError, match=r"got 1 missing, first .*; run `xaibench data get public_pairs`"):
        PublicPairs(data=str(tmp_path)).root()


@pytest.mark.slow
def test_the_committed_list_is_what_the_script_makes_from_the_audio(shared_data):
    assert table(build(shared_data)) == module.LIST.read_text(encoding="utf-8")


def test_listed_hashes_and_sketches_are_those_of_the_audio(shared_data):
    for f in read_list()[::25]:
        waveform = read_audio(shared_data / "public_pairs" / f.path)
        assert (decoded_sha256(waveform), sketch(waveform)) == (f.sha256, f.sketch)


@pytest.mark.slow
def test_every_pair_loads(shared_data):
    task = PublicPairs(data=str(shared_data), include_unnamed=True)
    loaded = 0
    for split in ("train", "dev", "test"):
        for p in task.pairs(split):
            try:
                assert 1024 <= task.load(p).valid_samples <= CLIP_SAMPLES
            except PairError as error:  # pragma: no cover
                pytest.fail(f"{p.id}: {error}")
            loaded += 1
    assert loaded == 383
