"""All that is needed to take part without xaibench: the clips as they are scored, their ids, and a card to fill in."""

import csv
import io
from pathlib import Path

from xaibench.benchmark.suite import select_pairs
from xaibench.leaderboard.submission.archive import CARD
from xaibench.leaderboard.submission.card import Card, Subject, write_card
from xaibench.leaderboard.submission.scoring import Setting
from xaibench.tasks.cache import atomic_path, atomic_write
from xaibench.types import SAMPLE_RATE


def write_kit(place: Setting, out: str | Path, limit: int | None = None) -> Path:
    """Write ``submission.toml`` to fill in, ``clips.csv`` and the clips, float32 WAV at 16 kHz; the real twins stay here.

    Args:
        place: Task, detector and protocol.
        out: Folder.
        limit: Clips, in the order in which a run takes them; all by default.

    Raises:
        DataError: If the folder cannot be written.
    """
    import soundfile

    folder, rows = Path(out), io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("id", "file", "bins", "frames"))
    for number, pair in enumerate(select_pairs(place.task.pairs("test"), limit)):
        name = f"clips/{number:05d}.wav"
        with atomic_path(folder / name) as part:
            soundfile.write(part, place.task.load(pair).spoof.numpy(), SAMPLE_RATE, subtype="FLOAT")
        writer.writerow((pair.id, name, *place.shape))
    atomic_write(folder / "clips.csv", rows.getvalue().encode())
    card = Card(
        name="my_method",
        version="1.0",
        suite=place.suite.name,
        authors=("Your Name",),
        licence="CC-BY-4.0",
        task=Subject(name=place.task.name, fingerprint=place.task.fingerprint()),
        detector=Subject(name=place.detector.name, fingerprint=place.detector.fingerprint()),
    )
    atomic_write(folder / CARD, write_card(card))
    return folder
