"""Training examples, computed once: images and masks of a task's pairs in memory-mapped arrays, so that training only trains.

Each pair gives ``copies`` examples. The first is the pair as the task loads it; the others start up to half a second later (the same offset
for both twins) and pass through one random equaliser (the same for both twins), because level and spectral tilt are shortcuts. Masks are
computed after that, from what the network will see. Levels are stored in 255 steps (0.3 dB), masks as bits.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import DataError
from xaibench.explainers.segdiff.frontend import FrontEnd
from xaibench.tasks.masks import truth
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import SAMPLE_RATE, Clip, Split, Task, content_hash

VERSION = "1"
MAX_OFFSET_SAMPLES = SAMPLE_RATE // 2
EQUALISER_DB = 6.0
EQUALISER_POINTS = 5


class Batch(NamedTuple):
    """What one training step sees."""

    image: Tensor
    """(B, C, F, N) float32 in [-1, 1]."""
    mask: Tensor
    """(B, R, F, N) float32, 0 or 1, one channel per recipe."""
    weight: Tensor
    """(B, R, 1, N) float32: 0 where a frame is padding or tiled, or where the clip has no mask."""


@dataclass(frozen=True)
class Recipe:
    """What is cached; equal recipes of equal tasks share a cache folder."""

    front: FrontEnd = field(default_factory=FrontEnd)
    recipes: tuple[str, ...] = ("sym-floor60-v1", "grinberg-rel-linear-v1")
    stft: STFTConfig = DEFAULT_STFT
    copies: int = 1
    seed: int = 0


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

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.images)

    def batch(self, index: Sequence[int]) -> Batch:
        """Return the examples at ``index``, in that order."""
        rows = np.asarray(index)
        stored = torch.from_numpy(self.images[rows]).float() / 127.5 - 1
        count, _, bins, frames = stored.shape
        ramp = torch.linspace(-1, 1, bins)[None, :, None].expand(count, bins, frames)
        planes = iter(stored.unbind(1))
        image = torch.stack([ramp if name == "frequency" else next(planes) for name in self.front.channels], dim=1)
        mask = torch.from_numpy(np.unpackbits(self.masks[rows], axis=-1)).float()
        known = torch.from_numpy(self.valid[rows]).float()[:, None, None, :]
        return Batch(image, mask, known * (mask.sum((2, 3), keepdim=True) > 0))

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


def augment(clip: Clip, generator: torch.Generator) -> Clip:
    """Return the clip cut at a random offset and equalised at random, both twins alike.

    The equaliser is a smooth curve through five random gains of at most 6 dB; what the cut frees at the end is filled by tiling and is
    no longer valid.
    """
    room = max(min(MAX_OFFSET_SAMPLES, clip.valid_samples - SAMPLE_RATE), 0)
    offset = int(torch.randint(0, room + 1, (), generator=generator))
    gains = (2 * torch.rand(1, 1, EQUALISER_POINTS, generator=generator) - 1) * EQUALISER_DB
    twins = torch.stack([clip.bonafide, clip.spoof])
    valid = clip.valid_samples - offset
    kept = twins[:, offset : offset + valid]
    tiled = kept.repeat(1, -(-twins.shape[1] // valid))[:, : twins.shape[1]]
    spectrum = torch.fft.rfft(tiled)
    curve = torch.nn.functional.interpolate(gains, size=spectrum.shape[-1], mode="linear", align_corners=True)[0]
    bonafide, spoof = torch.fft.irfft(spectrum * 10 ** (curve / 20), n=twins.shape[1])
    valid = clip.valid_samples if valid == clip.valid_samples else valid
    return replace(clip, bonafide=bonafide, spoof=spoof, valid_samples=valid)


def example(clip: Clip, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return stored levels (C, F, N) uint8, mask bits (R, F, N / 8) uint8 and valid frames (N,) bool of one clip."""
    front = recipe.front
    image = front.image(clip.spoof[None], recipe.stft)[0]
    stored = torch.stack([plane for plane, name in zip(image, front.channels, strict=True) if name != "frequency"])
    truths = [truth(clip, name, recipe.stft) for name in recipe.recipes]
    masks = front.pad(torch.stack([t.mask[:-1] for t in truths]).float(), 0.0)
    valid = front.pad(truths[0].valid[0].float(), 0.0)
    levels = ((stored + 1) * 127.5).round().to(torch.uint8)
    return levels.numpy(), np.packbits(masks.bool().numpy(), axis=-1), valid.bool().numpy()


def clip_examples(clip: Clip, recipe: Recipe) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the clip's examples: itself, then ``copies - 1`` augmented ones, drawn from the pair's own seed."""
    seed = int(content_hash({"pair": clip.pair.id, "seed": recipe.seed})[:15], 16)
    generator = torch.Generator().manual_seed(seed)
    return [example(clip if copy == 0 else augment(clip, generator), recipe) for copy in range(recipe.copies)]


def from_clips(clips: Iterable[Clip], recipe: Recipe) -> Examples:
    """Compute examples in memory.

    Raises:
        DataError: If there is no clip.
    """
    rows, names = [], []
    for clip in clips:
        made = clip_examples(clip, recipe)
        rows += made
        names += [clip.pair.id] * len(made)
    if not rows:
        raise DataError("pairs must hold at least one training clip, got none; choose a task with a train split")
    images, masks, valid = (np.stack(column) for column in zip(*rows, strict=True))
    return Examples(recipe.front, images, masks, valid, names)


def cached(task: Task, split: Split, recipe: Recipe, folder: Path) -> Examples:
    """Return the examples of a split from ``folder``, where they are computed on first use; a half-written cache is never used.

    Raises:
        DataError: If the split is empty or the folder cannot be written.
    """
    pairs = task.pairs(split)
    if not pairs:
        raise DataError(f"task {task.name!r} must have a {split} split, got none; choose another task or make its data first")
    key = content_hash({"version": VERSION, "task": task.fingerprint(), "split": split, "recipe": asdict(recipe), "n": len(pairs)})
    home = Path(folder) / f"{task.name}-{split}-{key[:16]}"
    if not (home / "pairs.json").exists():
        _write(task, split, recipe, home)
    images, masks, valid = (np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("images", "masks", "valid"))
    return Examples(recipe.front, images, masks, valid, json.loads((home / "pairs.json").read_text()))


def _write(task: Task, split: Split, recipe: Recipe, home: Path) -> None:
    """Compute a split pair by pair into a temporary folder, then rename it."""
    pairs = task.pairs(split)
    home.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        arrays: list[np.memmap] = []
        for i, pair in enumerate(pairs):
            made = clip_examples(task.load(pair), recipe)
            if not arrays:
                shapes = zip(("images", "masks", "valid"), made[0], strict=True)
                arrays = [
                    np.lib.format.open_memmap(part / f"{n}.npy", mode="w+", dtype=a.dtype, shape=(len(pairs) * recipe.copies, *a.shape))
                    for n, a in shapes
                ]
            for copy, row in enumerate(made):
                for array, value in zip(arrays, row, strict=True):
                    array[i * recipe.copies + copy] = value
        for array in arrays:
            array.flush()
        (part / "pairs.json").write_text(json.dumps([p.id for p in pairs for _ in range(recipe.copies)]))
        if not home.exists():
            part.replace(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)
