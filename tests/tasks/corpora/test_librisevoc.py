import shutil
from collections import Counter

import pytest
import soundfile
import soxr

from xaibench.errors import DataError
from xaibench.tasks.corpora.librisevoc import COPY, IDENTIFIER, LibriSeVoc
from xaibench.types import CLIP_SAMPLES

RATE = 24000


def lay_tree(root, names, lay):
    for split in ("train.txt", "dev.txt", "test.txt"):
        (root / split).write_text("\n".join(names[split]) + "\n")
        for file in names[split]:
            for folder in names["folders"]:
                name = file if folder == "gt" else file.replace(".wav", "_gen.wav")
                lay(root / "LibriSeVoc" / folder / name, rate=RATE)
    return root


@pytest.fixture
def tree(tmp_path, published, lay):
    return lay_tree(tmp_path, published["librisevoc"], lay)


def test_a_published_copy_is_named_as_the_tree_names_it(published):
    """The tree is laid by rule, the rule is held against a name that was not."""
    for path in published["librisevoc"]["copies"]:
        folder, _, name = path.partition("/")
        assert folder in published["librisevoc"]["folders"]
        assert IDENTIFIER.match(name.removesuffix(".wav").removesuffix(COPY))


def read(tree, **options):
    return LibriSeVoc(data=str(tree), partial=True, **options)


def test_every_copy_becomes_a_pair_in_its_published_split(tree, published):
    task, names = read(tree), published["librisevoc"]
    for split in ("train", "dev", "test"):
        pairs = task.pairs(split)
        assert {p.utterance for p in pairs} == {n.removesuffix(".wav") for n in names[f"{split}.txt"]}
        assert set(Counter(p.utterance for p in pairs).values()) == {6}
    assert {p.vocoder for p in pairs} == set(names["folders"]) - {"gt"}
    assert {p.spoof for p in task.pairs("train") if p.utterance == "27_123349_000006_000000"} == {
        f"{v}/27_123349_000006_000000_gen.wav" for v in set(names["folders"]) - {"gt"}
    }
    assert task.pairs("test")[0].speaker in {"6147", "27", "87", "40"}


def test_the_published_split_shares_speakers_and_the_other_one_none(tree):
    official, own = read(tree), read(tree, split="speaker")
    assert {p.speaker for p in official.pairs("train")} & {p.speaker for p in official.pairs("test")} == {"27"}
    speakers = [{p.speaker for p in own.pairs(split)} for split in ("train", "dev", "test")]
    assert all(speakers)
    assert sum(map(len, speakers)) == len(set.union(*speakers))
    assert {p.speaker for p in official.reference_pairs(official.pairs("test")[0])} & {official.pairs("test")[0].speaker} == set()


def test_the_lists_are_not_needed_for_the_speaker_split(tree):
    shutil.move(tree / "test.txt", tree / "LibriSeVoc/elsewhere.txt")
    assert read(tree, split="speaker").pairs("test")
    with pytest.raises(DataError, match=r"lists .*or give split=speaker\) must name the folder that holds test.txt.*csun22"):
        read(tree).pairs("test")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: shutil.rmtree(r / "wavegrad"), r"folders of vocoders .* 1 of 6 missing: wavegrad"),
        (
            lambda r: (r / "melgan/27_123349_000012_000013_gen.wav").unlink(),
            r"copies in melgan/ .* 1 of 10 missing: 27_123349_000012_000013",
        ),
        (lambda r: (r / "gt/40_222_000018_000000.wav").unlink(), r"recordings in gt/ of the copies in diffwave/ .* 40_222_000018_000000"),
        (lambda r: (r / "gt/40_222_000018_000000.wav").rename(r / "gt/40-222-18.wav"), r"gt/ must hold <reader>_.*got 40-222-18"),
        (
            lambda r: (r / "wavernn/40_222_000018_000000_gen.wav").rename(r / "wavernn/40_222_000018_000000.wav"),
            r"wavernn/ must hold <id>_gen.wav, got 40_222_000018_000000",
        ),
        (lambda r: shutil.rmtree(r / "gt"), r"must name the folder that holds gt, .*drive.google.com.*92 407 files"),
    ],
)
def test_what_is_missing_is_said_with_its_home(tree, spoil, said):
    spoil(tree / "LibriSeVoc")
    with pytest.raises(DataError, match=said):
        read(tree).pairs("test")


def test_a_recording_in_no_list_or_in_two_is_an_error(tree, lay):
    with (tree / "dev.txt").open("a") as stream:
        stream.write("40_222_000018_000000.wav\n")
    with pytest.raises(DataError, match=r"test.txt must share no name with the other lists, got 40_222_000018_000000"):
        read(tree).pairs("test")
    (tree / "dev.txt").write_text("5339_14134_000064_000000.wav\n")
    with pytest.raises(DataError, match=r"names of gt/ in train.txt, dev.txt and test.txt .*5393_19219_000013_000000"):
        read(tree).pairs("test")


def test_other_folders_are_named_and_the_whole_is_counted(tree, lay):
    lay(tree / "LibriSeVoc/hifigan/27_123349_000012_000013_gen.wav")
    with pytest.warns(UserWarning, match=r"1 folders are no published vocoder and are not read: hifigan"):
        read(tree).pairs("test")
    shutil.rmtree(tree / "LibriSeVoc/hifigan")
    with pytest.raises(DataError, match=r"librisevoc must hold 79206 pairs, got 60"):
        LibriSeVoc(data=str(tree)).pairs("test")


def test_real_libritts_pairs_at_24_khz_float_or_longer_by_a_hop(tmp_path, real_pairs, lay, published):
    """UnivNet's copies of LibriTTS under LibriSeVoc's names, with its oddities: other sample formats, hop padding."""
    groups = {name: rows for (source, name), rows in sorted(real_pairs.items()) if source == "univnet_mindslab" and len(rows) == 5}
    folders = [f for f in published["librisevoc"]["folders"] if f != "gt"]
    lags = {}
    for name, rows in list(groups.items())[:3]:
        sounds = [soxr.resample(soundfile.read(r["file"])[0], 16000, RATE) for r in rows]
        lay(tmp_path / f"gt/{name}.wav", sounds[0], RATE)
        for i, folder in enumerate(folders):
            row, copy = rows[1 + i % 4], sounds[1 + i % 4]
            options = {"subtype": "FLOAT"} if folder in ("wavegrad", "diffwave") else {}
            padded = copy if folder != "melgan" else list(copy) + [0.0] * (256 - len(copy) % 256)
            lay(tmp_path / f"{folder}/{name}_gen.wav", padded, RATE, **options)
            lags[f"{folder}/{name}"] = float(row["lag_samples_vs_gt"])
    task = LibriSeVoc(data=str(tmp_path), partial=True, split="speaker")
    pairs = [p for split in ("train", "dev", "test") for p in task.pairs(split)]
    assert len(pairs) == 18
    for p in pairs[::3]:
        clip = task.load(p)
        assert clip.spoof.shape == (CLIP_SAMPLES,)
        assert abs(clip.pair.lag - lags[p.id]) <= 16
