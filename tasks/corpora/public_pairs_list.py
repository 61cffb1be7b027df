"""Makes ``public_pairs.csv`` from a folder that holds the audio and its manifest.

    python -m xaibench.tasks.corpora.public_pairs_list FOLDER

Run once by whoever adds files; kept so that anybody can make the list again and compare. Splits are decided here and nowhere else.
"""

import csv
import io
import sys
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from xaibench.tasks.audio import decoded_sha256, read_audio, to_int16
from xaibench.tasks.cache import atomic_write
from xaibench.tasks.corpora.public_pairs import BONAFIDE, FOLDER, LIST, ListedFile

TRAIN_SPEAKERS = frozenset({"LJ", "MLS_11463"})
DEV_SPEAKERS = frozenset({"2300", "jmk", "ksp"})
HELD_OUT_FAMILIES = frozenset({"UnivNet", "BigVGAN", "WaveFit"})
UNNAMED_SOURCES = frozenset({"wavefit_ddpm"})
SKETCH_BLOCKS = 16
CORRECTED_LAGS = {"8455_210777_000030_000000": 736, "7021_85628_000023_000000": 736}
"""MP3 decoders delay every file of ``vocos_mp3`` by 733 to 741 samples; for these two utterances the manifest says 646 to 725, and its lag
leaves the twins up to 5 ms apart (mean sym-floor60 difference .036 instead of .028)."""


def build(folder: Path) -> list[ListedFile]:
    """Return the rows of the list, sorted by path; decodes every file."""
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["set"] == FOLDER]
    trained = {row["vocoder_family"] for row in rows if row["speaker"] in TRAIN_SPEAKERS and row["vocoder"] != BONAFIDE}
    return sorted((_file(row, folder, trained - HELD_OUT_FAMILIES) for row in rows), key=lambda f: f.path)


def sketch(waveform: Tensor) -> str:
    """Return length and block levels of ``(T,)`` in hexadecimal: 8 digits for T, then 4 for the RMS of each of 16 blocks (16-bit units)."""
    samples = to_int16(waveform).double()
    levels = [round(float(block.square().mean().sqrt())) for block in samples.tensor_split(SKETCH_BLOCKS)]
    return f"{len(samples):08x}" + "".join(f"{level:04x}" for level in levels)


def table(files: list[ListedFile]) -> str:
    """Return rows as CSV text."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(asdict(files[0])), lineterminator="\n")
    writer.writeheader()
    for file in files:
        writer.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in asdict(file).items()})
    return buffer.getvalue()


def _split(speaker: str, family: str) -> str:
    if speaker not in TRAIN_SPEAKERS | DEV_SPEAKERS:
        return "test"
    if family in HELD_OUT_FAMILIES:
        return "aside"
    return "train" if speaker in TRAIN_SPEAKERS else "dev"


def _lag(row: dict[str, str]) -> int:
    if row["source"] == "vocos_mp3" and row["vocoder"] != BONAFIDE and row["utterance_id"] in CORRECTED_LAGS:
        return CORRECTED_LAGS[row["utterance_id"]]
    return int(float(row["lag_samples_vs_gt"] or 0))


def _file(row: dict[str, str], folder: Path, trained: set[str]) -> ListedFile:
    waveform = read_audio(folder / row["path"])
    family = "" if row["vocoder"] == BONAFIDE else row["vocoder_family"]
    return ListedFile(
        path=row["path"].removeprefix(f"{FOLDER}/"),
        repository=row["source_repo"].removeprefix("github:"),
        commit=row["commit"],
        original_path=row["original_path"],
        raw_sha1=row["raw_sha1"],
        git_blob=row["git_blob"],
        sha256=decoded_sha256(waveform),
        sketch=sketch(waveform),
        sample_rate=int(row["original_sample_rate"]),
        seconds=float(row["seconds"]),
        corpus=row["corpus"],
        corpus_named=row["source"] not in UNNAMED_SOURCES,
        speaker=row["speaker"],
        utterance=row["utterance_id"],
        vocoder=row["vocoder"],
        family=family,
        bonafide=row["gt_path"].removeprefix(f"{FOLDER}/"),
        lag=_lag(row),
        split=_split(row["speaker"], family),
        seen_vocoder=family in trained,
        licence=row["licence"],
        note=row["note"],
    )


if __name__ == "__main__":
    atomic_write(LIST, table(build(Path(sys.argv[1]))).encode())
