"""The page of a corpus's ground truth: profiles, similarity, stability, controls and sweep, with pictures drawn as SVG."""

from collections.abc import Sequence
from pathlib import Path

import xaibench
from xaibench.benchmark.mask_quality import BANDS, FREQUENCIES, MaskQuality, verdicts
from xaibench.leaderboard.pages import render
from xaibench.tasks.cache import atomic_write

WIDTH, HEIGHT = 240, 60


def bars(values: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """Return x, y, width and height of the bars of a profile; an even spread, one over the number of bands, is a quarter of the height."""
    step = WIDTH / max(len(values), 1)
    return [
        (i * step + 1, HEIGHT - min(HEIGHT, v * BANDS * HEIGHT / 4), step - 2, min(HEIGHT, v * BANDS * HEIGHT / 4))
        for i, v in enumerate(values)
    ]


def shade(value: float) -> str:
    """Return a colour from white (0) to blue (1) for a cell of the similarity table."""
    share = min(1.0, max(0.0, value))
    return f"rgb({255 - round(150 * share)},{255 - round(100 * share)},255)"


def build_mask_page(quality: MaskQuality, out: Path) -> Path:
    """Write ``masks.html`` and ``masks.json`` into a folder; the page opens from the disk and loads nothing.

    Raises:
        DataError: If the folder cannot be written.
    """
    import json

    names = [v.vocoder for v in quality.vocoders]
    table = [[quality.similarity.get("|".join(sorted((a, b)))) if a != b else None for b in names] for a in names]
    page = render(
        "masks.html",
        title=f"Ground truth of {quality.task}",
        quality=quality,
        verdicts=verdicts(quality),
        names=names,
        similarity=table,
        bars=bars,
        shade=shade,
        width=WIDTH,
        height=HEIGHT,
        frequencies=[f"{f / 1000:.1f}" for f in FREQUENCIES],
        version=xaibench.__version__,
    )
    atomic_write(out / "masks.json", (json.dumps(quality.as_json(), indent=1, sort_keys=True) + "\n").encode())
    atomic_write(out / "masks.html", page)
    return out / "masks.html"


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
