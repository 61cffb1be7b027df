"""Plan a run: which clips, which units, under which keys. Pure: equal content gives equal keys, in whatever order it was asked for."""

import json
import re
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from typing import overload

import numpy as np
import torch

from xaibench.benchmark.source import source_hash
from xaibench.benchmark.spool import Spool
from xaibench.benchmark.suite import Budget, TierName, select_pairs
from xaibench.benchmark.threads import one_thread
from xaibench.benchmark.units import ClipRef, Unit, clean, first_line
from xaibench.benchmark.world import World
from xaibench.errors import AudioError, DataMismatchError, NothingMeasuredError, PairError, PluginError, XaibenchError
from xaibench.tasks.recipes import TIME
from xaibench.tasks.recipes import recipe as named_recipe
from xaibench.types import Detector, Explainer, Pair, Task, content_hash


@dataclass(frozen=True)
class PlannedClip:
    """A clip of the run: where its pair is found, and what its results are called."""

    ref: ClipRef
    pair: Pair
    detector: str
    twins_identity: str
    """Hash of what the twins' log-odds depend on."""
    seed: int
    """Of everything random that is shared by the explainers of the clip."""

    @property
    def key(self) -> str:
        """Key of the twins' record."""
        return content_hash({"stage": "twins", "identity": self.twins_identity})


@dataclass(frozen=True)
class Plan:
    """All units of a run, clip by clip."""

    clips: Sequence[PlannedClip]
    """Task by task."""
    units: Sequence[tuple[Unit, ...]]
    """Units of each clip, in the order of ``clips``."""
    recipes: dict[str, tuple[str, ...]]
    """Mask recipes of each task, primary first."""
    tier: TierName
    suite_hash: str
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    """Pairs of each task that are no twins or cannot be read, with the reason; others took their places."""

    @cached_property
    def id(self) -> str:
        """Hash of everything that decides the result; the same command finds the same folder by it."""
        recipes = {task: sorted(names) for task, names in self.recipes.items()}
        whole = {"recipes": recipes, "suite": self.suite_hash, "tier": self.tier, "units": []}
        head = json.dumps(whole, sort_keys=True, separators=(",", ":")).removesuffix("]}")
        digest = sha256(head.encode())  # piece by piece what ``content_hash`` makes of the whole
        for place, key in enumerate(self.keys):
            digest.update(f'{"," if place else ""}"{key}"'.encode())
        digest.update(b"]}")
        return digest.hexdigest()

    @cached_property
    def keys(self) -> "Keys":
        """The keys of all units."""
        return Keys(unit.key for group in self.units for unit in group)


class Keys(Sequence[str]):
    """SHA-256 keys in order, 32 bytes each."""

    def __init__(self, keys: Iterable[str]):
        packed = np.frombuffer(b"".join(map(bytes.fromhex, keys)), dtype=[(name, ">u8") for name in "abcd"])
        self._sorted = np.sort(packed, order=list("abcd"))

    def __len__(self) -> int:
        return len(self._sorted)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return bytes(self._sorted[index].tobytes()).hex()

    def __contains__(self, key: object) -> bool:
        place = bisect_left(self, str(key))
        return place < len(self) and bool(self[place] == key)


