"""ASVspoof2019 LA as it is released: where its recordings lie and what its protocols say (Wang et al. 2020, arXiv:1911.01601).

LA/ASVspoof2019_LA_{train,dev,eval}/flac/LA_[TDE]_NNNNNNN.flac
LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{train.trn,dev.trl,eval.trl}.txt    lines "LA_0079 LA_T_1138215 - - bonafide"
"""

from dataclasses import dataclass
from pathlib import Path

from xaibench.errors import DataError
from xaibench.tasks.corpora.released import Home, audio_by_stem, read_lines

HOME = Home("ASVspoof2019 LA", "doi:10.7488/ds/2555", "7.6 GB", "ODC-BY 1.0")
PARTS = {"T": "train", "D": "dev", "E": "eval"}
"""Letter in an utterance's name to the part of the corpus."""
LISTS = {"train": "train.trn", "dev": "dev.trl", "eval": "eval.trl"}
BONAFIDE = {"train": 2580, "dev": 2548, "eval": 7355}
SPOOF = {"train": 22800, "dev": 22296, "eval": 63882}


@dataclass(frozen=True)
class Trial:
    """A line of a protocol."""

    speaker: str
    utterance: str
    attack: str
    """``-`` for recordings."""
    bonafide: bool


def part_of(utterance: str) -> str:
    """Return train, dev or eval from a name such as ``LA_T_1138215``."""
    return PARTS[utterance[3]]


def read_protocol(path: Path) -> list[Trial]:
    """Read a protocol of five columns: speaker, trial, anything, attack, and ``bonafide`` or ``spoof``.

    Raises:
        DataError: If it is missing, a line has other columns, or a trial stands in two lines.
    """
    trials: dict[str, Trial] = {}
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if len(words) != 5 or words[4] not in ("bonafide", "spoof"):
            raise DataError(
                f"{path.name} line {number} must be `speaker trial - attack bonafide|spoof`, got {line[:80]!r}; restore the file"
            )
        if words[1] in trials:
            raise DataError(f"{path.name} must name each trial once, got {words[1]} again in line {number}; restore the file")
        trials[words[1]] = Trial(words[0], words[1], words[3], words[4] == "bonafide")
    return list(trials.values())


def protocol_path(root: Path, part: str) -> Path:
    """Return the countermeasure protocol of a part."""
    return root / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{LISTS[part]}.txt"


def recordings(root: Path, part: str) -> dict[str, str]:
    """Map utterances of a part to files relative to ``root``, the folder ``LA/``.

    Raises:
        DataError: If its folder is missing.
    """
    folder = root / f"ASVspoof2019_LA_{part}" / "flac"
    if not folder.is_dir():
        raise DataError(f"{root} must hold ASVspoof2019_LA_{part}/flac, got no such folder; get {HOME}")
    return {stem: f"{folder.relative_to(root).as_posix()}/{name}" for stem, name in audio_by_stem(folder).items()}


def candidates(*folders: Path) -> list[Path]:
    """Return where ``LA/`` may lie under the folders a user names."""
    return [place for folder in folders for place in (folder, folder / "LA", folder / "ASVspoof2019" / "LA", folder / "LA" / "LA")]
