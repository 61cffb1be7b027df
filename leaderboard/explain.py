"""One's own recordings explained: verdict, picture, words and sound for an analyst, and JSON for a program.

A long recording is judged window by window at the detector's input length; the windows that it finds most spoof are explained. A short one
is repeated up to that length, and only its first run is shown.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import xaibench
from xaibench.errors import AudioError, NotApplicableError, RunError, XaibenchError
from xaibench.leaderboard import pictures, sound
from xaibench.leaderboard.evidence import Place, places
from xaibench.leaderboard.pages import render
from xaibench.leaderboard.rows import interval, number, read_run, verdict
from xaibench.leaderboard.samples import Listen, Track
from xaibench.leaderboard.words import clean, metric
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude, valid_cells
from xaibench.types import SAMPLE_RATE, Detector, Explainer

SHARE = 0.05
"""Share of the cells that is outlined, listened to and put into words."""
MAX_WINDOWS = 6
REMAINDER = 1600
"""Samples at the end that are not worth a window of their own, 0.1 s."""
SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64"}
UNDECIDED = 1.0
"""Log-odds within which neither verdict is spoken."""

Write = Callable[[str, bytes], str]
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Window:
    """A stretch of a recording at the detector's input length."""

    start_s: float
    seconds: float
    log_odds: float
    evidence: tuple[Place, ...] = ()
    pictures: dict[str, str] = field(default_factory=dict)
    sounds: tuple[Listen, ...] = ()

    @property
    def explained(self) -> bool:
        """Whether a heatmap was made."""
        return bool(self.pictures)


@dataclass(frozen=True)
class Explained:
    """What is told of one file; ``error`` instead of everything else where it could not be read."""

    file: str
    error: str = ""
    sha256: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()

    @property
    def log_odds(self) -> float:
        """Mean over the windows."""
        return sum(w.log_odds for w in self.windows) / max(len(self.windows), 1)

    @property
    def verdict(self) -> str:
        """The detector's opinion in words."""
        if abs(self.log_odds) < UNDECIDED:
            return "is undecided"
        return "leans to spoof" if self.log_odds > 0 else "leans to bona fide"


