"""The page of a corpus's ground truth: profiles, similarity, stability, controls and sweep, with pictures drawn as SVG."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xaibench
from xaibench.benchmark.mask_quality import BANDS, FREQUENCIES, MaskQuality, mask_quality, verdicts
from xaibench.errors import DataError
from xaibench.leaderboard.pages import render
from xaibench.tasks.cache import atomic_write, cache_dir
from xaibench.tasks.recipes import recipe as named_recipe
from xaibench.types import Task, content_hash

WIDTH, HEIGHT = 240, 60
VERSION = "1"
"""Raised whenever equal content would be described otherwise."""


def bars(values: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """Return x, y, width and height of the bars of a profile; an even spread, one over the number of bands, is a quarter of the height."""
    step = WIDTH / max(len(values), 1)
    return [
        (i * step + 1, HEIGHT - min(HEIGHT, v * BANDS * HEIGHT / 4), step - 2, min(HEIGHT, v * BANDS * HEIGHT / 4))
        for i, v in enumerate(values)
    ]


def shade(value: float) -> int:
    """Return the tint of a similarity, 1 (none alike) to 8 (all alike)."""
    return 1 + min(7, max(0, int(8 * value)))


def page_values(quality: MaskQuality) -> dict[str, Any]:
    """Return what the page's template needs."""
    names = [v.vocoder for v in quality.vocoders]
    table = [[quality.similarity.get("|".join(sorted((a, b)))) if a != b else None for b in names] for a in names]
    return {
        "title": f"Ground truth of {quality.task}",
        "quality": quality,
        "verdicts": verdicts(quality),
        "names": names,
        "similarity": table,
        "bars": bars,
        "shade": shade,
        "width": WIDTH,
        "height": HEIGHT,
        "frequencies": [f"{f / 1000:.1f}" for f in FREQUENCIES],
        "version": xaibench.__version__,
    }


def build_mask_page(quality: MaskQuality, out: Path) -> Path:
    """Write ``masks.html`` and ``masks.json`` into a folder; the page opens from the disk and loads nothing.

    Raises:
        DataError: If the folder cannot be written.
    """
    import json

    page = render("masks.html", **page_values(quality))
    atomic_write(out / "masks.json", (json.dumps(quality.as_json(), indent=1, sort_keys=True) + "\n").encode())
    atomic_write(out / "masks.html", page)
    return out / "masks.html"


def kept_quality(task: Task, recipe: str, limit: int) -> MaskQuality:
    """Measure a task's ground truth, or read it from the cache where the same content was measured before.

    Raises:
        XaibenchError: If the task has no twins to compare, or its audio is not there.
    """
    import json

    key = content_hash([VERSION, task.fingerprint(), named_recipe(recipe).content_hash(), limit])
    path = cache_dir() / "mask-quality" / f"{key}.json"
    try:
        return MaskQuality.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        quality = mask_quality(task, recipe, limit)
    with contextlib.suppress(DataError):  # a cache that cannot be written costs time and nothing else
        atomic_write(path, (json.dumps(quality.as_json(), sort_keys=True) + "\n").encode())
    return quality


def mask_text(quality: MaskQuality) -> str:
    """Return the report as plain text."""
    lines = [f"Ground truth of {quality.task}, recipe {quality.recipe}, {quality.clips} clips", ""]
    for v in quality.vocoders:
        best = sorted(v.controls.items(), key=lambda item: -item[1])[:2]
        lines.append(
            f"{v.vocoder:28} {v.clips:3} clips  added {_percent(v.added)}  "
            f"below 2 kHz {_percent(sum(v.profile[: BANDS // 4]) if v.profile else None)}  "
            f"0.5 ms shift {_number(v.stability.get('8 samples'))}  controls {', '.join(f'{n} {100 * s:.0f}' for n, s in best)}"
        )
    lines += ["", "one utterance, two vocoders (Dice): " + ", ".join(f"{k} {v:.2f}" for k, v in quality.similarity.items())]
    lines += [
        "",
        *(
            f"{name:16} Dice with the recipe {v['dice']:.2f}, best control {100 * v['best_control']:.0f}"
            for name, v in quality.sweep.items()
        ),
    ]
    lines += ["", *verdicts(quality), *(f"refused {name}: {why}" for name, why in quality.refused.items())]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "  –" if value is None else f"{100 * value:3.0f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
