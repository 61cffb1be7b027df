import json
import shutil
import warnings
from collections import Counter

import pytest
import soundfile

from xaibench import load
from xaibench.benchmark.run import run
from xaibench.benchmark.suite import Suite
from xaibench.cli.tasks import tasks_with_data
from xaibench.errors import DataError, PairError, UnknownNameError
from xaibench.tasks.corpora.vocv4 import VocV4
from xaibench.types import CLIP_SAMPLES


@pytest.fixture
def tree(tmp_path, published, lay):
    """``voc.v4`` and ``LA`` beside each other, as the two archives unpack."""
    names, voc = published["vocv4"], tmp_path / "voc.v4"
    for stem in names["vocoded"]:
        lay(voc / f"wav/{stem}.wav")
    (voc / "scp").mkdir()
    for part in ("train.lst", "dev.lst"):
        (voc / "scp" / part).write_text("\n".join(names[part]) + "\n")
    (voc / "protocol.txt").write_text("\n".join(names["protocol"]) + "\n")
    for part, stems in names["recordings"].items():
        for stem in stems:
            lay(tmp_path / f"LA/ASVspoof2019_LA_{part}/flac/{stem}.flac")
    return tmp_path


def read(tree, **options):
    return VocV4(data=str(tree), partial=True, **options)


def test_every_published_name_becomes_a_pair_hyphens_included(tree, published):
    task = read(tree)
    train, test = task.pairs("train"), task.pairs("test")
    assert {f"{p.vocoder}_{p.utterance}" for p in train + test} == set(published["vocv4"]["vocoded"])
    assert Counter(p.vocoder for p in train) == {"hifigan": 3, "hn-sinc-nsf-hifi": 2, "hn-sinc-nsf": 2, "waveglow": 1}
    assert {p.speaker for p in test} == {"LA_0069", "LA_0070"}
    assert not task.pairs("dev")
    assert {p.vocoder: p.family for p in train} == {
        "hifigan": "HiFi-GAN",
        "hn-sinc-nsf-hifi": "NSF",
        "hn-sinc-nsf": "NSF",
        "waveglow": "WaveGlow",
    }
    for p in train + test:
        assert (
            task.root() / p.bonafide
        ).resolve() == tree / f"LA/ASVspoof2019_LA_{'train' if p in train else 'dev'}/flac/{p.utterance}.flac"


@pytest.mark.parametrize("where", ["", "voc.v4"])
def test_either_folder_may_be_named(tree, where):
    assert read(tree / where).fingerprint() == read(tree).fingerprint()


def test_recordings_may_lie_elsewhere_and_in_another_format(tree, tmp_path_factory, lay):
    elsewhere = tmp_path_factory.mktemp("asv")
    shutil.move(tree / "LA", elsewhere / "LA")
    for path in list(elsewhere.rglob("LA_T_1138215.flac")):
        lay(path.with_suffix(".wav"), soundfile.read(path)[0])
        path.unlink()
    with pytest.raises(DataError, match=r"bonafide \(or data\) must name .*ASVspoof2019_LA_train.*10\.7488/ds/2555, 7\.6 GB, ODC-BY"):
        read(tree).pairs("train")
    assert len(read(tree, bonafide=str(elsewhere)).pairs("train")) == 8


def drop_line(path, word):
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if word not in line))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda t: (t / "voc.v4/wav/waveglow_LA_D_2407623.wav").unlink(),
            r"files of scp/dev.lst in wav/ .* 1 of 2 missing: waveglow_LA_D_2",
        ),
        (
            lambda t: drop_line(t / "voc.v4/protocol.txt", "3725354"),
            r"lines of protocol.txt for scp/train.lst .* hn-sinc-nsf-hifi_LA_T_3725354",
        ),
        (lambda t: (t / "voc.v4/scp/dev.lst").unlink(), r"dev.lst must be a list"),
        (lambda t: (t / "voc.v4/protocol.txt").unlink(), r"protocol.txt must be a list"),
        (
            lambda t: (t / "LA/ASVspoof2019_LA_dev/flac/LA_D_1119156.flac").unlink(),
            r"recordings of ASVspoof2019_LA_dev/flac .* LA_D_1119156",
        ),
        (lambda t: shutil.rmtree(t / "LA/ASVspoof2019_LA_dev"), r"must hold ASVspoof2019_LA_dev/flac"),
        (lambda t: shutil.rmtree(t / "voc.v4/wav"), r"data must name the folder that holds wav, got .*zenodo.7314976"),
    ],
)
def test_what_is_missing_is_said_with_its_home(tree, spoil, said):
    spoil(tree)
    with pytest.raises(DataError, match=said) as caught:
        read(tree).pairs("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["melgan_LA_T_1138215", "hifigan_LA_T_113821", "hifigan-LA_T_1138215"])
def test_a_name_that_is_not_published_is_an_error_never_dropped(tree, name):
    with (tree / "voc.v4/scp/train.lst").open("a") as stream:
        stream.write(name + "\n")
    with pytest.raises(DataError, match=rf"train.lst must name .*got '{name}'"):
        read(tree).pairs("train")


def test_files_in_no_list_are_named(tree, lay):
    lay(tree / "voc.v4/wav/hn-sinc-nsf_LA_T_1271820.wav")
    with pytest.warns(UserWarning, match=r"1 files of wav/ are in no list: hn-sinc-nsf_LA_T_1271820"):
        assert len(read(tree).pairs("train")) == 8
    (tree / "voc.v4/wav/._hn-sinc-nsf_LA_T_1271820.wav").write_bytes(b"what a Mac leaves in archives")
    (tree / "voc.v4/wav/hn-sinc-nsf_LA_T_1271820.wav").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tree).pairs("train")