def explain_files(
    files: Sequence[str | Path],
    explainer: Explainer,
    detector: Detector,
    out: str | Path,
    *,
    references: Tensor | None = None,
    run: str | Path | None = None,
    progress: Advance | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Explain recordings and write a page, sounds, pictures and ``explanation.json``.

    Args:
        files: Recordings, or folders that are searched for recordings.
        explainer: Explainer; an oracle cannot be used, as there is no real twin.
        detector: Detector, taken to ``eval()``.
        out: Folder of the page.
        references: Bona fide recordings for explainers that need them, (R, T); by default those of the embedded corpus.
        run: Run folder whose leaderboard says how far this explainer can be trusted.
        progress: Called with windows done and windows in all, as far as files are read; a file not yet read counts as one.
        tell: Called with the sentence of each file of several that cannot be read, at once.

    Returns:
        Path of ``index.html``.

    Raises:
        AudioError: If no file could be read; the page then tells all reasons. Single bad files are told on the page.
        NotApplicableError: If the explainer cannot explain this detector.
        RunError: If ``out`` cannot be written.
    """
    from xaibench.tasks.cache import atomic_write

    target = Path(out)
    paths, trust = _recordings(files), _trust(run, explainer)
    analyst = _Analyst(_prepared(explainer, detector), detector.eval(), references, target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        found, done = list[Explained](), 0
        for at, path in enumerate(paths):
            advance = _offset(progress, done, len(paths) - at - 1)
            found.append(analyst.explain(path, at, advance))
            done += max(len(found[-1].windows), 1)
            if found[-1].error:
                advance(1, 1)
                if tell and len(paths) > 1:
                    tell(found[-1].error)
        document = _document(found, explainer, detector, trust)
        atomic_write(target / "explanation.json", (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())
        page = render(
            "explain.html", files=found, explainer=explainer.name, detector=detector.name, trust=trust, version=xaibench.__version__
        )
        atomic_write(target / "index.html", page)
    except OSError as error:
        raise RunError(f"out must be a folder that can be written, got {target}: {error.strerror or error}; choose another one") from error
    failed = [file.error for file in found if file.error]
    if len(failed) == len(found):
        raise AudioError(failed[0] + (f" ({len(failed) - 1} more files failed, see {target / 'index.html'})" if len(failed) > 1 else ""))
    return target / "index.html"


def _offset(progress: Advance | None, before: int, files_left: int) -> Advance:
    """Turn the windows of one file into those of the whole job."""

    def advance(done: int, total: int) -> None:
        if progress:
            progress(before + done, before + total + files_left)

    return advance


def _recordings(files: Sequence[str | Path]) -> list[Path]:
    """Replace folders by the recordings in them, in order."""
    found: list[Path] = []
    for item in map(Path, files):
        inside = sorted(p for p in item.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()) if item.is_dir() else [item]
        if not inside:
            raise AudioError(f"files must name recordings, got the folder {item} without any; supported: {', '.join(sorted(SUFFIXES))}")
        found += inside
    if not found:
        raise AudioError("files must name at least one recording, got none; write for example `xaibench explain clip.wav`")
    return found


def _prepared(explainer: Explainer, detector: Detector) -> Explainer:
    """Refuse what cannot explain a recording without its twin."""
    if explainer.oracle:
        raise NotApplicableError(f"explainer must not be an oracle, got {explainer.name!r}, which needs the real twin; choose another one")
    fits, reason = explainer.applicable(detector)
    if not fits:
        raise NotApplicableError(reason)
    return explainer


class _Analyst:
    """Explains one file after another with the same explainer and detector."""

    def __init__(self, explainer: Explainer, detector: Detector, references: Tensor | None, out: Path):
        self.detector, self.out = detector, out
        self.grid: STFTConfig = getattr(explainer, "stft", DEFAULT_STFT)
        self.explainer, self.references = _embedded(explainer, references)

    def explain(self, path: Path, at: int, progress: Advance) -> Explained:
        """Read, judge and explain one recording; what is wrong with it is told, not raised."""
        from xaibench.tasks.audio import decoded_sha256, describe, read_audio, tile

        try:
            waveform = read_audio(path)
        except AudioError as error:
            return Explained(clean(path.name), error=clean(error))
        length = self.detector.input_samples
        last = max(len(waveform) - length, 0)
        starts = [min(start, last) for start in range(0, max(len(waveform) - REMAINDER, 1), length)]
        pieces = [waveform[start : start + length] for start in starts]
        answers = [self._log_odds(tile(piece, length)) for piece in pieces]
        worth = sorted(range(len(pieces)), key=lambda i: -answers[i])[:MAX_WINDOWS]
        digest, windows = decoded_sha256(waveform), []
        for i, (start, piece, answer) in enumerate(zip(starts, pieces, answers, strict=True)):
            window = Window(start / SAMPLE_RATE, len(piece) / SAMPLE_RATE, answer)
            windows.append(self._detail(window, piece, f"{at:03}-{i:03}", int(digest[:12], 16) + i) if i in worth else window)
            progress(i + 1, len(pieces))
        about = describe(waveform)
        told = [("the recording is silent", about.silent), ("the recording is clipped", about.clipped)]
        told.append(("it is shorter than the detector's input and was repeated", len(waveform) < length))
        warnings = tuple(text for text, holds in told if holds)
        return Explained(clean(path.name), "", digest, len(waveform) / SAMPLE_RATE, warnings, tuple(windows))

    def _log_odds(self, waveform: Tensor) -> float:
        with torch.no_grad():
            return float(self.detector.spoof_logit(waveform[None])[0])

    def _detail(self, window: Window, piece: Tensor, name: str, seed: int) -> Window:
        from xaibench.tasks.audio import tile
        from xaibench.tasks.masks import top_cells

        waveform = tile(piece, self.detector.input_samples)
        generator = torch.Generator().manual_seed(seed)
        heatmap = self.explainer.explain(waveform[None], self.detector, references=self.references, generator=[generator])[0].detach()
        heatmap = heatmap.abs() if self.explainer.polarity == "magnitude" else heatmap
        valid = valid_cells(len(piece), len(waveform), self.grid)
        count = round(SHARE * int(valid.sum()))
        chosen = top_cells(heatmap[None], count, valid[None])[0][0]
        frames = max(int(valid.any(0).sum()), 1)
        write = self._writer(name)
        shown = magnitude(waveform[None], self.grid)[0, :, :frames].numpy()
        files = {
            "spectrogram": write("spectrogram.png", pictures.spectrogram_png(shown)),
            "outline": write("outline.png", pictures.outline_png(chosen[:, :frames].numpy())),
            "heatmap": write("heatmap.png", pictures.heatmap_png(heatmap[:, :frames].numpy(), valid[:, :frames].numpy())),
        }
        sounds = self._sounds(waveform, chosen, len(piece), window.log_odds, write)
        return Window(window.start_s, window.seconds, window.log_odds, tuple(places(chosen.numpy(), self.grid)), files, sounds)

    def _sounds(self, waveform: Tensor, chosen: Tensor, samples: int, answer: float, write: Write) -> tuple[Listen, ...]:
        only, rest = sound.split(waveform, chosen, self.grid)
        whole = Track("Recording", write("recording.flac", sound.flac_bytes(waveform[:samples])), answer)
        tracks = [
            Track(title, write(file, sound.flac_bytes(part.waveform[:samples])), self._log_odds(part.waveform), part.silent)
            for title, file, part in (
                ("Only the strongest cells", "only.flac", only),
                ("Everything but the strongest cells", "rest.flac", rest),
            )
        ]
        text = f"the strongest {100 * SHARE:.0f} % of the cells, brought to the level of the recording"
        return Listen("Recording", "as the detector heard it", whole), Listen("Evidence", text, *tracks)

    def _writer(self, name: str) -> Write:
        folder = self.out / "windows" / name
        folder.mkdir(parents=True, exist_ok=True)

        def write(file: str, content: bytes) -> str:
            (folder / file).write_bytes(content)
            return f"windows/{name}/{file}"

        return write


def _embedded(explainer: Explainer, references: Tensor | None) -> tuple[Explainer, Tensor | None]:
    """Bind an explainer to the embedded corpus, whose tables and reference recordings it may need."""
    if references is not None and "references" in explainer.needs:
        return explainer, references
    try:
        task = xaibench.load("task", "minivoc")
        pair = task.pairs("test")[0]
        bound: Explainer = explainer.bind(task.name)
        return bound, task.references(pair) if "references" in explainer.needs else None
    except XaibenchError:
        if explainer.needs & {"references", "training_pairs"}:
            raise
        return explainer, None


def _trust(run: str | Path | None, explainer: Explainer) -> str:
    """Say what the leaderboard found of this explainer."""
    from xaibench.benchmark.world import label_of

    if run is None:
        advice = f"`xaibench run --explainer {explainer.name}` measures how often this method points at known evidence"
        return f"No leaderboard was given; {advice}."
    label = label_of(explainer)
    for board in read_run(run).boards:
        recipe = board.recipes[0] if board.recipes else ""
        for row in board.rows:
            score, name = board.main(row, recipe) if row.explainer == label else None, board.primary.name
            if score is not None and score.mean is not None:
                words = f"On {board.task}, where the evidence is known, it scores {number(score.mean, name)} {metric(name).short}"
                standing = f"It {verdict(row, board, recipe, named=True) or 'is a control'}."
                if row.group == "explainer" and score.beats_best_control is None:
                    standing = f"Whether it beats the controls was not tested: {clean(score.note) or 'nothing to compare with'}."
                perfect = " and 100 is perfect" if metric(name).scale == 100 else ""
                chance = f"chance is {number(board.primary.chance, name)}{perfect}"
                return f"{words} ({interval(score, name) or 'no interval'}); {chance}. {standing}"
    return f"The leaderboard given has no row {label!r}, so nothing is known of how far this method can be trusted."


def _document(found: Sequence[Explained], explainer: Explainer, detector: Detector, trust: str) -> dict[str, Any]:
    """Return the content of ``explanation.json``: plain values, no clock, no path but the names of files."""
    return {
        "schema_version": 1,
        "xaibench": xaibench.__version__,
        "explainer": {"name": explainer.name, "config": explainer.config(), "state": explainer.state_hash()},
        "detector": {"name": detector.name, "fingerprint": detector.fingerprint()},
        "share": SHARE,
        "trust": trust,
        "note": "A heatmap is no proof.",
        "files": [
            {"file": f.file, "error": f.error}
            if f.error
            else {
                **{key: value for key, value in asdict(f).items() if key != "error"},
                "log_odds": f.log_odds,
                "verdict": f.verdict,
            }
            for f in found
        ],
    }
