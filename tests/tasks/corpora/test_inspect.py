import csv
import io
import shutil

import numpy as np
import pytest
import soundfile

from xaibench.errors import DataError
from xaibench.tasks.corpora.csv_list import CsvList
from xaibench.tasks.corpora.inspect import alignment_table
from xaibench.tasks.corpora.public_pairs import PublicPairs
from xaibench.types import CLIP_SAMPLES

HEAD = "id,utterance,speaker,vocoder,bonafide,spoof"


@pytest.fixture
def table(tmp_path, real_pairs):
    """A pair as it is, one with 120 ms of silence inserted in its copy, and one whose copy is of another utterance."""
    groups = [rows for (source, _), rows in sorted(real_pairs.items()) if source == "freev"]
    lines = [HEAD]
    for i, name in enumerate(("plain", "held", "other")):
        real, fake = groups[i][0]["file"], groups[i][1]["file"]
        shutil.copy(real, tmp_path / f"real-{name}.flac")
        shutil.copy(fake if name != "other" else groups[4][1]["file"], tmp_path / f"fake-{name}.flac")
        lines.append(f"{name},{name},s{i},v,real-{name}.flac,fake-{name}.flac")
    samples, rate = soundfile.read(tmp_path / "fake-held.flac")
    power = np.convolve(samples**2, np.ones(1600), "same")[20_000:-20_000]
    place = int(power.argmin()) + 20_000
    pause = np.random.default_rng(0).standard_normal(1920) * 1e-4
    soundfile.write(tmp_path / "fake-held.flac", np.concatenate([samples[:place], pause, samples[place:]]), rate)
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


def test_every_pair_is_told_with_its_numbers_or_why_it_is_refused(table):
    task = CsvList(data=str(table))
    text, refused = alignment_table(task, "test", None)
    rows = {r["pair"]: r for r in csv.DictReader(io.StringIO(text))}
    assert refused == 1
    assert (rows["plain"]["drifts"], rows["held"]["drifts"]) == ("false", "true")
    assert float(rows["plain"]["residual_p95_ms"]) < 2
    assert float(rows["held"]["residual_p95_ms"]) < 2.5
    assert "envelope correlation of 0." in rows["other"]["refused"] or "about as long" in rows["other"]["refused"]
    held = next(p for p in task.pairs("test") if p.id == "held")
    clip = task.load(held)
    assert clip.bonafide.shape == clip.spoof.shape == (CLIP_SAMPLES,)
    assert task.alignment(clip.pair).knots


def test_public_pairs_are_measured_too_and_corpora_without_twins_are_not(shared_data, monkeypatch):
    text, refused = alignment_table(PublicPairs(data=str(shared_data)), "dev", 2)
    assert (text.count("\n"), refused) == (3, 0)
    from xaibench.tasks.corpora.asvspoof2019 import ASVspoof2019

    with pytest.raises(DataError, match=r"task must hold twins to align, got asvspoof2019"):
        alignment_table(ASVspoof2019(), "test", None)