@one_thread()  # controls without a table are fitted here, and many threads on shared processors take longer than one
def make_plan(
    world: World, budget: Budget, tier: TierName, limit: int | None, extra_recipes: Sequence[str], shard: tuple[int, int] = (1, 1)
) -> Plan:
    """Choose the clips of every task and list their units.

    Args:
        world: Tasks, detectors and explainers.
        budget: Of the tier.
        tier: Its name.
        limit: Clips per task; by default the budget's.
        extra_recipes: Further truths.
        shard: Which part of how many; an utterance is in one part with all its vocoders, as some scores compare them.

    Raises:
        NothingMeasuredError: If no task has a test clip.
        UnknownNameError: If a recipe is not known.
    """
    clips, units = Spool[PlannedClip](), Spool[tuple[Unit, ...]]()
    recipes: dict[str, tuple[str, ...]] = {}
    refused: dict[str, dict[str, str]] = {}
    for label, task in world.tasks.items():
        recipes[label] = truths(task, extra_recipes, world.suite.recipes)
        planner = _Planner(world, label, recipes[label])
        refused[label] = {}
        homes: dict[str, int] = {}
        for pair in usable_pairs(task, limit if limit is not None else budget.clips, refused[label]):
            if homes.setdefault(pair.utterance, len(homes)) % shard[1] != shard[0] - 1:
                continue
            clips.append(planner.clip(pair))
            units.append(tuple(planner.units(pair)))
    if not clips:
        part = f" for part {shard[0]} of {shard[1]}" if shard[1] > 1 else ""
        raise NothingMeasuredError(f"tasks must have test clips, got none{part} in {', '.join(world.tasks)}; see `xaibench info`")
    return Plan(clips, units, recipes, tier, world.suite.content_hash(), refused)


def shard_of(text: str) -> tuple[int, int]:
    """Read which part of how many is asked for.

    >>> shard_of("2/8")
    (2, 8)

    Raises:
        ValueError: If it is not such a pair.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= parts:
        raise ValueError(f"shard must be i/n with i from 1 to n, got {text!r}; write for example 2/8")
    return part, parts


def truths(task: Task, extra_recipes: Sequence[str] = (), preferred: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the truths that a task is scored against: recipes of twins, labels in time, or none.

    Args:
        task: The task.
        extra_recipes: Further ones.
        preferred: Those of the suite: of the task's own recipes these come first, in this order.

    Raises:
        UnknownNameError: If a recipe is not known.
    """
    if task.truth in ("time", "none"):
        return (TIME.name,) if task.truth == "time" else ()
    first = [name for name in preferred if name in task.recipes]
    return tuple(dict.fromkeys(named_recipe(name).name for name in (*first, *task.recipes, *extra_recipes)))


def usable_pairs(task: Task, count: int | None, refused: dict[str, str]) -> Iterator[Pair]:
    """Yield test pairs, complete and in the order in which they are chosen, until there are ``count``.

    Args:
        task: The task.
        count: Clips wanted; ``None`` takes all.
        refused: Gets the pairs that are passed over, with the reason: no twins, or unreadable.
    """
    for pair in select_pairs(task.pairs("test"), None):
        if count == 0:
            return
        try:
            complete = task.complete(pair)
        except (PairError, AudioError) as error:
            refused[pair.id] = str(error)
            warnings.warn(f"{task.name}: pair {pair.id} is left out: {error}", stacklevel=2)
            continue
        count = None if count is None else count - 1
        yield complete


def plan_of(world: World, units: Iterable[Unit], recipes: dict[str, tuple[str, ...]], tier: TierName) -> Plan:
    """Plan the scoring of explanations that were made: their units as they were recorded, in the order of the tasks' clips.

    Raises:
        DataMismatchError: If a clip is not in its task any more.
    """
    by_clip: dict[tuple[str, str], list[Unit]] = {}
    for unit in units:
        by_clip.setdefault((unit.clip.task, unit.clip.pair), []).append(unit)
    clips, groups = Spool[PlannedClip](), Spool[tuple[Unit, ...]]()
    for label, task in world.tasks.items():
        planner = _Planner(world, label, recipes[label])
        for pair in select_pairs(task.pairs("test"), None):
            if found := by_clip.pop((label, pair.id), None):
                clips.append(planner.clip(task.complete(pair)))
                groups.append(tuple(sorted(found, key=lambda unit: (unit.explainer, unit.recipe, unit.key))))
    if by_clip:
        raise DataMismatchError(f"task must hold the clips that were explained, got none called {min(by_clip)[1]!r}; fetch the data again")
    return Plan(clips, groups, recipes, tier, world.suite.content_hash())


