"""A leg of a protocol: some pairs to train on, some to test on, of one task or of two."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from xaibench.errors import DataError
from xaibench.types import Clip, Pair, Split, Task, content_hash

Member = tuple[Task, Pair]


@dataclass(frozen=True)
class LegTask(Task):
    """A task made of members of others; its name is that of what it is trained on, by which explainers choose shipped weights."""

    leg: str = ""
    trained: str = field(default="", metadata={"config": False})
    """Name that explainers and controls are bound by: a task whose shipped tables and weights may be used, or one that has none."""
    train: tuple[Member, ...] = field(default=(), repr=False, metadata={"config": False})
    test: tuple[Member, ...] = field(default=(), repr=False, metadata={"config": False})

    def __post_init__(self) -> None:
        """Take on what the tested task declares.

        Raises:
            DataError: If there is nothing to test.
        """
        if not self.test:
            raise DataError(f"leg must hold pairs to test, got none in {self.leg}; choose another protocol")
        base = self.test[0][0]
        for name in ("version", "licence", "title", "default_detector", "truth", "recipes"):
            object.__setattr__(self, name, getattr(base, name))
        object.__setattr__(self, "name", self.trained or f"{base.name}-{self.leg}")

    def pairs(self, split: Split) -> list[Pair]:
        """Return the pairs of a split; there is no dev."""
        members: Sequence[Member] = {"train": self.train, "dev": (), "test": self.test}[split]
        return [pair for _, pair in members]

    def _home(self, pair: Pair) -> Task:
        known: dict[str, Task] = self.__dict__.setdefault("_homes", {p.id: t for t, p in (*self.train, *self.test)})
        return known[pair.id]

    def complete(self, pair: Pair) -> Pair:
        """Return the pair as its own task completes it."""
        return self._home(pair).complete(pair)

    def load(self, pair: Pair) -> Clip:
        """Load a pair through its own task."""
        return self._home(pair).load(pair)

    def references(self, pair: Pair) -> Tensor:
        """Return the references that the pair's own task gives it."""
        return self._home(pair).references(pair)

    def fingerprint(self) -> str:
        """Hash the leg's members by the fingerprints of their tasks and their ids."""
        distinct = {id(t): t for t, _ in (*self.train, *self.test)}
        tasks = {key: t.fingerprint() for key, t in distinct.items()}
        rows = {name: sorted((tasks[id(t)], p.id) for t, p in part) for name, part in (("train", self.train), ("test", self.test))}
        return content_hash({"leg": self.leg, **rows})
