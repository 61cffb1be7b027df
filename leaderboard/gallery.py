"""One clip under every explainer beside the truth, as a picture: ``python -m xaibench.leaderboard.gallery --out PICTURE.png``.

Heatmaps are drawn by rank within the clip, which is all that the equal-area scores see, with Generalized Dice against the first truth.
Explainers that cannot explain the detector are tried on the detector named by ``--second``, and their panels say so.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaibench.benchmark.metrics.localization import generalized_dice
from xaibench.errors import XaibenchError
from xaibench.leaderboard import pictures
from xaibench.registry import DETECTORS, EXPLAINERS, TASKS
from xaibench.tasks.masks import truth
from xaibench.tasks.spectrogram import DEFAULT_STFT, magnitude
from xaibench.types import Clip, Control, Detector, Explainer, Task

WIDTH, HEIGHT, HEAD, GAP = 252, 170, 18, 8
"""Of a panel, of its heading and of the space between panels, in pixels."""
COLUMNS = 5
HIDDEN = ("addsegdiff_random", "constant", "captum")
"""Not drawn: without a picture of their own."""


@dataclass(frozen=True)
class Panel:
    """One picture with its heading."""

    title: str
    png: bytes


@dataclass(frozen=True)
class Scene:
    """The clip and what is known of it."""

    task: Task
    clip: Clip
    truth: Tensor
    """(F, N) bool."""
    valid: Tensor
    """(F, N) bool."""

    @classmethod
    def of(cls, task: Task, pair_id: str) -> "Scene":
        """Load a test pair by id; the first one without an id.

        Raises:
            ValueError: If there is none of this id.
        """
        pairs = [pair for pair in task.pairs("test") if pair_id in ("", pair.id)]
        if not pairs:
            raise ValueError(f"pair must be a test pair of {task.name}, got {pair_id!r}; leave it out for the first one")
        clip = task.load(pairs[0])
        known = truth(clip, task.recipes[0], DEFAULT_STFT)
        return cls(task, clip, torch.as_tensor(known.mask), torch.as_tensor(known.valid))

    def cut(self, grid: Tensor) -> Any:
        """Return a grid (F, N) without the frames of tiling, as an array."""
        return grid[:, : int(self.valid.any(0).nonzero().max()) + 1].float().numpy()


def truth_panels(scene: Scene) -> list[Panel]:
    """Draw the clip, its real twin, and its truths."""
    clip = scene.clip
    loudest = float(magnitude(clip.spoof[None]).max())
    panels = [
        Panel(title, pictures.spectrogram_png(scene.cut(magnitude(wave[None])[0]), loudest))
        for title, wave in ((f"spoof: {clip.pair.vocoder}", clip.spoof), ("its real twin", clip.bonafide))
    ]
    for recipe in scene.task.recipes:
        found = torch.as_tensor(truth(clip, recipe, DEFAULT_STFT).mask)
        panels.append(Panel(f"truth {recipe}", ranked(scene, found.float())))
    return panels


def ranked(scene: Scene, grid: Tensor) -> bytes:
    """Draw a grid (F, N) by rank."""
    return pictures.heatmap_png(scene.cut(grid), scene.cut(scene.valid) > 0)


def explainer_panel(scene: Scene, name: str, detectors: Sequence[Detector]) -> Panel | None:
    """Draw one explainer's heatmap of the first detector that it can explain; say why where there is none."""
    reason = ""
    for index, detector in enumerate(detectors):
        try:
            explainer: Explainer = EXPLAINERS.load(name)
            explainer = explainer.bind(scene.task.name)
            explainer = explainer.prepare(scene.task, scene.clip.pair) if isinstance(explainer, Control) else explainer
            usable, why = explainer.applicable(detector)
            if usable:
                found = heatmap(scene, explainer, detector)
                score = float(generalized_dice(found[None], scene.truth[None], scene.valid[None]))
                place = f" ({detector.name})" if index else ""
                return Panel(f"{name}{place} {100 * score:.1f}", ranked(scene, found))
        except XaibenchError as error:
            why = str(error)
        reason = reason or why
    sys.stderr.write(f"{name}: {reason}\n")
    return None


def heatmap(scene: Scene, explainer: Explainer, detector: Detector) -> Tensor:
    """Return the heatmap that is scored, (F, N): its magnitude where the explainer declares it."""
    known: dict[str, Any] = {"recipe": scene.task.recipes[0], "valid_samples": scene.clip.valid_samples}
    explainer = replace(explainer, **{f.name: known[f.name] for f in fields(explainer) if f.name in known})
    references = scene.clip.bonafide[None] if explainer.oracle else None
    if "references" in explainer.needs and references is None:
        references = scene.task.references(scene.clip.pair)
    found = explainer.explain(scene.clip.spoof[None], detector, references=references, generator=[torch.Generator().manual_seed(0)])[0]
    return found.abs() if explainer.polarity == "magnitude" else found


def montage(panels: Sequence[Panel], colors: int = 48) -> bytes:
    """Put panels into rows and return them as one PNG of few colours."""
    from PIL import Image, ImageDraw

    rows = -(-len(panels) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + HEAD + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, panel in enumerate(panels):
        left, top = GAP + i % COLUMNS * (WIDTH + GAP), GAP + i // COLUMNS * (HEIGHT + HEAD + GAP)
        draw.text((left, top + 2), panel.title, fill="black")
        picture = Image.open(io.BytesIO(panel.png)).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
        sheet.paste(picture, (left, top + HEAD))
    buffer = io.BytesIO()
    sheet.quantize(colors).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="public_pairs", help="specification of the task")
    parser.add_argument("--pair", default="", help="id of a test pair; default: the first one")
    parser.add_argument("--detector", default="spectrogram_cnn:weights=public_pairs", help="specification of the detector")
    parser.add_argument("--second", default="wav2vec2_aasist_tiny", help="detector for explainers that cannot explain the first one")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    scene = Scene.of(TASKS.load(options.task), options.pair)
    detectors: list[Detector] = []
    for spec in (options.detector, options.second):
        try:
            detectors.append(DETECTORS.load(spec).eval().requires_grad_(False))
        except XaibenchError as error:
            sys.stderr.write(f"{spec}: {error}\n")
    names = [name for name in EXPLAINERS.names() if name not in HIDDEN]
    order = sorted(names, key=lambda name: ("." in name, issubclass(EXPLAINERS.get(name), Control), name))
    panels = truth_panels(scene) + [panel for name in order if (panel := explainer_panel(scene, name, detectors))]
    options.out.write_bytes(montage(panels))
    sys.stdout.write(f"{scene.clip.pair.id} ({scene.clip.pair.licence}): {options.out}, {options.out.stat().st_size // 1000} kB\n")


if __name__ == "__main__":
    main()
