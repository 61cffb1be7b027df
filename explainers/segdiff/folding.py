"""The stem: blocks of cells as channels, so that a small network sees few places instead of many."""

from torch import Tensor


def fold(x: Tensor, stem: tuple[int, int]) -> Tensor:
    """Fold blocks of (f, n) cells into channels: (B, C, F, N) to (B, C f n, F / f, N / n)."""
    batch, channels, bins, frames = x.shape
    f, n = stem
    blocks = x.reshape(batch, channels, bins // f, f, frames // n, n)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * f * n, bins // f, frames // n)


def unfold(x: Tensor, stem: tuple[int, int]) -> Tensor:
    """Undo ``fold``."""
    f, n = stem
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels // (f * n), f, n, height, width)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // (f * n), height * f, width * n)
