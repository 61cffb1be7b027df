"""Sample pages: which clips are shown, and the pictures and sounds of each.

Everything on a sample page is made from what was scored: the stored heatmap, the same truth, the same choice of cells.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaibench.errors import XaibenchError
from xaibench.leaderboard import pictures
from xaibench.leaderboard.rows import Board, Row
from xaibench.leaderboard.words import PRIMARY

if TYPE_CHECKING:
    from torch import Tensor

    from xaibench.tasks.masks import Truth
    from xaibench.tasks.spectrogram import STFTConfig
    from xaibench.types import Clip, Detector, Task

SLOW_FORWARD_S = 0.15
"""Detectors slower than this judge the twins only, not every excerpt."""
N_LISTENED = 2
"""Explainers whose evidence can be heard on a sample page, besides the truth and the best control."""

Write = Callable[[str, bytes], str]


@dataclass(frozen=True)
class Choice:
    """A clip to show, why, and the stored score and heatmap of each explainer."""

    pair: str
    vocoder: str
    seen: bool
    reason: str
    scores: Mapping[str, tuple[float | None, str]] = field(repr=False)
    lead: float | None = None


@dataclass(frozen=True)
class Panel:
    """One heatmap as drawn."""

    row: Row
    value: float | None
    heat: str
    verdict: str


@dataclass(frozen=True)
class Track:
    """One sound as offered."""

    title: str
    text: str
    file: str
    log_odds: float | None
    silent: bool = False


@dataclass(frozen=True)
class Sample:
    """One sample page."""

    number: int
    choice: Choice
    clip: "Clip"
    grid: "STFTConfig"
    seconds: float
    valid_seconds: float
    spoof: str
    twin: str
    truth: str
    panels: tuple[Panel, ...]
    tracks: tuple[Track, ...]
    missing: tuple[str, ...]
    """Titles of explainers without a heatmap for this clip."""


def read_units(run_dir: Path, board: Board, recipe: str) -> list[dict[str, Any]]:
    """Read the primary scores of a board and recipe from ``units.parquet``, one record per clip and explainer, in stored order."""
    path = run_dir / "units.parquet"
    if not path.is_file():
        return []
    import pyarrow.compute as pc
    import pyarrow.parquet

    wanted = {"task": [board.task], "detector": [board.detector], "metric": [PRIMARY], "polarity": ["declared", ""], "recipe": [recipe, ""]}
    table = pyarrow.parquet.ParquetFile(path).read()
    for column, values in wanted.items():
        table = table.filter(pc.is_in(table[column].cast("string"), pyarrow.array(values)))
    records: list[dict[str, Any]] = table.to_pylist()
    return records


def choose(units: Iterable[Mapping[str, Any]], leader: str, count: int = 12) -> list[Choice]:
    """Choose clips to show: the leader's best and worst, those on which explainers differ most, then one of each vocoder not yet seen.

    Args:
        units: Records of ``read_units``.
        leader: Explainer whose scores order the clips.
        count: Clips wanted.
    """
    clips: dict[str, dict[str, tuple[float | None, str]]] = {}
    about: dict[str, Mapping[str, Any]] = {}
    rivals: set[str] = set()
    for unit in units:
        clips.setdefault(unit["pair"], {})[unit["explainer"]] = (unit["value"], unit["heatmap_sha256"] or "")
        about.setdefault(unit["pair"], unit)
        if not str(unit["explainer"]).startswith("oracle"):
            rivals.add(unit["explainer"])
    lead = {pair: value for pair, scores in clips.items() if (value := scores.get(leader, (None, ""))[0]) is not None}
    spread = {pair: _spread(scores, rivals) for pair, scores in clips.items()}
    best, worst = sorted(lead, key=lambda p: (-lead[p], p)), sorted(lead, key=lambda p: (lead[p], p))
    contested = sorted(spread, key=lambda p: (-spread[p], p))
    chosen: dict[str, str] = {}
    quarter = max(1, count // 4)
    for reason, ranking in (("best", best), ("worst", worst), ("most contested", contested)):
        _take(chosen, reason, ranking, quarter, {pair: about[pair]["vocoder"] for pair in about})
    heard = {about[pair]["vocoder"] for pair in chosen}
    for pair in sorted(clips, key=lambda p: (about[p]["vocoder"] in heard, about[p]["vocoder"], p)):
        if len(chosen) >= min(count, len(clips)):
            break
        if pair not in chosen and (about[pair]["vocoder"] not in heard or len(heard) == len({a["vocoder"] for a in about.values()})):
            chosen[pair] = "another vocoder" if about[pair]["vocoder"] not in heard else "further clip"
            heard.add(about[pair]["vocoder"])
    return [
        Choice(p, str(about[p]["vocoder"]), bool(about[p]["seen_vocoder"]), why, clips[p], lead.get(p)) for p, why in list(chosen.items())[:count]
    ]


def _spread(scores: Mapping[str, tuple[float | None, str]], rivals: set[str]) -> float:
    values = [value for name, (value, _) in scores.items() if name in rivals and value is not None]
    return max(values) - min(values) if values else 0.0


def _take(chosen: dict[str, str], reason: str, ranking: Sequence[str], count: int, vocoders: Mapping[str, str]) -> None:
    """Take the first of a ranking, at most one per vocoder while others are left."""
    taken: list[str] = []
    for fresh in (True, False):
        for pair in ranking:
            if len(taken) >= count:
                break
            known = {vocoders[p] for p in taken}
            if pair not in chosen and pair not in taken and (not fresh or vocoders[pair] not in known):
                taken.append(pair)
    chosen.update(dict.fromkeys(taken, reason))


class Studio:
    """Makes the pictures and sounds of one board's samples.

    Args:
        run_dir: Run folder with the stored heatmaps.
        board: The board.
        recipe: Mask recipe whose truth is drawn.
        task: Task that loads the clips.
        detector: Detector that judges what is heard, in ``eval()`` mode; ``None`` leaves its answers out.
    """

    def __init__(self, run_dir: Path, board: Board, recipe: str, task: "Task", detector: "Detector | None"):
        from xaibench.tasks.spectrogram import DEFAULT_STFT

        self.run_dir, self.board, self.recipe, self.task, self.detector = run_dir, board, recipe, task, detector
        self.grid: STFTConfig = getattr(task, "stft", None) or DEFAULT_STFT
        self.pairs = {pair.id: pair for split in ("test", "dev", "train") for pair in task.pairs(split)}  # type: ignore[arg-type]
        self.order = [row for group in ("explainer", "oracle", "control") for row in board.ranked(group, recipe)]  # type: ignore[arg-type]
        floor = board.floor(recipe)
        self.listened = [row.explainer for row in board.ranked("explainer", recipe)[:N_LISTENED]] + ([floor[0].explainer] if floor else [])
        self.judges_all = detector is not None and _forward_seconds(detector) < SLOW_FORWARD_S

    def make(self, number: int, choice: Choice, write: Write) -> Sample:
        """Write the assets of one sample through ``write(name, content) -> address`` and return what its page shows.

        Raises:
            XaibenchError: If the clip or its truth cannot be had.
        """
        from xaibench.tasks import masks
        from xaibench.tasks.spectrogram import magnitude
        from xaibench.types import SAMPLE_RATE

        if choice.pair not in self.pairs:
            raise XaibenchError(f"pair must be listed by task {self.task.name!r}, got {choice.pair!r}; make the report with the data of the run")
        clip = self.task.load(self.pairs[choice.pair])
        truth = masks.truth(clip, masks.recipe(self.recipe), self.grid)
        both = magnitude(clip.spoof[None], self.grid)[0], magnitude(clip.bonafide[None], self.grid)[0]
        loudest = float(max(m.max() for m in both))
        panels, chosen, missing = self._panels(choice, truth, write)
        return Sample(
            number=number,
            choice=choice,
            clip=clip,
            grid=self.grid,
            seconds=len(clip.spoof) / SAMPLE_RATE,
            valid_seconds=min(clip.valid_samples, len(clip.spoof)) / SAMPLE_RATE,
            spoof=write("spoof.png", pictures.spectrogram_png(both[0].numpy(), loudest)),
            twin=write("twin.png", pictures.spectrogram_png(both[1].numpy(), loudest)),
            truth=write("truth.png", pictures.outline_png(truth.mask.numpy())),
            panels=tuple(panels),
            tracks=tuple(self._tracks(clip, truth, chosen, write)),
            missing=tuple(missing),
        )

    def _panels(self, choice: Choice, truth: "Truth", write: Write) -> tuple[list[Panel], dict[str, "Tensor"], list[str]]:
        from xaibench.benchmark.heatmaps import read_heatmap
        from xaibench.tasks.masks import top_cells

        panels, chosen, missing = [], {}, []
        valid, count = truth.valid, int(truth.mask.sum())
        for position, row in enumerate(self.order):
            value, digest = choice.scores.get(row.explainer, (None, ""))
            if not digest:
                missing.append(row.title)
                continue
            heatmap = read_heatmap(self.run_dir, digest)
            cells = top_cells(heatmap[None], count, valid[None])[0][0]
            chosen[row.explainer] = cells
            heat = write(f"map-{position:02}.png", pictures.heatmap_png(heatmap.numpy(), valid.numpy()))
            found = write(f"cells-{position:02}.png", pictures.verdict_png(cells.numpy(), truth.mask.numpy()))
            panels.append(Panel(row, value, heat, found))
        return panels, chosen, missing

    def _tracks(self, clip: "Clip", truth: "Truth", chosen: Mapping[str, "Tensor"], write: Write) -> list[Track]:
        from xaibench.leaderboard import sound

        planned: list[tuple[str, str, sound.Sound]] = [
            ("Vocoded clip", "what the detector was asked about", sound.Sound(clip.spoof, 0.0)),
            ("Real twin", "the recording that it was made from", sound.match_level(clip.bonafide, clip.spoof)),
        ]
        titles = {row.explainer: row.title for row in self.order}
        for title, mask in [("the truth", truth.mask), *((titles[n], chosen[n]) for n in self.listened if n in chosen)]:
            only, rest = sound.split(clip.spoof, mask, self.grid)
            planned += [(f"Only {title}", _gain(only), only), (f"Without {title}", _gain(rest), rest)]
        answers = self._answers([s.waveform for _, _, s in planned])
        return [
            Track(title, text, write(f"sound-{i:02}.flac", sound.flac_bytes(s.waveform)), answers[i], s.silent)
            for i, (title, text, s) in enumerate(planned)
        ]

    def _answers(self, waveforms: Sequence["Tensor"]) -> list[float | None]:
        """Ask the detector about each sound; a slow detector only about the twins."""
        import torch

        if self.detector is None:
            return [None] * len(waveforms)
        asked = list(waveforms) if self.judges_all else list(waveforms[:2])
        with torch.inference_mode():
            answers: list[float | None] = [float(self.detector(w[None])[0]) for w in asked]
        return answers + [None] * (len(waveforms) - len(asked))


def _gain(sound: Any) -> str:
    return "silent" if sound.silent else f"level-matched, {sound.gain_db:+.0f} dB".replace("-", "−").replace("level−", "level-")


def _forward_seconds(detector: "Detector") -> float:
    """Measure one forward pass, the best of two."""
    import torch

    clip = torch.zeros(1, detector.input_samples)
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            detector(clip)
        best = min(best, time.perf_counter() - start)
    return best
