"""Sample pages: which clips are shown, and the pictures and sounds of each.

Everything on a sample page is made from what was scored: the stored heatmap, the same truth, the same choice of cells.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaibench.errors import XaibenchError
from xaibench.leaderboard import pictures
from xaibench.leaderboard.rows import Board, Group, Row, Run
from xaibench.leaderboard.views import option
from xaibench.types import Split

if TYPE_CHECKING:
    from torch import Tensor

    from xaibench.leaderboard.curves import Plot
    from xaibench.leaderboard.sound import Sound
    from xaibench.tasks.masks import Truth
    from xaibench.tasks.spectrogram import STFTConfig
    from xaibench.types import Clip, Detector, Task

SPLITS: tuple[Split, ...] = ("test", "dev", "train")
SHOWN: tuple[Group, ...] = ("explainer", "oracle", "control")
"""Order of the heatmaps on a page."""
NEEDED = frozenset(
    {"task", "detector", "metric", "polarity", "recipe", "pair", "vocoder", "seen_vocoder", "explainer", "value", "heatmap_sha256"}
)
"""Columns of ``units.parquet`` that choosing clips looks at."""
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
    file: str
    log_odds: float | None
    silent: bool = False


@dataclass(frozen=True)
class Listen:
    """What can be heard of one mask: its cells alone, and everything else; of a whole clip there is only the first."""

    title: str
    text: str
    only: Track
    rest: Track | None = None


@dataclass(frozen=True)
class Sample:
    """One sample page."""

    number: int
    choice: Choice
    clip: "Clip"
    grid: "STFTConfig"
    seconds: float
    """Length of the pictures: the recording without its repetition."""
    tiled: bool
    spoof: str
    twin: str
    truth: str
    panels: tuple[Panel, ...]
    sounds: tuple[Listen, ...]
    missing: tuple[str, ...]
    """Titles of explainers without a heatmap for this clip."""
    plots: "tuple[Plot, ...]" = ()
    """Faithfulness curves of this clip, where it was among those measured."""


def read_units(run_dir: Path, board: Board, recipe: str) -> list[dict[str, Any]]:
    """Read the primary scores of a board and recipe from ``units.parquet``, one record per clip and explainer, in stored order."""
    path = run_dir / "units.parquet"
    if not path.is_file():
        return []
    import pyarrow.compute as pc
    import pyarrow.parquet

    wanted = {"task": [board.task], "detector": [board.detector], "polarity": ["declared", ""], "recipe": [recipe, ""]}
    wanted["metric"] = [board.primary.name]
    file = pyarrow.parquet.ParquetFile(path)
    table = file.read(columns=[name for name in file.schema_arrow.names if name in NEEDED])
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
        Choice(p, str(about[p]["vocoder"]), bool(about[p]["seen_vocoder"]), why, clips[p], lead.get(p))
        for p, why in list(chosen.items())[:count]
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
        run: Run with the stored heatmaps.
        board: The board.
        recipe: Mask recipe whose truth is drawn.
        task: Task that loads the clips.
        detector: Detector that judges what is heard, in ``eval()`` mode; ``None`` leaves its answers out.
        curves: Records of ``read_curves``.
        panels: Most heatmaps on a page.
        encode: Makes a sound's file: its suffix, and the function from (T,) to bytes; lossless by default.
    """

    def __init__(
        self,
        run: Run,
        board: Board,
        recipe: str,
        task: "Task",
        detector: "Detector | None",
        curves: Sequence[Mapping[str, Any]] = (),
        panels: int | None = None,
        encode: "tuple[str, Callable[[Tensor], bytes]] | None" = None,
    ):
        from xaibench.tasks.spectrogram import DEFAULT_STFT

        self.run, self.board, self.recipe, self.task, self.detector = run, board, recipe, task, detector
        self.grid: STFTConfig = getattr(task, "stft", None) or DEFAULT_STFT
        self.pairs = {pair.id: pair for split in SPLITS for pair in task.pairs(split)}
        self.order = self._order()[:panels]
        self.curves = [r for r in curves if (r["task"], r["detector"]) == (board.task, board.detector)]
        self.encode = encode
        floor = board.floor(recipe)
        self.listened = [row.explainer for row in board.ranked("explainer", recipe)[:N_LISTENED]] + ([floor[0].explainer] if floor else [])
        self.slow = bool(option(run.manifest, "detectors", board.detector, "slow"))

    def _order(self) -> list[Row]:
        """Return the rows in the order of their heatmaps: explainers, the ceiling, the best control, the others."""
        ranked = [row for group in SHOWN for row in self.board.ranked(group, self.recipe)]
        floor, ceiling = self.board.floor(self.recipe), self.board.ceiling(self.recipe)
        early = [found[0] for found in (ceiling, floor) if found]
        first = [row for row in ranked if row.group == "explainer"]
        return [*first, *early, *(row for row in ranked if row not in early and row.group != "explainer")]

    def make(self, number: int, choice: Choice, write: Write) -> Sample:
        """Write the assets of one sample through ``write(name, content) -> address`` and return what its page shows.

        Raises:
            XaibenchError: If the clip or its truth cannot be had.
        """
        import torch

        from xaibench.tasks import masks
        from xaibench.tasks.spectrogram import magnitude
        from xaibench.types import SAMPLE_RATE

        if choice.pair not in self.pairs:
            raise XaibenchError(
                f"pair must be listed by task {self.task.name!r}, got {choice.pair!r}; make the report with the data of the run"
            )
        clip = self.task.load(self.pairs[choice.pair])
        truth = masks.truth(clip, masks.recipe(self.recipe), self.grid)
        frames = int(truth.valid.any(0).sum())
        both = magnitude(torch.stack([clip.spoof, clip.bonafide]), self.grid)[..., :frames].numpy()
        loudest = float(both.max())
        panels, chosen, missing = self._panels(choice, truth, frames, write)
        return Sample(
            number=number,
            choice=choice,
            clip=clip,
            grid=self.grid,
            seconds=frames * self.grid.hop_samples / SAMPLE_RATE,
            tiled=clip.valid_samples < len(clip.spoof),
            spoof=write("spoof.png", pictures.spectrogram_png(both[0], loudest)),
            twin=write("twin.png", pictures.spectrogram_png(both[1], loudest)),
            truth=write("truth.png", pictures.outline_png(truth.mask.numpy()[:, :frames])),
            panels=tuple(panels),
            sounds=tuple(self._sounds(clip, truth, chosen, write)),
            missing=tuple(missing),
            plots=self._plots(choice),
        )

    def _plots(self, choice: Choice) -> "tuple[Plot, ...]":
        from xaibench.leaderboard.curves import plots

        return tuple(plots([r for r in self.curves if r["pair"] == choice.pair], self.board, self.recipe))

    def _panels(self, choice: Choice, truth: "Truth", frames: int, write: Write) -> tuple[list[Panel], dict[str, "Tensor"], list[str]]:
        from xaibench.benchmark.heatmaps import read_heatmap
        from xaibench.tasks.masks import top_cells

        panels, chosen, missing = [], {}, []
        valid, count = truth.valid, int(truth.mask.sum())
        for position, row in enumerate(self.order):
            value, digest = choice.scores.get(row.explainer, (None, ""))
            if not digest:
                missing.append(row.title)
                continue
            heatmap = read_heatmap(self.run.path, digest)
            heatmap = heatmap.abs() if option(self.run.manifest, "explainers", row.explainer, "polarity") == "magnitude" else heatmap
            cells = top_cells(heatmap[None], count, valid[None])[0][0]
            chosen[row.explainer] = cells
            heat = write(f"map-{position:02}.png", pictures.heatmap_png(heatmap.numpy()[:, :frames], valid.numpy()[:, :frames]))
            found = write(f"cells-{position:02}.png", pictures.verdict_png(cells.numpy()[:, :frames], truth.mask.numpy()[:, :frames]))
            panels.append(Panel(row, value, heat, found))
        return panels, chosen, missing

    def _sounds(self, clip: "Clip", truth: "Truth", chosen: Mapping[str, "Tensor"], write: Write) -> list[Listen]:
        from xaibench.leaderboard import sound

        titles = {row.explainer: row.title for row in self.order}
        masks = [("The truth", truth.mask), *((titles[name], chosen[name]) for name in self.listened if name in chosen)]
        parts = [part for _, mask in masks for part in sound.split(clip.spoof, mask, self.grid)]
        waveforms = [clip.spoof, sound.match_level(clip.bonafide, clip.spoof).waveform, *(part.waveform for part in parts)]
        answers = self._answers(waveforms)
        suffix, encode = self.encode or ("flac", sound.flac_bytes)
        files = [write(f"sound-{i:02}.{suffix}", encode(w[: clip.valid_samples])) for i, w in enumerate(waveforms)]
        listens = [
            Listen("Vocoded clip", "what the detector was asked about", Track("Vocoded clip", files[0], answers[0])),
            Listen("Real twin", "the recording that it was made from", Track("Real twin", files[1], answers[1])),
        ]
        for i, (title, _) in enumerate(masks):
            at, only, rest = 2 + 2 * i, parts[2 * i], parts[2 * i + 1]
            text = f"brought to the level of the clip: {_gain(only)} and {_gain(rest)}"
            first = Track(f"Only {title}", files[at], answers[at], only.silent)
            second = Track(f"Everything but {title}", files[at + 1], answers[at + 1], rest.silent)
            listens.append(Listen(title, text, first, second))
        return listens

    def _answers(self, waveforms: Sequence["Tensor"]) -> list[float | None]:
        """Ask the detector about each sound; a slow detector only about the twins."""
        import torch

        if self.detector is None:
            return [None] * len(waveforms)
        asked = list(waveforms[:2] if self.slow else waveforms)
        with torch.no_grad():
            answers: list[float | None] = [float(self.detector(w[None])[0]) for w in asked]
        return answers + [None] * (len(waveforms) - len(asked))


def _gain(sound: "Sound") -> str:
    return "silent" if sound.silent else f"{sound.gain_db:+.0f} dB".replace("-", "−")
