"""Any pairs that a table lists: ``--task csv --data pairs.csv``.

Columns are the fields of ``Pair`` (see ``xaibench.tasks.manifest``): id, utterance, speaker, vocoder, bonafide and spoof are required,
paths are relative to the table. Without a column ``lag`` lags are estimated and twins are checked; without hashes they are found when a
clip is planned; without ``split`` everything is tested, or ``split=speaker`` deals speakers out by hash.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from xaibench.errors import DataError, UnknownNameError
from xaibench.registry import TASKS
from xaibench.tasks.corpora.released import Home, Released
from xaibench.tasks.facts import file_sha256
from xaibench.tasks.manifest import read_manifest
from xaibench.tasks.pairs import split_by_speaker
from xaibench.tasks.warping import Alignment
from xaibench.types import Pair


@TASKS.register("csv")
@dataclass(frozen=True)
class CsvList(Released):
    """Pairs of a CSV or JSON table; ``data`` is the table."""

    title: ClassVar[str] = "Pairs of a table of your own"
    licence: ClassVar[str] = "yours"
    homes: ClassVar[tuple[Home, ...]] = ()

    @property
    def given(self) -> Path:
        """The table.

        Raises:
            DataError: If it is not given or is no file.
        """
        path = Path(self.data).expanduser()
        if not self.data or not path.is_file():
            raise DataError(f"data must name a .csv or .json table of pairs, got {self.data or 'nothing'}; see docs/corpora.md")
        return path

    def root(self) -> Path:
        """Return the folder of the table."""
        return self.given.parent

    def listed(self) -> Sequence[Pair]:
        """Return the rows as pairs; every file must be there."""
        if self.split not in ("official", "speaker"):
            raise UnknownNameError(f"split must be official (the table's own) or speaker, got {self.split!r}; see docs/corpora.md")
        pairs = read_manifest(self.given, self._root)
        if not pairs:
            raise DataError(f"{self.given} must list at least one pair, got none; see docs/corpora.md")
        return split_by_speaker(pairs, salt=self.name) if self.split == "speaker" else pairs

    def complete(self, pair: Pair) -> Pair:
        """Return the pair with hashes, and with its lag unless the table gives it."""
        if not self._gives_lags:
            return super().complete(pair)
        known = {side: getattr(pair, f"{side}_sha256") or file_sha256(self._root / getattr(pair, side)) for side in ("bonafide", "spoof")}
        return replace(pair, bonafide_sha256=known["bonafide"], spoof_sha256=known["spoof"])

    def alignment(self, pair: Pair) -> Alignment:
        """Return the table's lag, or what is measured where it has none."""
        nothing = float("nan")
        return Alignment(pair.lag, nothing, nothing, nothing, nothing) if self._gives_lags else super().alignment(pair)

    @cached_property
    def _gives_lags(self) -> bool:
        if self.given.suffix != ".csv":
            return '"lag"' in self.given.read_text(encoding="utf-8-sig")
        with self.given.open(encoding="utf-8-sig", newline="") as stream:
            return "lag" in next(csv.reader(stream), [])
