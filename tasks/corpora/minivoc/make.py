"""Make minivoc: speak, record, copy, write, list. Everything follows from ``voices.csv``, ``texts.txt`` and the names of things.

The frozen part (dev, test, references) lies in the package and is made once; the train split is made on demand into the cache.
"""

import argparse
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaibench.errors import AudioError, DataMismatchError
from xaibench.registry import VOCODERS
from xaibench.tasks.audio import decoded_sha256, read_audio, to_int16, write_audio
from xaibench.tasks.corpora.minivoc.lists import BONAFIDE, PACKAGE, Recorded, default_train_dir, pairs_of, published, write_list
from xaibench.tasks.corpora.minivoc.synthesis import engine_version, recording
from xaibench.tasks.corpora.minivoc.voices import SEEN_VOCODERS, UNSEEN_VOCODERS, Utterance, plan, reference_utterances
from xaibench.tasks.manifest import write_manifest
from xaibench.types import Split

DEV_VOCODERS = (*SEEN_VOCODERS, UNSEEN_VOCODERS[0])
TEST_VOCODERS = (*SEEN_VOCODERS, *UNSEEN_VOCODERS)
TOOLS = "eSpeak NG 1.51, flite 2.2 and pyworld 0.3.5"
CEILING = 0.999
Progress = Callable[[int, int], None]


def make_train(
    out_dir: Path | None = None, *, jobs: int = 2, limit: int | None = None, progress: Progress | None = None, strict: bool = False
) -> list[Recorded]:
    """Make the train split; what lies there already and has the listed samples is kept.

    Args:
        out_dir: Folder for the audio and its list ``made.csv``; by default the cache.
        jobs: Processes.
        limit: Make only the first utterances; voices take turns, so any beginning is balanced.
        progress: Called with (utterances done, utterances in all).
        strict: Raise instead of warn where samples differ from the published ones.

    Returns:
        What was made, in the order of the plan.

    Raises:
        MissingExtraError: If espeak-ng, flite or pyworld is not installed.
        DataMismatchError: If ``strict`` and samples differ, as other versions of espeak-ng or of the processor's arithmetic may cause.
    """
    folder = out_dir or default_train_dir()
    made = _make(plan("train")[:limit], SEEN_VOCODERS, folder, jobs, progress, published())
    write_list(folder / "made.csv", made)
    _compare(made, strict)
    return made


def make_frozen(out_dir: Path = PACKAGE / "audio", *, jobs: int = 2, progress: Progress | None = None) -> list[Recorded]:
    """Make dev, test and references; for the record and for a new version of the corpus, never for use.

    Raises:
        MissingExtraError: If espeak-ng, flite or pyworld is not installed.
    """
    parts = (("test", plan("test"), TEST_VOCODERS), ("dev", plan("dev"), DEV_VOCODERS), ("references", reference_utterances(), ()))
    rows = []
    for name, utterances, vocoders in parts:
        made = _make(utterances, vocoders, out_dir / name, jobs, progress, {})
        rows += [replace(r, path=f"audio/{name}/{r.path}") for r in made]
    return rows


def write_frozen_lists(rows: list[Recorded], folder: Path = PACKAGE) -> None:
    """Write ``manifest.csv`` and ``references.csv`` of what ``make_frozen`` made."""
    splits: tuple[Split, ...] = ("test", "dev")
    pairs = [p for s in splits for p in pairs_of([r for r in rows if r.path.startswith(f"audio/{s}/")], s)]
    write_manifest(folder / "manifest.csv", pairs)
    write_list(folder / "references.csv", [r for r in rows if r.path.startswith("audio/references/")])