class _Planner:
    """Plans one task; what all its clips share is hashed once."""

    def __init__(self, world: World, label: str, recipes: Sequence[str]):
        self.world, self.label, self.recipes = world, label, recipes
        self.task: Task = world.tasks[label]
        self.detector_label = world.detector_of[label]
        self.detector_identity = _detector_identity(world.detectors[self.detector_label])
        self.machine = machine_class(world.detectors[self.detector_label])
        # the code that loads decides what is heard, as the listed hashes do
        self.fingerprint = content_hash({"content": self.task.fingerprint(), "source": source_hash(type(self.task))})
        self.stft = world.stft(label).content_hash()
        self.sources = {name: source_hash(type(explainer)) for name, explainer in world.explainers.items()}
        self._states: dict[int, str] = {}

    def ref(self, pair: Pair) -> ClipRef:
        return ClipRef(
            task=self.label,
            split=pair.split,
            pair=pair.id,
            utterance=pair.utterance,
            speaker=pair.speaker,
            vocoder=pair.vocoder,
            family=pair.family or pair.vocoder,
            seen_vocoder=pair.seen_vocoder,
        )

    def clip(self, pair: Pair) -> PlannedClip:
        heard = {"task": self.fingerprint, "pair": _pair_identity(pair), "detector": self.detector_identity, "machine": self.machine}
        identity = content_hash(heard)
        seed = int(content_hash([_pair_identity(pair), self.world.seed])[:8], 16)
        return PlannedClip(self.ref(pair), pair, self.detector_label, identity, seed)

    def units(self, pair: Pair) -> Iterator[Unit]:
        ref = self.ref(pair)
        for label, explainer in self.world.explainers.items():
            bound = any(f.name == "recipe" for f in fields(explainer))
            for recipe in self.recipes if bound and self.task.truth not in ("time", "none") else ("",):
                yield self._unit(ref, pair, label, recipe)

    def _unit(self, ref: ClipRef, pair: Pair, label: str, recipe: str) -> Unit:
        try:
            unit = self._described(ref, pair, label, recipe)
            _ = unit.key  # hashed here, where a configuration that cannot be written down can still be told
        except (XaibenchError, KeyboardInterrupt):
            raise
        except BaseException as error:  # bind, prepare, config and state_hash are a plugin's code
            raise PluginError(
                f"explainer must be ready before the run starts, got {type(error).__name__} from {label}: {clean(first_line(error))}; "
                f"mend its bind, prepare, config or state_hash"
            ) from error
        return unit

    def _described(self, ref: ClipRef, pair: Pair, label: str, recipe: str) -> Unit:
        shared = self.world.variant(label, recipe, self.label)
        explainer = self.world.ready(label, recipe, self.label, pair)
        identity = {
            "task": self.fingerprint,
            "pair": _pair_identity(pair),
            "detector": self.detector_identity,
            "explainer": {
                "name": explainer.name,
                "version": explainer.version,
                "config": explainer.config(),
                "state": self._state(explainer, shared),
                "source": self.sources[label],
            },
            "stft": self.stft,
            "seed": self.world.seed,
            "machine": self.machine,
        }
        return Unit(
            clip=ref,
            detector=self.detector_label,
            explainer=label,
            recipe=recipe,
            polarity=explainer.polarity,
            threshold=explainer.decision_threshold,
            identity=identity,
        )

    def _state(self, explainer: Explainer, shared: Explainer) -> str:
        if explainer is not shared:  # bound to this clip
            return explainer.state_hash()
        if id(shared) not in self._states:
            self._states[id(shared)] = shared.state_hash()
        return self._states[id(shared)]


def _pair_identity(pair: Pair) -> dict[str, str | int]:
    return {"id": pair.id, "bonafide": pair.bonafide_sha256, "spoof": pair.spoof_sha256, "lag": pair.lag}


def machine_class(detector: Detector) -> dict[str, str]:
    """Name what rounds the numbers: the kind of device and the release of torch. Results of two kinds must not meet in one folder."""
    device = next((p.device.type for p in detector.parameters()), "cpu")
    return {"device": device, "torch": ".".join(torch.__version__.split("+")[0].split(".")[:2])}


def _detector_identity(detector: Detector) -> str:
    return content_hash({"fingerprint": detector.fingerprint(), "source": source_hash(type(detector))})
