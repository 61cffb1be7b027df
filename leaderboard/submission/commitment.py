"""Hidden masks, promised before anybody is scored on them: a Merkle root published first, salts and hashes revealed at the end.

Leaves and nodes are hashed as in RFC 6962 (a prefix byte keeps them apart); each leaf has a salt of its own, so that a root tells nothing
of a mask, and one leaf can be shown without the others.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from xaibench.benchmark.units import clean
from xaibench.errors import DataMismatchError, SubmissionError
from xaibench.tasks.cache import atomic_write
from xaibench.tasks.masks import truth
from xaibench.tasks.spectrogram import DEFAULT_STFT
from xaibench.types import Task

SALT_BYTES = 32
M = TypeVar("M", bound=BaseModel)


class Leaf(BaseModel):
    """One hidden mask as it is revealed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    recipe: str
    mask_sha256: str
    salt: str

    def digest(self) -> bytes:
        """Hash the leaf."""
        content = json.dumps([self.id, self.recipe, self.mask_sha256], separators=(",", ":"), ensure_ascii=True).encode()
        return hashlib.sha256(b"\x00" + bytes.fromhex(self.salt) + content).digest()


class Commitment(BaseModel):
    """What is published first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    task: str
    recipes: tuple[str, ...]
    masks: int
    root: str


class Reveal(BaseModel):
    """What is kept with the masks and published when the split retires."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    task: str
    leaves: tuple[Leaf, ...]


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes, split at the largest power of two below their number (RFC 6962, section 2.1).

    Raises:
        ValueError: If there is no leaf.
    """
    if not leaves:
        raise ValueError("leaves must hold at least one mask, got none; commit to a task with test clips")
    if len(leaves) == 1:
        return leaves[0]
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + merkle_root(leaves[:middle]) + merkle_root(leaves[middle:])).digest()


def mask_digest(mask: Tensor) -> str:
    """Hash shape and bits of a mask (F, N)."""
    bits = np.packbits(mask.numpy().astype(bool))
    return hashlib.sha256(f"{tuple(mask.shape)}|".encode() + bits.tobytes()).hexdigest()


def commit(task: Task, recipes: Sequence[str] = ()) -> tuple[Commitment, Reveal]:
    """Commit to the masks of all test clips of a task, under its recipes unless others are named."""
    named = tuple(recipes or task.recipes)
    leaves = tuple(
        Leaf(id=pair, recipe=recipe, mask_sha256=digest, salt=secrets.token_hex(SALT_BYTES))
        for (pair, recipe), digest in _masks(task, named).items()
    )
    root = merkle_root([leaf.digest() for leaf in leaves]).hex()
    return Commitment(task=task.name, recipes=named, masks=len(leaves), root=root), Reveal(task=task.name, leaves=leaves)


def _masks(task: Task, recipes: Sequence[str]) -> dict[tuple[str, str], str]:
    """Hash the mask of each test clip and recipe, sorted by both."""
    stft = getattr(task, "stft", DEFAULT_STFT)
    pairs = sorted(task.pairs("test"), key=lambda pair: pair.id)
    clips = ((pair.id, task.load(pair)) for pair in pairs)
    return {(name, recipe): mask_digest(truth(clip, recipe, stft).mask) for name, clip in clips for recipe in sorted(recipes)}


def verify(commitment: Commitment, reveal: Reveal, task: Task | None = None) -> None:
    """Check that what is revealed is what was promised and, given the task's audio, that its masks are these.

    Raises:
        SubmissionError: If root, task, number or order of the leaves differ.
        DataMismatchError: If a mask of the task is another one, or missing.
    """
    order = [(leaf.id, leaf.recipe) for leaf in reveal.leaves]
    if (commitment.task, commitment.masks) != (reveal.task, len(order)) or order != sorted(set(order)) or not order:
        raise SubmissionError(
            f"reveal must hold {commitment.masks} masks of {commitment.task}, sorted, got {len(order)} of {clean(reveal.task)}; "
            "use the file that belongs to the commitment"
        )
    root = merkle_root([leaf.digest() for leaf in reveal.leaves]).hex()
    if root != commitment.root:
        raise SubmissionError(f"root of the revealed masks must be {commitment.root[:16]}..., got {root[:16]}...; the masks were changed")
    if task is not None:
        found = _masks(task, commitment.recipes)
        changed = [key for key, leaf in zip(order, reveal.leaves, strict=True) if found.get(key) != leaf.mask_sha256]
        if changed or len(found) != len(order):
            raise DataMismatchError(
                f"masks of {task.name} must be those revealed, got {len(changed)} others, first {changed[:1]}; use the same audio"
            )


def write_commitment(commitment: Commitment, reveal: Reveal, public: str | Path, secret: str | Path) -> None:
    """Write the two files, the secret one readable by its owner alone.

    Raises:
        SubmissionError: If one is there already: a promise is made once.
    """
    for path in (Path(public), Path(secret)):
        if path.exists():
            raise SubmissionError(f"commitment must be made once, got {path} already; keep it, or choose another name for another split")
    for path, model in ((Path(secret), reveal), (Path(public), commitment)):
        atomic_write(path, (json.dumps(model.model_dump(mode="json"), sort_keys=True, indent=1) + "\n").encode())
    Path(secret).chmod(0o600)


def read_commitment(path: str | Path) -> Commitment:
    """Read what was published."""
    return _model(Commitment, path)


def read_reveal(path: str | Path) -> Reveal:
    """Read what was kept back."""
    return _model(Reveal, path)


def _model(kind: type[M], path: str | Path) -> M:
    try:
        return kind.model_validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        raise SubmissionError(
            f"{Path(path).name} must be a {kind.__name__.lower()}, got {clean(str(error))[:120]}; correct the path"
        ) from error