def _make(
    utterances: tuple[Utterance, ...],
    vocoders: tuple[str, ...],
    folder: Path,
    jobs: int,
    progress: Progress | None,
    known: dict[tuple[str, str], str],
) -> list[Recorded]:
    """Make all files of some utterances, in processes if ``jobs`` is above 1."""
    work = partial(_make_on_one_thread, vocoders=vocoders, folder=folder, known=known)
    rows: list[Recorded] = []
    for done, made in enumerate(_mapped(work, utterances, jobs), start=1):
        rows += made
        if progress:
            progress(done, len(utterances))
    return rows


def _mapped(work: Callable[[Utterance], list[Recorded]], utterances: tuple[Utterance, ...], jobs: int) -> Iterator[list[Recorded]]:
    if jobs <= 1 or len(utterances) <= 1:
        yield from map(work, utterances)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(work, utterances)


def _make_on_one_thread(utterance: Utterance, **options: Any) -> list[Recorded]:
    """Call ``make_utterance`` with one thread: sums over several are rounded otherwise, and a phase integrator amplifies that."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        return make_utterance(utterance, **options)


def make_utterance(utterance: Utterance, *, vocoders: tuple[str, ...], folder: Path, known: dict[tuple[str, str], str]) -> list[Recorded]:
    """Make one recording and its copies as ``<vocoder>/<utterance>.flac``; whole files that are there are kept."""
    rows = []
    original: Tensor | None = None
    for vocoder in (BONAFIDE, *vocoders):
        path = f"{vocoder}/{utterance.id}.flac"
        sha256 = _finished(folder / path, known.get((utterance.id, vocoder)))
        if not sha256:
            if original is None:
                original = _quantized(torch.from_numpy(recording(utterance)).float())
            waveform = original if vocoder == BONAFIDE else _quantized(_under_ceiling(VOCODERS.get(vocoder)().copy(original)))
            write_audio(folder / path, waveform)
            sha256 = decoded_sha256(waveform)
        rows.append(Recorded(utterance.id, utterance.voice.id, vocoder, path, sha256))
    return rows


def _finished(path: Path, expected: str | None) -> str:
    """Return the hash of a file that need not be made again, else an empty string."""
    if not path.is_file():
        return ""
    try:
        found = decoded_sha256(read_audio(path))
    except AudioError:
        return ""
    return found if expected in (None, found) else ""


def _quantized(waveform: Tensor) -> Tensor:
    """Round to the 16-bit samples that a file holds, so that copies are made of what others will read."""
    return to_int16(waveform).float() / 32768


def _under_ceiling(waveform: Tensor) -> Tensor:
    """Lower a copy whose peaks would clip; loading matches levels again."""
    return waveform * min(1.0, CEILING / float(waveform.abs().max()))


def _compare(made: list[Recorded], strict: bool) -> None:
    """Tell the user when the train split is not the published one."""
    listed = published()
    other = [r for r in made if listed.get((r.utterance, r.vocoder), r.sha256) != r.sha256]
    if not other:
        return
    here = engine_version("espeak-ng") or "no espeak-ng"
    sentence = (
        f"train split of minivoc must have the published samples, got {len(other)} other files of {len(made)}, first {other[0].path};"
        f" it was published with {TOOLS}, here is {here}: weights trained on it will differ a little from the shipped ones"
    )
    if strict:
        raise DataMismatchError(sentence)
    warnings.warn(sentence, stacklevel=3)


def main(arguments: list[str] | None = None) -> None:
    """Make ``train`` or ``frozen`` from the command line, with a bar on a terminal."""
    from rich.progress import Progress as Bar

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("train", "frozen"))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    with Bar() as bar:
        job = bar.add_task(options.part, total=None)
        note = partial(_note, bar, job)
        if options.part == "train":
            make_train(options.out, jobs=options.jobs, progress=note)
        else:
            folder = options.out or PACKAGE
            write_frozen_lists(make_frozen(folder / "audio", jobs=options.jobs, progress=note), folder)


def _note(bar: Any, job: Any, done: int, total: int) -> None:
    bar.update(job, completed=done, total=total)


if __name__ == "__main__":
    main()
