"""What a plugin's process does to itself before it loads the plugin: give up rights, then close the doors. There is no way back."""

import ctypes
import os
import resource
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xaibench.errors import IsolationError
from xaibench.leaderboard.sandbox.landlock import lock_files
from xaibench.leaderboard.sandbox.seccomp import lock_calls, no_new_privileges

NOBODY = 65534
PR_SET_KEEPCAPS = 8
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522
CAPSET = {"x86_64": 126, "aarch64": 91}


@dataclass(frozen=True)
class Lock:
    """Which doors are closed; travels to the plugin's process as JSON."""

    drop_to: int | None = None
    """User to become where the process was started as root, which no process limit binds."""
    keep_reading: bool = False
    """Keep the right to read files of others where the interpreter lies in a folder that nobody else may enter; Landlock bounds it."""
    readable: tuple[str, ...] | None = None
    """Paths that Landlock leaves readable; ``None`` for no Landlock."""
    calls: bool = False
    """Whether to filter system calls."""
    memory_bytes: int = 4 << 30
    """Address space beyond what the libraries take."""
    file_bytes: int = 16 << 20
    processes: int = 64
    """Processes and threads of the user."""

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Lock":
        """Undo ``facts``."""
        readable = facts.get("readable")
        return cls(**{**facts, "readable": None if readable is None else tuple(readable)})

    def close(self) -> None:
        """Close the doors of this process.

        Raises:
            IsolationError: If one does not close; the plugin must not be loaded then.
        """
        self._limit()
        if self.drop_to is not None and os.getuid() == 0:
            _become(self.drop_to, keep_reading=self.keep_reading)
        if self.calls or self.readable is not None:
            if len(list(Path("/proc/self/task").iterdir())) != 1:
                raise IsolationError("process must have one thread when it is locked, got several; set OMP_NUM_THREADS=1")
            no_new_privileges()
        if self.readable is not None:
            lock_files(self.readable)
        if self.calls:
            lock_calls()

    def _limit(self) -> None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        for limit, value in (
            (resource.RLIMIT_AS, taken + self.memory_bytes),
            (resource.RLIMIT_FSIZE, self.file_bytes),
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_NOFILE, 256),
            (resource.RLIMIT_CORE, 0),
        ):
            hard = resource.getrlimit(limit)[1]
            least = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (least, least))


def _become(user: int, keep_reading: bool) -> None:
    """Become an unprivileged user without groups and capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    if keep_reading:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if keep_reading:
        header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
        wanted = 1 << CAP_DAC_READ_SEARCH
        if libc.syscall(CAPSET[os.uname().machine], header, struct.pack("6I", wanted, wanted, 0, 0, 0, 0)):
            raise IsolationError(f"kernel must let go of capabilities, got {os.strerror(ctypes.get_errno())}; start as an ordinary user")
    if os.getuid() == 0 or os.geteuid() == 0:
        raise IsolationError("process must not be root when a plugin is loaded, got root; start as an ordinary user")
