import pickle

import numpy as np
import pytest
import soundfile
import torch

from xaibench.benchmark.metrics.localization import auroc, marginal
from xaibench.benchmark.run import run
from xaibench.benchmark.suite import Suite
from xaibench.errors import DataError
from xaibench.leaderboard.site import build
from xaibench.tasks.corpora.labels import convert, pickled_labels, read_labels
from xaibench.tasks.corpora.partialspoof import PartialSpoof
from xaibench.tasks.masks import truth
from xaibench.types import CLIP_SAMPLES

PARTS = ("train", "dev", "eval")


def labels_of(name, length=60):
    """1 bona fide, 0 fake: a fake stretch from .2 to .4 s in every concatenation."""
    values = np.ones(length, int)
    if name.startswith("CON"):
        values[20:40] = 0
    return values


@pytest.fixture
def tree(tmp_path, published, lay):
    root = tmp_path / "database"
    (root / "segment_labels").mkdir(parents=True)
    (root / "protocols/PartialSpoof_LA_cm_protocols").mkdir(parents=True)
    for part in PARTS:
        lines = published["partialspoof"][part]
        (root / f"protocols/PartialSpoof_LA_cm_protocols/PartialSpoof.LA.cm.{part}.trl.txt").write_text("\n".join(lines) + "\n")
        names = [line.split()[1] for line in lines]
        for name in names:
            lay(root / part / f"con_wav/{name}.wav")
        (root / part / f"{part}.lst").write_text("\n".join(names) + "\n")
        released = {name: np.array(labels_of(name).astype(str)) for name in names}
        np.save(root / f"segment_labels/{part}_seglab_0.01.npy", released, allow_pickle=True)
    return tmp_path


def read(tree):
    return PartialSpoof(data=str(tree), partial=True)


def test_labels_must_be_converted_once(tree):
    with pytest.raises(DataError, match=r"train_seglab_0.01.npz must exist, got no such file; run `xaibench data convert partialspoof"):
        read(tree).pairs("test")
    assert [p.name for p in convert(tree)] == [f"{part}_seglab_0.01.npz" for part in PARTS]
    task = read(tree)
    assert {p.id for p in task.pairs("test")} == {"CON_E_0000000", "CON_E_0033629", "CON_E_0000368"}
    assert {r.utterance for r in task.recordings()} == {"LA_T_1138215", "LA_T_9497115", "LA_T_9557645"}


def test_names_without_audio_are_told_and_others_missing_are_an_error(tree, published):
    convert(tree)
    absent = published["partialspoof"]["without audio"]
    path = tree / "database/eval/eval.lst"
    path.write_text(path.read_text() + "\n".join(absent) + "\n")
    with pytest.warns(UserWarning, match=rf"2 names of eval.lst were never released: {', '.join(absent)}"):
        assert len(read(tree).pairs("test")) == 3
    path.write_text(path.read_text() + "CON_E_0034983\n")
    with pytest.warns(UserWarning, match="never released"), pytest.raises(DataError, match=r"eval.lst in eval/con_wav .* CON_E_0034983"):
        read(tree).pairs("test")


def test_a_clip_is_labelled_in_time_alone(tree):
    convert(tree)
    task = read(tree)
    clip = task.load(task.pairs("test")[0])
    assert clip.fake.shape == (CLIP_SAMPLES,)
    assert clip.fake[:9600].nonzero().squeeze(1).tolist() == list(range(3200, 6400))
    found = truth(clip, "time-v1")
    frames = found.mask.any(0).nonzero().squeeze(1)
    centres = frames * 256
    assert frames.tolist() == list(range(int(frames[0]), int(frames[-1]) + 1))
    assert abs(int(centres[0]) - 3200) <= 128
    assert abs(int(centres[-1]) - 6400) <= 256
    assert found.mask.all(0).sum() == len(frames)
    assert not (found.mask & ~found.valid).any()


