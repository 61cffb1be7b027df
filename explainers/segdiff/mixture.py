"""Examples of several tasks as one training set: a small corpus of the real thing, and many copies made at home."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from xaibench.errors import DataError
from xaibench.explainers.segdiff.data import Batch, Examples


class Mixture:
    """Concatenated examples; those of a part may count several times per epoch.

    Args:
        parts: Examples of each task, of one front end and the same recipes; the first is the one that is trained for, and its masks alone
            are counted in a network's table.
        repeats: How often each part is seen per epoch.

    Raises:
        DataError: If the parts do not fit together.
    """

    def __init__(self, parts: Sequence[Examples], repeats: Sequence[int]) -> None:
        shapes = {(part.images.shape[1:], part.masks.shape[1:], tuple(f.shape[1:] for f in part.features)) for part in parts}
        if not parts or len(parts) != len(repeats) or min(repeats) < 1 or len(shapes) != 1:
            found = f"{len(parts)} parts of {len(shapes)} shapes and repeats {list(repeats)}"
            raise DataError(f"parts must be examples of one shape with a positive repeat each, got {found}; use the same recipe for all")
        self.parts, self.repeats = list(parts), list(repeats)
        self._ends = list(accumulate(len(part) * times for part, times in zip(parts, repeats, strict=True)))

    @property
    def masks_shape(self) -> tuple[int, ...]:
        """Shape of one example's masks."""
        return self.parts[0].masks_shape

    @property
    def frames(self) -> int:
        """Frames of the grid before padding."""
        return self.parts[0].frames

    @property
    def pairs(self) -> list[str]:
        """Pair of each example."""
        return [name for part, times in zip(self.parts, self.repeats, strict=True) for _ in range(times) for name in part.pairs]

    def __len__(self) -> int:
        """Count the examples of an epoch."""
        return self._ends[-1]

    def batch(self, index: Sequence[int], device: str = "cpu") -> Batch:
        """Return the examples at ``index``, in that order."""
        rows = [self._one(i, device) for i in index]
        image, mask, weight = (torch.cat(column) for column in zip(*(row[:3] for row in rows), strict=True))
        return Batch(image, mask, weight, tuple(torch.cat(layer) for layer in zip(*(row.maps for row in rows), strict=True)))

    def log_odds(self, rows: Callable[[Tensor], Tensor], bins: int, levels: int) -> Tensor:
        """Count the masks of the first part (see ``Examples.log_odds``)."""
        return self.parts[0].log_odds(rows, bins, levels)

    def _one(self, index: int, device: str) -> Batch:
        part = bisect_right(self._ends, index)
        start = self._ends[part - 1] if part else 0
        return self.parts[part].batch([(index - start) % len(self.parts[part])], device)
