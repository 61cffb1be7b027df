"""The zip around a package, read as if its author wished us ill.

Nothing is ever extracted. Sizes, counts and names are checked in the central directory before anything is unpacked, and unpacking stops at
the size that the directory claimed, whatever the data say. Members are opened by an allow-list of names, so a name is never a path.
"""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from xaibench.errors import SubmissionError

MAX_PACKAGE_BYTES = 1 << 30
MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 4 << 20
MAX_UNPACKED_BYTES = 3 << 30
MAX_CARD_BYTES = 1 << 14
"""The reader of TOML takes time that grows with the square of a dotted key's length: a second at 16 kB."""
PIECE_BYTES = 1 << 16
CARD, INDEX = "submission.toml", "index.jsonl"
HEATMAP = re.compile(r"heatmaps/[0-9a-f]{64}\.npy")
CODE = re.compile(r"code/[A-Za-z_][A-Za-z0-9_]{0,63}\.py")
WEIGHTS = re.compile(r"code/[A-Za-z0-9_][A-Za-z0-9_-]{0,63}\.(safetensors|json|csv)")
LIMITS = (
    (re.compile(re.escape(CARD)), MAX_CARD_BYTES),
    (re.compile(re.escape(INDEX)), 4 << 20),
    (HEATMAP, 1 << 24),
    (CODE, 1 << 20),
    (WEIGHTS, 1 << 29),
)
"""Names that a package may hold, each with its largest size in bytes."""
_END = struct.Struct("<4s4H2LH")
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    IndexError,
)
"""What ``zipfile`` raises on bytes that are no zip, by experiment (fuzzing)."""


class Archive:
    """A package opened for reading; every claim of its directory is checked first.

    Raises:
        SubmissionError: If it is no plain zip within the limits, or holds a member that a package may not have.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self._stream: IO[bytes] = self.path.open("rb")
        except OSError as error:
            raise SubmissionError(
                f"package must be a file that can be read, got {self.path}: {error.strerror}; correct the path"
            ) from error
        try:
            self._check_ends()
            self._zip = zipfile.ZipFile(self._stream)
            self.members = self._checked_members()
        except SubmissionError:
            self.close()
            raise
        except _BROKEN as error:
            self.close()
            raise SubmissionError(f"package must be a zip file, got {_said(error)} in {self.path.name}; pack it again") from error

    def _check_ends(self) -> None:
        """Read the end record ourselves: ``zipfile`` would load a directory of any size that it claims."""
        size = self._stream.seek(0, 2)
        if not stat.S_ISREG(Path(self._stream.name).stat().st_mode) or not _END.size <= size <= MAX_PACKAGE_BYTES:
            raise SubmissionError(f"package must be a file of at most {MAX_PACKAGE_BYTES >> 20} MiB, got {size} bytes; store float16 maps")
        self._stream.seek(size - _END.size)
        signature, disk, start_disk, here, count, length, offset, comment = _END.unpack(self._stream.read(_END.size))
        if signature != b"PK\x05\x06" or comment or disk or start_disk or here != count:
            raise SubmissionError("package must be one plain zip file without a comment, got another ending; pack it again")
        if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
            raise SubmissionError(f"package must hold at most {MAX_MEMBERS} files, got {count} ({length} bytes of names); remove some")
        if offset + length + _END.size != size:  # data before, between or after what zipfile reads; also every zip64 file
            raise SubmissionError("package must be one plain zip file, got bytes outside its directory; pack it again without zip64")

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            _check_member(info)
            if info.filename in found:
                raise SubmissionError(f"names in a package must be distinct, got {info.filename!r} twice; remove one")
            found[info.filename] = info
        total = sum(info.file_size for info in found.values())
        if total > MAX_UNPACKED_BYTES:
            raise SubmissionError(f"package must unpack to at most {MAX_UNPACKED_BYTES >> 20} MiB, got {total >> 20}; store float16 maps")
        _check_overlap(list(found.values()))
        if CARD not in found:
            raise SubmissionError(f"package must hold {CARD}, got {len(found)} other files; pack it with `xaibench submit pack`")
        return found

    def size(self, name: str) -> int:
        """Return the claimed size of a member in bytes."""
        return self.members[name].file_size

    def read(self, name: str) -> bytes:
        """Unpack one member, at most as far as it claimed.

        Raises:
            SubmissionError: If it is missing, damaged, or longer or shorter than it claims.
        """
        if name not in self.members:
            raise SubmissionError(f"package must hold {name}, got none; pack it again")
        return b"".join(self._pieces(self.members[name]))

    def _pieces(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        got = 0
        try:
            with self._zip.open(info) as member:
                while piece := member.read(PIECE_BYTES):
                    got += len(piece)
                    if got > info.file_size:
                        break
                    yield piece
        except _BROKEN as error:
            raise SubmissionError(f"{info.filename} must be intact, got {_said(error)}; pack it again") from error
        if got != info.file_size:
            raise SubmissionError(f"{info.filename} must unpack to the {info.file_size} bytes that it claims, got {got}; pack it again")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _check_member(info: zipfile.ZipInfo) -> None:
    limit = next((size for pattern, size in LIMITS if pattern.fullmatch(info.filename)), None)
    if limit is None or info.orig_filename != info.filename:
        raise SubmissionError(f"package must hold {CARD}, {INDEX}, heatmaps/ and code/ alone, got {info.orig_filename[:80]!r}; remove it")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.is_dir():
        raise SubmissionError(
            f"members of a package must be plain files, got a link or device at {info.filename}; replace it by its content"
        )
    if info.flag_bits & 0x41 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SubmissionError(f"members of a package must be stored or deflated without a password, got {info.filename}; pack it again")
    if info.file_size > limit:
        raise SubmissionError(f"{info.filename} must have at most {limit} bytes, got {info.file_size}; shorten it")


def _check_overlap(members: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes, with which a small file unpacks to any size (Fifield 2019)."""
    ordered = sorted(members, key=lambda info: info.header_offset)
    for one, other in pairwise(ordered):
        if one.header_offset + 30 + len(one.filename) + one.compress_size > other.header_offset:
            raise SubmissionError(f"members of a package must not overlap, got {one.filename} inside {other.filename}; pack it again")


def _said(error: BaseException) -> str:
    from xaibench.benchmark.units import clean, first_line

    return clean(f"{type(error).__name__}: {first_line(error)}")[:200]
