"""Fetches ``public_pairs`` from the homes of its files: resumable, every byte checked, nothing half-written.

Each file is downloaded to a temporary name, compared with its SHA-1, decoded, resampled (soxr VHQ) without any shift, held to a peak
of 0.9999, written as 16-bit FLAC and compared with the listed SHA-256 of the decoded samples. Resamplers and MP3 decoders may round
differently on another platform; such a file, whose bytes at home are proven by SHA-1, is accepted if its length agrees and the level of
each of 16 blocks lies within 1 % or 2 units of 16 bits (``sketch``), and its own hash is noted in ``manifest.csv`` beside the audio, so
that later damage is still found.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from xaibench.errors import AudioError, DataError, DataMismatchError
from xaibench.tasks.audio import decoded_sha256, read_audio, write_audio
from xaibench.tasks.cache import atomic_write, cache_dir
from xaibench.tasks.corpora.public_pairs import FOLDER, LOCAL_MANIFEST, ListedFile, read_list
from xaibench.tasks.corpora.public_pairs_list import sketch, table

HOME = "https://raw.githubusercontent.com"
PEAK = 0.9999
LEVEL_TOLERANCE = 0.01
LEVEL_TOLERANCE_UNITS = 2
TIMEOUT_S = 30
GIVE_UP_AFTER = 5
"""Connection failures in a row after which the network is taken to be down."""

Progress = Callable[[int, int, str], None]
"""Called after each file with files done, files in all, and the file's path."""


@dataclass
class Fetched:
    """What a fetch did, file by file; the three lists and ``failed`` add up to the files asked for."""

    root: Path
    """The folder ``public_pairs/`` that now holds the audio."""
    present: list[str] = field(default_factory=list)
    """Found in place and verified."""
    added: list[str] = field(default_factory=list)
    """Downloaded or copied; decodes to the listed samples exactly."""
    tolerated: list[str] = field(default_factory=list)
    """Downloaded or copied; rounds differently from the list, within tolerance, noted in the local manifest."""
    failed: dict[str, DataError] = field(default_factory=dict)


def get_public_pairs(
    dest: Path | None = None,
    *,
    source_dir: Path | None = None,
    base_url: str = HOME,
    progress: Progress | None = None,
    files: tuple[ListedFile, ...] | None = None,
    retries: int = 2,
) -> Fetched:
    """Bring the listed files to ``dest/public_pairs``; run again to resume, finished files are verified and skipped.

    Args:
        dest: Folder that gets ``public_pairs/``; default the cache.
        source_dir: Take files that are already present there (``public_pairs/`` or a folder that holds it) instead of the network.
        base_url: Host of the homes, ``{base_url}/{repository}/{commit}/{path}``.
        progress: Called after each file.
        files: What to fetch; default all listed files of named corpora.
        retries: Further attempts per file after a failed or damaged transfer.

    Raises:
        DataMismatchError: If a file is not the listed one (all others are finished first).
        DataError: If files could not be fetched or written.
    """
    root = (Path(dest) if dest is not None else cache_dir()) / FOLDER
    wanted = files if files is not None else tuple(f for f in read_list() if f.corpus_named)
    fetched = Fetched(root)
    local = {f.path: f for f in read_list(root / LOCAL_MANIFEST)} if (root / LOCAL_MANIFEST).is_file() else {}
    before = dict(local)
    try:
        with _temporary_folder(root) as folder:
            bring = _downloader(folder, base_url, retries) if source_dir is None else _copier(Path(source_dir))
            _fetch_all(wanted, local, bring, fetched, progress)
    finally:
        if local != before:
            _note(root / LOCAL_MANIFEST, local)
    if fetched.failed:
        raise _summary(fetched, len(wanted))
    return fetched


class _UnreachableError(DataError):
    """The home did not answer at all."""


Bring = Callable[[ListedFile, Path], ListedFile]
"""Puts a file at a path; returns it with the hash of its decoded samples as written."""


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".download-", dir=root))
    except OSError as error:
        raise DataError(f"{root} must be writable, got {error.strerror}; choose another folder or set XAIBENCH_CACHE") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch_all(
    wanted: tuple[ListedFile, ...], local: dict[str, ListedFile], bring: Bring, fetched: Fetched, progress: Progress | None
) -> None:
    unreachable = 0
    for done, file in enumerate(wanted, start=1):
        path = fetched.root / file.path
        try:
            written = _in_place(path, file, local.get(file.path, file))
            if written is not None:
                fetched.present.append(file.path)
            else:
                written = bring(file, path)
                (fetched.added if written == file else fetched.tolerated).append(file.path)
            local.pop(file.path, None)
            if written != file:
                local[file.path] = written
            unreachable = 0
        except DataError as error:
            fetched.failed[file.path] = error
            unreachable = unreachable + 1 if isinstance(error, _UnreachableError) else 0
        if progress is not None:
            progress(done, len(wanted), file.path)
        if unreachable == GIVE_UP_AFTER:
            return


def _in_place(path: Path, listed: ListedFile, noted: ListedFile) -> ListedFile | None:
    """Return which of the two the file at ``path`` is; None where it is missing, damaged or another."""
    try:
        found = decoded_sha256(read_audio(path))
    except AudioError:
        return None
    return next((f for f in (listed, noted) if f.sha256 == found), None)


def _note(manifest: Path, local: dict[str, ListedFile]) -> None:
    """Keep the hashes of files that rounded differently; no such file, no manifest."""
    if local:
        atomic_write(manifest, table(sorted(local.values(), key=lambda f: f.path)).encode())
    else:
        manifest.unlink(missing_ok=True)
    read_list.cache_clear()


