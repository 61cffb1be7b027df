"""Training examples, computed once: images and masks of a task's pairs in memory-mapped arrays, so that training only trains.

Each pair gives ``copies`` examples. The first is the pair as the task loads it; the others are disturbed by ``augmentation``, both twins
alike. Masks are computed after that, from what the network will see. Levels are stored in 255 steps (0.3 dB), masks as bits.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import DataError
from xaibench.explainers.segdiff.augmentation import Augmentation, augment, boosted
from xaibench.explainers.segdiff.features import Maps, read
from xaibench.explainers.segdiff.frontend import FrontEnd
from xaibench.tasks.masks import truth
from xaibench.tasks.pairs import PairedTask
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Clip, Detector, Split, Task, content_hash

VERSION = "2"
INDEX = "index.json"


class Batch(NamedTuple):
    """What one training step sees."""

    image: Tensor
    """(B, C, F, N) float32 in [-1, 1]."""
    mask: Tensor
    """(B, R, F, N) float32, 0 or 1, one channel per recipe."""
    weight: Tensor
    """(B, R, 1, N) float32: 0 where a frame is padding or tiled, or where the clip has no mask."""
    maps: Maps = ()
    """Features of a detector, (B, D, H, W) float32 each."""


@dataclass(frozen=True)
class Recipe:
    """What is cached; equal recipes of equal tasks share a cache folder."""

    front: FrontEnd = field(default_factory=FrontEnd)
    recipes: tuple[str, ...] = ("sym-floor60-v1", "grinberg-rel-linear-v1")
    stft: STFTConfig = DEFAULT_STFT
    copies: int = 1
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    detector: str = ""
    """Fingerprint of the detector whose features are cached; empty for none."""


@dataclass(frozen=True)
class Examples:
    """Arrays of n examples; see ``batch``."""

    front: FrontEnd
    images: np.ndarray
    """(n, C, F, N) uint8, channels that come from the waveform."""
    masks: np.ndarray
    """(n, R, F, N / 8) uint8."""
    valid: np.ndarray
    """(n, N) bool."""
    pairs: list[str]
    """Pair of each example, in order."""
    features: tuple[np.ndarray, ...] = ()
    """(n, D, H, W) float16 of each layer of a detector."""
    frames: int = 0
    """Frames of the grid before padding; 0 means all."""

    @property
    def masks_shape(self) -> tuple[int, ...]:
        """Shape of one example's masks, (R, F, N / 8)."""
        return self.masks.shape[1:]

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.images)

    def batch(self, index: Sequence[int], device: str = "cpu") -> Batch:
        """Return the examples at ``index``, in that order; bytes and bits become numbers on the device, so that little is moved."""
        rows = np.asarray(index)

        def moved(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array[rows]).to(device, non_blocking=True)

        stored = moved(self.images).float() / 127.5 - 1
        count, bins, frames = len(rows), self.masks.shape[2], 8 * self.masks.shape[3]
        ramp = torch.linspace(-1, 1, bins, device=device)[None, :, None].expand(count, bins, frames)
        planes = iter(stored.unbind(1))
        shown = [ramp if name == "frequency" else next(planes) for name in self.front.channels]
        image = torch.stack(shown, dim=1) if shown else torch.zeros(count, 0, bins, frames, device=device)
        maps = tuple(moved(layer).float() for layer in self.features)
        mask = unpack(moved(self.masks))
        known = moved(self.valid).float()[:, None, None, :]
        return Batch(image, mask, known * (mask.sum((2, 3), keepdim=True) > 0), maps)

    def log_odds(self, rows: Callable[[Tensor], Tensor], bins: int, levels: int, strength: float = 50.0) -> Tensor:
        """Count masked cells by bin and level over at most 2000 examples and return smoothed log-odds, (R, bins, levels).

        Args:
            rows: Maps images (B, C, F, N) to each cell's place, bin x levels + level.
            bins: Bins F.
            levels: Levels.
            strength: Cells of a thinly filled place lean on the average of their bin, as if it had been seen this often.
        """
        masked, seen = torch.zeros(self.masks.shape[1], bins * levels, dtype=torch.float64), torch.zeros(bins * levels, dtype=torch.float64)
        for i in range(0, len(self), -(-len(self) // 2000)):
            batch = self.batch([i])
            place = rows(batch.image).flatten()
            known = batch.weight.amax(1, keepdim=True).expand_as(batch.mask[:, :1]).flatten().double()
            seen.index_add_(0, place, known)
            masked.index_add_(1, place, (batch.mask * batch.weight)[0].flatten(1).double())
        masked, seen = masked.reshape(-1, bins, levels), seen.reshape(1, bins, levels)
        average = (masked.sum(2, keepdim=True) + 0.05) / (seen.sum(2, keepdim=True) + 1)
        share = (masked + strength * average) / (seen + strength)
        return torch.logit(share.clamp(1e-4, 1 - 1e-4)).float()


def unpack(bits: Tensor) -> Tensor:
    """Turn bytes (..., N / 8) into (..., N) float32 of their bits, the highest first, as ``numpy.packbits`` stored them."""
    shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    return ((bits[..., None] >> shifts) & 1).flatten(-2).float()


Row = tuple[np.ndarray, ...]
"""Levels (C, F, N) uint8, mask bits (R, F, N / 8) uint8, valid frames (N,) bool, then the detector's layers (D, H, W) float16."""


def example(clip: Clip, recipe: Recipe, detector: Detector | None = None, heard: Clip | None = None) -> Row:
    """Return what is stored of one clip; the network hears ``heard`` where that differs from the clip of the mask."""
    front, spoof = recipe.front, (heard or clip).spoof[None]
    image = front.image(spoof, recipe.stft)[0]
    stored = [plane for plane, name in zip(image, front.channels, strict=True) if name != "frequency"]
    truths = [truth(clip, name, recipe.stft) for name in recipe.recipes]
    masks = front.pad(torch.stack([t.mask[:-1] for t in truths]).float(), 0.0)
    valid = front.pad(truths[0].valid[0].float(), 0.0)
    levels = ((torch.stack(stored) + 1) * 127.5).round().to(torch.uint8) if stored else torch.zeros(0, *image.shape[1:], dtype=torch.uint8)
    maps = () if detector is None else tuple(layer[0].half().numpy() for layer in read(detector, spoof))
    return levels.numpy(), np.packbits(masks.bool().numpy(), axis=-1), valid.bool().numpy(), *maps


def clip_examples(clip: Clip, recipe: Recipe, whole: Clip | None = None, detector: Detector | None = None) -> list[Row]:
    """Return the clip's examples: itself, then ``copies - 1`` augmented ones, drawn from the pair's seed and cut from the whole pair."""
    seed = int(content_hash({"pair": clip.pair.id, "seed": recipe.seed})[:15], 16)
    generator = torch.Generator().manual_seed(seed)
    rows = [example(clip, recipe, detector)]
    for _ in range(recipe.copies - 1):
        copied = augment(clip, generator, recipe.augmentation, whole)
        rows.append(example(copied, recipe, detector, boosted(copied, generator, recipe.augmentation)))
    return rows


def from_clips(clips: Iterable[Clip], recipe: Recipe, detector: Detector | None = None) -> Examples:
    """Compute examples in memory.

    Raises:
        DataError: If there is no clip.
    """
    rows, names, samples = [], [], 0
    for clip in clips:
        made = clip_examples(clip, recipe, detector=detector)
        rows += made
        names += [clip.pair.id] * len(made)
        samples = clip.spoof.shape[-1]
    if not rows:
        raise DataError("pairs must hold at least one training clip, got none; choose a task with a train split")
    images, masks, valid, *features = (np.stack(column) for column in zip(*rows, strict=True))
    return Examples(recipe.front, images, masks, valid, names, tuple(features), recipe.stft.frames(samples))


def cached(task: Task, split: Split, recipe: Recipe, folder: Path, detector: Detector | None = None) -> Examples:
    """Return the examples of a split from ``folder``, where they are computed on first use; a half-written cache is never used.

    Args:
        task: The task.
        split: One of its splits.
        recipe: What is stored.
        folder: Where.
        detector: The detector that ``recipe.detector`` names, where its features are stored.

    Raises:
        DataError: If the split is empty or the folder cannot be written.
    """
    pairs = task.pairs(split)
    if not pairs:
        raise DataError(f"task {task.name!r} must have a {split} split, got none; choose another task or make its data first")
    key = content_hash({"version": VERSION, "task": task.fingerprint(), "split": split, "recipe": asdict(recipe), "n": len(pairs)})
    home = Path(folder) / f"{task.name}-{split}-{key[:16]}"
    if not (home / INDEX).exists():
        _write(task, split, recipe, home, detector)
    index = json.loads((home / INDEX).read_text())
    arrays = [np.load(home / f"{i}.npy", mmap_mode="r", allow_pickle=False) for i in range(index["arrays"])]
    images, masks, valid, *features = arrays
    return Examples(recipe.front, images, masks, valid, index["pairs"], tuple(features), index["frames"])


def _write(task: Task, split: Split, recipe: Recipe, home: Path, detector: Detector | None) -> None:
    """Compute a split pair by pair into a temporary folder, then rename it."""
    pairs = task.pairs(split)
    home.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        arrays: list[np.memmap] = []
        frames = 0
        for i, pair in enumerate(pairs):
            clip, whole = task.load(pair), task.whole(pair) if recipe.copies > 1 and isinstance(task, PairedTask) else None
            made, frames = clip_examples(clip, recipe, whole, detector), recipe.stft.frames(clip.spoof.shape[-1])
            if not arrays:
                arrays = [_array(part / f"{n}.npy", a, len(pairs) * recipe.copies) for n, a in enumerate(made[0])]
            for copy, row in enumerate(made):
                for array, value in zip(arrays, row, strict=True):
                    array[i * recipe.copies + copy] = value
        for array in arrays:
            array.flush()
        names = [p.id for p in pairs for _ in range(recipe.copies)]
        (part / INDEX).write_text(json.dumps({"arrays": len(arrays), "frames": frames, "pairs": names}))
        if not home.exists():
            part.replace(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _array(path: Path, row: np.ndarray, count: int) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=row.dtype, shape=(count, *row.shape))
