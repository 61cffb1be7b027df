"""Landlock by ctypes: from here on this process may read the named paths and touch no other file (landlock(7), Linux 5.13).

Rights that a kernel does not know yet are left out, and ``abi`` says how old it is; sockets are refused by seccomp, not here.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from xaibench.errors import IsolationError

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Rights on files that each ABI knows, the lowest bits."""
NETWORK, SCOPES = 0b11, 0b11
"""Bind and connect of TCP (ABI 4); abstract sockets and signals beyond the process's own domain (ABI 6)."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Return the version of Landlock that the kernel offers, 0 where there is none."""
    version = ctypes.CDLL(None, use_errno=True).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)
    return max(int(version), 0)


def lock_files(readable: Iterable[str | Path]) -> None:
    """Allow reading these files and folders (and the harmless devices), and nothing else, for good.

    Raises:
        IsolationError: If the kernel has no Landlock or refuses.
    """
    version = abi()
    if not version:
        raise IsolationError("kernel must offer Landlock, got none; use Linux 5.13 or newer, or a container")
    handled = (1 << RIGHTS[max(known for known in RIGHTS if known <= version)]) - 1
    ruleset = _Ruleset(handled, NETWORK if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    handle = _call(CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0)
    try:
        for path in readable:
            _allow(handle, Path(path), READ_FILE | READ_DIR | EXECUTE)
        for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
            _allow(handle, Path(device), READ_FILE | (WRITE_FILE if device == "/dev/null" else 0))
        _call(RESTRICT_SELF, handle, 0)
    finally:
        os.close(handle)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    if not path.exists():
        return
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        beneath = _Beneath(rights if path.is_dir() else rights & ~READ_DIR, handle)
        _call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(beneath), 0)
    finally:
        os.close(handle)


def _call(number: int, *arguments: object) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        raise IsolationError(f"kernel must accept Landlock rules, got {os.strerror(ctypes.get_errno())}; use a container")
    return int(result)