def _copier(source: Path) -> Bring:
    """Return the function that takes files which are present already; they must be exact, or noted in the manifest beside them."""
    folder = source / FOLDER if (source / FOLDER).is_dir() else source
    if not folder.is_dir():
        raise DataError(f"--from must name a folder with public_pairs/ in it, got {source}; check the path")
    manifest = folder / LOCAL_MANIFEST
    noted = {f.path: f.sha256 for f in read_list(manifest)} if manifest.is_file() else {}

    def copy(file: ListedFile, path: Path) -> ListedFile:
        origin = folder / file.path
        if not origin.is_file():
            raise DataError(f"{origin} must exist, got no such file; leave out --from to download it")
        try:
            waveform = read_audio(origin)
        except AudioError as error:
            raise DataMismatchError(str(error)) from error
        written = _accept(file, waveform, str(origin), known=noted.get(file.path, file.sha256))
        atomic_write(path, origin.read_bytes())
        return written

    return copy


def _downloader(folder: Path, base_url: str, retries: int) -> Bring:
    """Return the function that downloads a file into ``folder``, checks its SHA-1, and writes it as FLAC."""

    def download(file: ListedFile, path: Path) -> ListedFile:
        raw = _raw(file, f"{base_url.rstrip('/')}/{file.repository}/{file.commit}/{file.original_path}", folder, retries)
        try:
            waveform = _limited(read_audio(raw))
            written = _accept(file, waveform, file.path)
            write_audio(path, waveform)
        except AudioError as error:
            raise DataError(f"{file.path} must be converted to FLAC, got: {error}") from error
        finally:
            raw.unlink(missing_ok=True)
        return written

    return download


def _raw(file: ListedFile, url: str, folder: Path, retries: int) -> Path:
    """Download the original bytes and prove them by SHA-1; pooch writes to a temporary file and renames."""
    import pooch
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import HTTPError, RequestException

    name = f"{file.raw_sha1}{Path(file.original_path).suffix}"
    pooch.get_logger().setLevel(logging.ERROR)
    store = pooch.create(folder, base_url="", registry={name: f"sha1:{file.raw_sha1}"}, urls={name: url}, retry_if_failed=retries)
    try:
        return Path(store.fetch(name, downloader=_stream))
    except HTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise DataError(
            f"{url} must be served by its home, got HTTP {status}; try later, or take the file from elsewhere with --from"
        ) from error
    except NoConnection as error:
        raise _UnreachableError(
            f"{url} must be reachable, got {_cause(error)}; check the network and run the command again to resume"
        ) from error
    except RequestException as error:
        raise DataError(f"{url} must arrive whole, got {_cause(error)}; run the command again to resume") from error
    except ValueError as error:
        found = "got other bytes; it was cut short or changed at home, run the command again or use --from"
        raise DataMismatchError(f"{url} must have SHA-1 {file.raw_sha1}, {found}") from error
    except OSError as error:
        raise DataError(f"{folder} must be writable, got {error.strerror or error}; free space or set XAIBENCH_CACHE") from error


def _stream(url: str, output_file: str, _: object) -> None:
    """Write what a home sends to a file; unlike pooch's own downloader it closes the connection when the transfer fails."""
    import requests

    with requests.get(url, stream=True, timeout=TIMEOUT_S) as response, Path(output_file).open("wb") as stream:
        response.raise_for_status()
        for chunk in response.iter_content(1 << 16):
            stream.write(chunk)


def _limited(waveform: Tensor) -> Tensor:
    """Scale to a peak of 0.9999 where the resampler overshoots, as the listed files were."""
    peak = float(waveform.abs().max())
    return waveform * (PEAK / peak) if peak > PEAK else waveform


def _accept(file: ListedFile, waveform: Tensor, where: str, known: str = "") -> ListedFile:
    """Return the file with the hash of ``waveform``, or refuse it.

    Args:
        file: What is listed.
        waveform: What was decoded, (T,).
        where: Its name in messages.
        known: Hash it must have where the bytes at home were not proven.
    """
    found, listed = decoded_sha256(waveform), file.sha256
    if found == listed:
        return file
    same_speech = within_tolerance(sketch(waveform), file.sketch)
    if not same_speech or known not in ("", found):
        why = "rounding alone cannot explain it" if not same_speech else "it differs in single samples"
        raise DataMismatchError(
            f"{where} must decode to the listed samples (sha256 {listed[:12]}...), got {found[:12]}..., {why}; fetch it anew"
        )
    return replace(file, sha256=found)


def within_tolerance(found: str, listed: str) -> bool:
    """Tell whether two sketches are of the same samples but for rounding: equal lengths, every block's RMS within 1 % or 2 units."""
    blocks = [[int(s[i : i + 4], 16) for i in range(8, len(s), 4)] for s in (found, listed)]
    near = all(abs(a - b) <= max(LEVEL_TOLERANCE_UNITS, LEVEL_TOLERANCE * b) for a, b in zip(*blocks, strict=True))
    return found[:8] == listed[:8] and near


def _cause(error: BaseException) -> str:
    """Return the innermost message, since network libraries wrap it several times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__


def _summary(fetched: Fetched, wanted: int) -> DataError:
    """Return one error for all failures: the only one as it is, several with their count and the first."""
    errors = list(fetched.failed.values())
    kind = DataMismatchError if any(isinstance(e, DataMismatchError) for e in errors) else DataError
    finished = wanted - len(errors) if len(errors) < wanted else 0
    if len(errors) == 1:
        return kind(str(errors[0]))
    return kind(f"public_pairs must be complete, got {len(errors)} of {wanted} files that failed ({finished} are fine), first: {errors[0]}")
