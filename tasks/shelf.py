"""Masks kept by content, and the building of a whole corpus: what was computed once is read the next time.

A mask is kept as bits (16 kB) under the hash of both twins' samples, the recipe and the grid, so it is never out of date and the same for
whoever has the same audio. Spectrograms are not kept: computing one takes milliseconds, less than reading its half megabyte. One clip is in
memory at a time; a corpus of any size is streamed.
"""

import contextlib
import multiprocessing
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import AudioError, DataError, PairError
from xaibench.tasks.cache import atomic_write, cache_dir
from xaibench.tasks.facts import remember
from xaibench.tasks.masks import recipe as named_recipe
from xaibench.tasks.masks import truth
from xaibench.tasks.recipes import MaskRecipe
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, valid_cells
from xaibench.types import Clip, Pair, Task, content_hash, tensors_hash

VERSION = "mask-v1"
HEADER = struct.Struct("<4sII")
MAGIC = b"xbm1"
Progress = Callable[[int, int], None]


@dataclass
class Built:
    """What a build did."""

    clips: int = 0
    masks: int = 0
    made: int = 0
    """Masks that were computed; the others were there."""
    refused: dict[str, str] = field(default_factory=dict)


def kept_mask(clip: Clip, recipe: str | MaskRecipe = "sym-floor60-v1", stft: STFTConfig = DEFAULT_STFT) -> tuple[Tensor, Tensor]:
    """Return mask and valid cells of a clip, (F, N) bool, as ``truth`` does; computed once, read afterwards."""
    chosen = named_recipe(recipe)
    valid = valid_cells(clip.valid_samples, len(clip.spoof), stft)
    path = mask_path(clip, chosen, stft)
    known = _read(path, tuple(valid.shape))
    if known is None:
        known = truth(clip, chosen, stft).mask
        _write(path, known)
    return known, valid


def mask_path(clip: Clip, recipe: MaskRecipe, stft: STFTConfig) -> Path:
    """Return where a mask is kept: the hash of all that it depends on."""
    heard = {"bonafide": clip.bonafide, "spoof": clip.spoof}
    heard |= {name: t for name, t in (("planted", clip.planted), ("fake", clip.fake)) if t is not None}
    identity = {
        "version": VERSION,
        "clip": tensors_hash(heard),
        "valid": clip.valid_samples,
        "recipe": recipe.content_hash(),
        "stft": stft.content_hash(),
        "torch": torch.__version__.split("+")[0],
    }
    digest = content_hash(identity)
    return cache_dir() / "masks" / digest[:2] / f"{digest}.mask"


def build(task: Task, splits: Sequence[str], recipes: Sequence[str], jobs: int = 1, progress: Progress | None = None) -> Built:
    """Compute and keep the masks of all pairs of some splits.

    A pair whose files have kept size and time since is not read again: its mask is looked up by what its content was found to be.

    Args:
        task: A task with twins.
        splits: Names of splits.
        recipes: Names of recipes.
        jobs: Processes.
        progress: Called with pairs done and pairs in all.

    Raises:
        DataError: If the task has no twins.
    """
    if task.truth in ("time", "none"):
        raise DataError(f"task must hold twins to have masks, got {task.name}; its clips are scored on the detector")
    pairs = [p for split in splits for p in task.pairs(split)]  # type: ignore[arg-type]  # pairs() says what a split must be
    done = Built()
    for count, (name, made, refused) in enumerate(_mapped(partial(build_pair, task=task, recipes=tuple(recipes)), pairs, jobs), start=1):
        if refused:
            done.refused[name] = refused
        else:
            done.clips, done.masks, done.made = done.clips + 1, done.masks + len(recipes), done.made + made
        if progress is not None:
            progress(count, len(pairs))
    return done


def build_pair(pair: Pair, *, task: Task, recipes: tuple[str, ...]) -> tuple[str, int, str]:
    """Build one pair; return its id, how many masks were computed, and why it is refused."""
    try:
        places: list[str] = remember(f"masks-of-files-{VERSION}", _stamps(task, pair, recipes), lambda: [])
        if places and all((cache_dir() / place).is_file() for place in places):
            return pair.id, 0, ""
        clip = task.load(task.complete(pair))
        made = 0
        found = []
        for name in recipes:
            path = mask_path(clip, named_recipe(name), DEFAULT_STFT)
            made += not path.is_file()
            kept_mask(clip, name)
            found.append(path.relative_to(cache_dir()).as_posix())
        remember(f"masks-of-files-{VERSION}", _stamps(task, pair, recipes), lambda: found, again=True)
        return pair.id, made, ""
    except (PairError, AudioError) as error:
        return pair.id, 0, str(error)


def _stamps(task: Task, pair: Pair, recipes: tuple[str, ...]) -> str:
    """Return what tells that nothing has changed: sizes and times of both files, the pair as listed, and the recipes."""
    root = getattr(task, "_root", None)
    files = []
    for name in (pair.bonafide, pair.spoof):
        stat = (root / name).stat() if root is not None and (root / name).is_file() else None
        files.append([str(root / name), stat.st_size, stat.st_mtime_ns] if root is not None and stat is not None else [name, 0, 0])
    return content_hash(
        {"task": task.name, "pair": asdict(pair), "files": files, "recipes": [named_recipe(r).content_hash() for r in recipes]}
    )


def _mapped(work: Callable[[Pair], tuple[str, int, str]], pairs: Sequence[Pair], jobs: int) -> Iterator[tuple[str, int, str]]:
    if jobs <= 1 or len(pairs) <= 1:
        yield from map(work, pairs)
        return
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(work, pairs, chunksize=4)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Return the mask in a file; None where there is none, or it is damaged."""
    try:
        content = path.read_bytes()
        magic, bins, frames = HEADER.unpack_from(content)
    except (OSError, struct.error):
        return None
    bits = np.frombuffer(content, np.uint8, offset=HEADER.size)
    if magic != MAGIC or (bins, frames) != shape or len(bits) != -(-bins * frames // 8):
        return None
    return torch.from_numpy(np.unpackbits(bits, count=bins * frames).astype(bool).reshape(bins, frames))


def _write(path: Path, mask: Tensor) -> None:
    """Keep a mask; without a cache that can be written it is computed again next time."""
    bits = np.packbits(mask.numpy().reshape(-1))
    with contextlib.suppress(DataError):
        atomic_write(path, HEADER.pack(MAGIC, *mask.shape) + bits.tobytes())
