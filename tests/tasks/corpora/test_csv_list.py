import numpy as np
import pytest
import soundfile

from xaibench import load
from xaibench.errors import DataError, PairError

HEAD = "id,utterance,speaker,vocoder,bonafide,spoof"


@pytest.fixture
def table(tmp_path, real_pairs):
    """Two real pairs in a table of one's own, the second one late by 100 samples more."""
    rows = []
    groups = [rows for (source, _), rows in sorted(real_pairs.items()) if source == "univnet_mindslab"][:2]
    for i, (real, fake) in enumerate(rows[:2] for rows in groups):
        for kind, row in (("real", real), ("fake", fake)):
            samples = soundfile.read(row["file"])[0]
            samples = np.concatenate([samples[:100][::-1], samples]) if i and kind == "fake" else samples
            soundfile.write(tmp_path / f"{kind}{i}.flac", samples, 16000)
        rows.append((f"p{i},u{i},s{i},v,real{i}.flac,fake{i}.flac", round(float(fake["lag_samples_vs_gt"])) + 100 * i))
    (tmp_path / "pairs.csv").write_text("\n".join([HEAD, *(text for text, _ in rows)]) + "\n")
    return tmp_path / "pairs.csv", [lag for _, lag in rows]


def test_lags_and_hashes_are_found_where_the_table_has_none(table):
    path, lags = table
    task = load("task", "csv", data=str(path))
    for lag, pair in zip(lags, sorted(task.pairs("test"), key=lambda p: p.id), strict=True):
        clip = task.load(pair)
        assert abs(clip.pair.lag - lag) <= 16
        assert len(clip.pair.spoof_sha256) == len(clip.pair.bonafide_sha256) == 64


def test_the_table_s_lags_are_taken_as_they_stand(table):
    path, _ = table
    lines = path.read_text().splitlines()
    path.write_text("\n".join([HEAD + ",lag", lines[1] + ",0", lines[2] + ",37"]))
    task = load("task", "csv", data=str(path))
    assert {p.id: task.complete(p).lag for p in task.pairs("test")} == {"p0": 0, "p1": 37}


def test_another_utterance_is_refused_and_a_missing_file_or_table_is_an_error(table):
    path, _ = table
    path.write_text(path.read_text().replace("fake1", "fake0", 1).replace("u1,s1,v,real1.flac,fake1", "u1,s1,v,real1.flac,fake0"))
    task = load("task", "csv", data=str(path))
    wrong = next(p for p in task.pairs("test") if p.id == "p1")
    with pytest.raises(PairError, match=r"(envelope correlation|about as long)"):
        task.complete(wrong)
    path.write_text(path.read_text().replace("real1", "nowhere"))
    with pytest.raises(DataError, match=r"1 of 3 missing, first nowhere.flac"):
        load("task", "csv", data=str(path)).pairs("test")
    with pytest.raises(DataError, match=r"data must name a .csv or .json table of pairs, got nothing"):
        load("task", "csv").pairs("test")