def test_the_count_of_the_whole_is_held(tree):
    with pytest.raises(DataError, match=r"vocv4 must hold 20512 pairs, got 10 .*zenodo.7314976.*10.7488/ds/2555.*partial=true"):
        VocV4(data=str(tree)).pairs("test")
    with pytest.raises(DataError, match=r"data must name the folder of vocv4, got nothing; get Voc.v4"):
        VocV4().pairs("test")


def test_both_protocols_must_name_one_speaker(tree):
    folder = tree / "LA/ASVspoof2019_LA_cm_protocols"
    folder.mkdir()
    lines = ["LA_0079 LA_T_1138215 - - bonafide", "LA_0099 LA_T_3725354 - - bonafide"]
    (folder / "ASVspoof2019.LA.cm.train.trn.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"another one than LA_0099 for LA_T_3725354"):
        read(tree).pairs("train")


def test_the_speaker_split_shares_no_speaker(tree):
    task = load("task", "vocv4:split=speaker", data=str(tree), partial=True)
    speakers = [{p.speaker for p in task.pairs(split)} for split in ("train", "dev", "test")]
    assert all(speakers)
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 5
    assert task.fingerprint() != read(tree).fingerprint()
    with pytest.raises(UnknownNameError, match=r"split must be official or speaker, got 'mine'"):
        read(tree, split="mine").pairs("test")


VOCODERS = {"hifigan_v1": "hifigan", "istftnet": "hn-sinc-nsf", "apnet2": "hn-sinc-nsf-hifi", "vocos": "waveglow"}


@pytest.fixture(scope="module")
def real_tree(tmp_path_factory, published, real_pairs, lay):
    """Eight real utterances under VocV4's names: recordings as FLAC, copies as WAV, one copy of another utterance."""
    root, truth = tmp_path_factory.mktemp("real"), {}
    groups = [rows for (source, _), rows in sorted(real_pairs.items()) if source == "freev"]
    names = [n for part in published["vocv4"]["recordings"].values() for n in part][: len(groups)]
    lists, lines = {"T": [], "D": []}, []
    for name, rows in zip(names, groups, strict=True):
        part = {"T": "train", "D": "dev"}[name[3]]
        lay(root / f"LA/ASVspoof2019_LA_{part}/flac/{name}.flac", soundfile.read(rows[0]["file"], dtype="int16")[0])
        for row in rows[1:]:
            if row["vocoder"] in VOCODERS:
                stem = f"{VOCODERS[row['vocoder']]}_{name}"
                lay(root / f"voc.v4/wav/{stem}.wav", soundfile.read(row["file"], dtype="int16")[0])
                truth[stem] = round(float(row["lag_samples_vs_gt"]))
                lists[name[3]].append(stem)
                lines.append(f"LA_{names.index(name):04d} {stem} - {VOCODERS[row['vocoder']]} spoof")
    (root / "voc.v4/scp").mkdir()
    for letter, part in (("T", "train"), ("D", "dev")):
        (root / f"voc.v4/scp/{part}.lst").write_text("\n".join(lists[letter]))
    (root / "voc.v4/protocol.txt").write_text("\n".join(lines))
    return root, truth


def test_real_recordings_under_these_names_load_aligned(real_tree):
    root, truth = real_tree
    task = read(root)
    pairs = task.pairs("train") + task.pairs("test")
    assert len(pairs) == len(truth) == 32
    for p in pairs[::4]:
        clip = task.load(p)
        assert clip.spoof.shape == clip.bonafide.shape == (CLIP_SAMPLES,)
        assert abs(clip.pair.lag - truth[f"{p.vocoder}_{p.utterance}"]) <= 16
        assert clip.pair == task.complete(p)
    assert task.references(pairs[0]).shape == (20, CLIP_SAMPLES)


def test_another_utterance_under_a_twin_s_name_is_refused_with_the_number(real_tree, tmp_path):
    root, _ = real_tree
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    task = read(tmp_path)
    first, other = task.pairs("test")[0], task.pairs("train")[0]
    shutil.copy(task.root() / other.spoof, task.root() / first.spoof)
    with pytest.raises(PairError, match=r"(envelope correlation of 0|last about as long)"):
        read(tmp_path).complete(first)


def test_a_run_leaves_out_what_is_no_pair_and_says_so(real_tree, tmp_path):
    root, _ = real_tree
    shutil.copytree(root, tmp_path / "data")
    task = read(tmp_path / "data")
    first, other = task.pairs("test")[0], task.pairs("train")[0]
    shutil.copy(task.root() / other.spoof, task.root() / first.spoof)
    tasks = tasks_with_data(["vocv4:partial=true"], [str(tmp_path / "data")])
    suite = Suite("small", controls=("random",), n_draws=100)
    with pytest.warns(UserWarning, match=rf"vocv4: pair {first.id} is left out: spoof must"):
        results = run(["saliency"], tasks, limit=2, out=tmp_path / "run", faithfulness=False, jobs=1, suite=suite)
    frame = results.frame
    assert set(frame.pair) == {p.id for p in task.pairs("test")[1:3]}
    assert json.loads((tmp_path / "run/manifest.json").read_text())["tasks"]["vocv4"]["refused"].keys() == {first.id}
    assert results.summary.detectors[0].pair_accuracy is not None


def test_folders_are_given_task_by_task():
    assert tasks_with_data(["minivoc"], []) == ["minivoc"]
    with pytest.raises(UnknownNameError, match=r"--data must be given once for each --task \(2\), got 1"):
        tasks_with_data(["vocv4", "minivoc"], ["x"])
