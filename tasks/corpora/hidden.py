"""A hidden split: pairs of which participants get the spoofs alone. ``XAIBENCH_HIDDEN`` names their folder, on the machine that scores."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.corpora.folder import Folder


@TASKS.register("hidden")
@dataclass(frozen=True)
class Hidden(Folder):
    """Pairs in ``XAIBENCH_HIDDEN``, laid out like ``folder``; values of single clips are never published."""

    title: ClassVar[str] = "Hidden split"
    hidden: ClassVar[bool] = True

    def root(self) -> Path:
        """Return the folder that ``XAIBENCH_HIDDEN`` names; ``data`` has no say, so that nobody puts another in its place.

        Raises:
            DataError: If the variable is not set, or names no such folder.
        """
        value = os.environ.get("XAIBENCH_HIDDEN", "")
        if not value or self.data:
            raise DataError(f"XAIBENCH_HIDDEN must name the folder of the hidden pairs, got {self.data or value!r}; set it where you score")
        return _as_folder(value)


def _as_folder(value: str) -> Path:
    return Folder(data=value).root()
