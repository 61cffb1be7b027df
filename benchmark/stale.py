"""Why a unit is made again although the journal holds one like it: what of its identity changed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from xaibench.benchmark.units import Explanation, Unit

WORDS = {
    "task": "content or code of the task",
    "pair": "recordings of the clip",
    "detector": "weights or code of the detector",
    "explainer.version": "version of the explainer",
    "explainer.config": "options of the explainer",
    "explainer.state": "weights of the explainer",
    "explainer.source": "code of the explainer",
    "stft": "grid",
    "seed": "seed",
    "machine": "device or release of torch",
}


def stale(known: Iterable[Explanation], wanted: Mapping[str, Unit]) -> Iterator[str]:
    """Yield a sentence for each explainer and set of causes.

    Args:
        known: Records of the journal.
        wanted: Units that are to be explained and have no record, by key.
    """
    asked: dict[tuple[str, ...], Unit] = {_question(unit): unit for unit in wanted.values()}
    last = {question: r.unit for r in known if (question := _question(r.unit)) in asked}
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for question, unit in asked.items():
        if question in last:
            counts[question[3], tuple(_causes(last[question], unit))] += 1
    for (label, causes), count in sorted(counts.items()):
        yield f"{label}: {count} explanations are stale because of another {', another '.join(causes) or 'schema'}; they are made again"


def _question(unit: Unit) -> tuple[str, ...]:
    return unit.clip.task, unit.clip.pair, unit.detector, unit.explainer, unit.recipe


def _causes(old: Unit, new: Unit) -> Iterator[str]:
    before, after = _flat(old.identity), _flat(new.identity)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield WORDS.get(name, name)


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with the parts of its explainer beside the other parts."""
    found = {name: value for name, value in identity.items() if name != "explainer"}
    return found | {f"explainer.{name}": value for name, value in identity.get("explainer", {}).items()}
