"""Find the run that says how far an explainer can be trusted: the newest finished one under ``runs/`` that holds its row."""

import json
from pathlib import Path

from xaibench.benchmark.folder import DONE


def newest_run(explainer: str, detector: str, folder: Path = Path("runs")) -> Path | None:
    """Return the newest finished run with a row of this explainer, one of the same detector before others; ``None`` where there is none.

    Args:
        explainer: Row label: the name, with options where they differ from the defaults.
        detector: Name of the detector.
        folder: Where runs lie.
    """
    found: list[tuple[bool, float, Path]] = []
    for done in folder.glob(f"*/{DONE}"):
        try:
            rows = json.loads((done.parent / "summary.json").read_text(encoding="utf-8"))["rows"]
            mine = [row for row in rows if row["explainer"] == explainer]
            if mine:
                found.append((any(row["detector"] == detector for row in mine), done.stat().st_mtime, done.parent))
        except (OSError, ValueError, KeyError, TypeError):  # a damaged run says nothing about anybody
            continue
    return max(found)[2] if found else None