def test_labels_that_end_early_are_refused_and_a_short_tail_is_carried_on(tree):
    path = tree / "database/segment_labels/eval_seglab_0.01.npy"
    names = ["CON_E_0000000", "CON_E_0033629", "CON_E_0000368"]
    np.save(path, {n: labels_of(n, 55 if n == names[0] else 45) for n in names}, allow_pickle=True)
    convert(tree)
    task = read(tree)
    by_id = {p.id: p for p in task.pairs("test")}
    assert task.load(by_id[names[0]]).fake.sum() > 0
    with pytest.raises(DataError, match=r"labels of CON_E_0033629 must cover its 0.60 s, got 0.45 s"):
        task.load(by_id[names[1]])


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("values", [["1", "0", "1"], [1, 0, 1], [True, False, True], [b"1", b"0", b"1"]])
@pytest.mark.parametrize("plain", [False, True])
def test_labels_are_read_as_numpy_reads_them(tmp_path, values, protocol, plain):
    released = {"a": values if plain else np.array(values), "b": values[:1] if plain else np.array(values[:1])}
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(released, dtype=object), stream, protocol=protocol)
    ours = pickled_labels(tmp_path / "x.npy")
    theirs = np.load(tmp_path / "x.npy", allow_pickle=True).item()
    assert list(ours) == list(theirs)
    for name, found in ours.items():
        assert found.tolist() == [int(v) for v in theirs[name]]


class Harm:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_pickle_is_never_executed(tmp_path, where):
    mark = tmp_path / "harm"
    content = Harm(mark) if where == "outside" else {"a": np.array(["1"]), "b": Harm(mark)}
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(content, dtype=object) if where == "inside" else content, stream)
    with pytest.raises(DataError, match=r"must be PartialSpoof's segment labels, got a pickle that asks for (_io|io) open"):
        pickled_labels(tmp_path / "x.npy")
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array at all", pickle.dumps({"a": 1})])
def test_another_file_is_one_sentence(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"x.npy must be PartialSpoof's segment labels, got"):
        pickled_labels(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"got an array of float64 \(3,\)"):
        pickled_labels(tmp_path / "y.npy")
    (tmp_path / "x.npz").write_bytes(content or b"x")
    with pytest.raises(DataError, match=r"x.npz must hold converted labels"):
        read_labels(tmp_path / "x.npz")


def test_real_recordings_with_a_planted_segment_are_scored_on_the_time_marginal(tree, tmp_path, real_pairs):
    """A copy's second of speech laid into its recording, labelled so: only time scores exist, and the oracle reaches 1."""
    groups = [rows for (source, _), rows in sorted(real_pairs.items()) if source == "freev"][:3]
    names, released = ["CON_E_0000000", "CON_E_0033629", "CON_E_0000368"], {}
    for name, rows in zip(names, groups, strict=True):
        real, fake = (soundfile.read(r["file"])[0] for r in rows[:2])
        start = 16000 + 4800 * names.index(name)
        real[start : start + 16000] = fake[start : start + 16000]
        soundfile.write(tree / f"database/eval/con_wav/{name}.wav", real, 16000)
        released[name] = np.array(["1"] * (len(real) // 160 + 1))
        released[name][start // 160 : start // 160 + 100] = "0"
    np.save(tree / "database/segment_labels/eval_seglab_0.01.npy", released, allow_pickle=True)
    convert(tree)
    task = read(tree)
    suite = Suite("small", controls=("random", "energy", "oracle_mask", "oracle_ig", "frequency_prior"), n_draws=100)
    results = run(["saliency"], [task], limit=3, out=tmp_path / "run", jobs=1, suite=suite, faithfulness=False)
    rows = {(r.explainer, r.metric): r for r in results.summary.rows if r.polarity == "declared" and r.slice == "all"}
    scored = {metric for _, metric in rows} - {"forwards", "backwards"}
    assert scored == {"time_auroc", "time_average_precision"}
    assert rows["oracle_mask", "time_auroc"].mean == pytest.approx(1)
    assert rows["oracle_ig", "time_auroc"].mean is None
    assert "labels in time only" in rows["saliency", "time_auroc"].note
    frame = results.frame
    row = frame[(frame.explainer == "energy") & (frame.metric == "time_auroc")].iloc[0]
    known = truth(task.load(next(p for p in task.pairs("test") if p.id == row.pair)), "time-v1")
    heatmap = results.heatmap(row.heatmap_sha256)[None]
    expected = auroc(marginal(heatmap, "time", known.valid[None]), known.mask[None], known.valid[None])
    assert row.value == pytest.approx(float(expected), abs=1e-6)
    page = build(results.path, tasks={"partialspoof": task}).read_text()
    assert 'Ceiling: best oracle, tAUC</dt><dd class="big">100.0' in page
    assert "Which stretches of a recording are fake?" in page
    table = results.table()
    assert set(table.metric) == {"time_auroc"}
    assert torch.isfinite(heatmap).all()
