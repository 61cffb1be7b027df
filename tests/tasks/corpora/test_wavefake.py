import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile
import soxr

from xaibench.errors import DataError
from xaibench.tasks.corpora.wavefake import TWINLESS, WaveFake
from xaibench.types import CLIP_SAMPLES


@pytest.fixture
def tree(tmp_path, published, lay):
    names = published["wavefake"]
    for file in names["files"]:
        lay(tmp_path / "generated_audio" / file, rate=22050)
    for stem in names["ljspeech"]:
        lay(tmp_path / f"LJSpeech-1.1/wavs/{stem}.wav", rate=22050)
    return tmp_path


def read(tree, **options):
    return WaveFake(data=str(tree), partial=True, **options)


def everything(task):
    return [p for split in ("train", "dev", "test") for p in task.pairs(split)]


def test_every_copy_becomes_a_pair_whatever_its_suffix(tree, published):
    with pytest.warns(UserWarning, match=rf"3 folders have no recordings and are left out: {TWINLESS}, jsut_multi_band_melgan, jsut_par"):
        pairs = everything(read(tree))
    assert {p.spoof for p in pairs} == {f for f in published["wavefake"]["files"] if f.startswith("ljspeech")}
    assert Counter(p.vocoder for p in pairs)["waveglow"] == 4
    assert {p.utterance for p in pairs if p.vocoder == "hifiGAN"} == {"LJ001-0067", "LJ008-0217", "LJ043-0122"}
    assert {(p.vocoder, p.family) for p in pairs if "band" in p.vocoder} == {
        ("full_band_melgan", "MelGAN"),
        ("multi_band_melgan", "MelGAN"),
    }
    assert len({p.split for p in pairs if p.utterance.startswith("LJ043")}) == 1
    assert {p.speaker for p in pairs} == {"LJ"}


def test_jsut_joins_where_it_is(tree, published, lay):
    for stem in published["wavefake"]["jsut"]:
        lay(tree / f"jsut_ver1.1/basic5000/wav/{stem}.wav", rate=48000)
    task = read(tree)
    with pytest.warns(UserWarning, match=rf"1 folders have no recordings and are left out: {TWINLESS}"):
        pairs = everything(task)
    jsut = [p for p in pairs if p.speaker == "JSUT"]
    assert {p.spoof for p in jsut} == {f for f in published["wavefake"]["files"] if f.startswith("jsut")}
    assert {p.split for p in jsut} == {"test"}
    assert {r.speaker for r in task.reference_pairs(jsut[0])} == {"LJ"}
    assert task.expected == 7 * 13100 + 10000


def test_the_only_voice_is_its_own_reference_in_other_utterances(tree):
    task = read(tree)
    with pytest.warns(UserWarning, match="left out"):
        pair = task.pairs("train")[0]
    chosen = task.reference_pairs(pair)
    assert len(chosen) == 20
    assert pair.utterance not in {r.utterance for r in chosen}
    assert {r.split for r in chosen} == {"train"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda t: shutil.rmtree(t / "generated_audio/ljspeech_waveglow"),
            r"folders of vocoders .* ljspeech_waveglow; restore them from WaveFake",
        ),
        (
            lambda t: (t / "LJSpeech-1.1/wavs/LJ018-0097.wav").unlink(),
            r"recordings of the copies in ljspeech_waveglow/ .* LJ018-0097.*keithito",
        ),
        (
            lambda t: shutil.copy(*(t / f"generated_audio/ljspeech_hifiGAN/LJ043-0122{s}.wav" for s in ("_generated", "_gen"))),
            r"ljspeech_hifiGAN/ must hold one copy of each recording, got 1 twice",
        ),
        (lambda t: shutil.rmtree(t / "LJSpeech-1.1"), r"ljspeech \(or data\) must name the folder that holds wavs.*2\.6 GB, public domain"),
        (lambda t: shutil.rmtree(t / "generated_audio"), r"must name the folder that holds ljspeech_full_band_melgan.*zenodo.5642694"),
    ],
)
def test_what_is_missing_is_said_with_its_home(tree, spoil, said):
    spoil(tree)
    with pytest.raises(DataError, match=said):
        read(tree).pairs("test")


def test_the_whole_lacks_no_copy(tree):
    with pytest.raises(DataError, match=r"copies in ljspeech_full_band_melgan/ of the recordings in wavs/ .* 13 of 14 missing"):
        WaveFake(data=str(tree)).pairs("test")


def test_real_ljspeech_pairs_under_these_names(tmp_path, real_pairs, lay, published):
    """Recordings and copies of eight projects at 22.05 kHz, with the suffixes of the folders."""
    folders = [
        f"ljspeech_{v}"
        for v in ("full_band_melgan", "hifiGAN", "melgan", "melgan_large", "multi_band_melgan", "parallel_wavegan", "waveglow")
    ]
    lags = {}
    groups = [(name, rows) for (source, name), rows in sorted(real_pairs.items()) if source in ("pwg_kanbayashi", "freev")]
    for name, rows in groups[:4] + groups[-3:]:
        resampled = [soxr.resample(soundfile.read(r["file"], dtype="float32")[0], 16000, 22050) for r in rows]
        lay(tmp_path / f"LJSpeech-1.1/wavs/{name}.wav", resampled[0], 22050)
        for folder, row, copy in zip(folders, rows[1:], resampled[1:], strict=True):
            suffix = {"ljspeech_waveglow": "", "ljspeech_hifiGAN": "_generated"}.get(folder, "_gen")
            lay(tmp_path / f"generated_audio/{folder}/{name}{suffix}.wav", np.asarray(copy), 22050)
            lags[f"{folder}/{name}"] = float(row["lag_samples_vs_gt"])
    task = read(tmp_path)
    pairs = everything(task)
    assert {p.id for p in pairs} == set(lags)
    for p in pairs[::10]:
        clip = task.load(p)
        assert clip.spoof.shape == (CLIP_SAMPLES,)
        assert abs(clip.pair.lag - lags[p.id]) <= 16
