"""The isolation ladder: what can shut a plugin in on this machine, found by trying, from the strongest down.

L1 limits alone; L2 Landlock and a filter on system calls; L3 bubblewrap, with its own view of files, processes and network; L4 a container
of podman or docker. (L0 is code in our own process: one's own plugins, in ``xaibench run``.) Untrusted code is refused below L3.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xaibench.errors import IsolationError
from xaibench.leaderboard.sandbox.lock import NOBODY, Lock
from xaibench.leaderboard.sandbox.room import Room

LEAST_FOR_STRANGERS = 3
SCRATCH_BYTES = 64 << 20
"""Size of the plugin's ``/tmp``, which is in memory, empty at the start and never read by anybody."""
IMAGE = "xaibench-nothing:1"


@dataclass(frozen=True)
class Jail:
    """One way to shut a process in."""

    level: int
    name: str
    program: str
    """What must be installed, empty for nothing."""
    wrap: Callable[[Room, list[str], str], list[str]]
    """Puts the command of a room into the jail, which bears a name."""
    lock: Callable[[Room], Lock]
    """Doors that the process closes itself."""

    def end(self, name: str) -> list[str]:
        """Return the command that ends a jail from outside; empty where its processes are our own children."""
        at_once = ["--time", "0"] if self.program == "podman" else []  # docker does not wait
        return [self.program, "rm", "--force", *at_once, name] if self.level == 4 else []

    def __str__(self) -> str:
        """Write level and name, as they are recorded and shown."""
        return f"L{self.level} {self.name}"


def _bare(room: Room, argv: list[str], name: str) -> list[str]:
    del room, name
    return argv


def _bubblewrap(room: Room, argv: list[str], name: str) -> list[str]:
    del name
    root = os.getuid() == 0
    spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"] if root else ["--unshare-all"]
    # root makes the mounts and becomes nobody inside, before the plugin is loaded: in a user namespace it would stay root to the kernel
    user = (
        ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        if root
        else ["--uid", str(NOBODY), "--gid", str(NOBODY)]
    )
    paths = [*room.interpreter, *room.libraries, str(room.folder)]
    mounts = _ways(paths)  # open to the user that the process becomes, as root's home is not
    mounts += [word for path in paths for word in ("--ro-bind", path, path)]
    mounts += [word for path in room.masked for word in ("--tmpfs", path, "--remount-ro", path)]
    sized = ["--size", str(SCRATCH_BYTES)] if _has_size() else []
    scratch = ["--perms", "1777", *sized, "--tmpfs", "/tmp"] if sized else []
    inside = [*("--dev", "/dev"), *("--remount-ro", "/dev"), *scratch, *("--proc", "/proc"), *mounts, *("--remount-ro", "/")]
    life = ["--die-with-parent", "--new-session", "--clearenv", *_environment("--setenv"), *("--chdir", "/")]
    return ["bwrap", *spaces, *user, *life, *inside, "--", *argv]


def _ways(paths: list[str]) -> list[str]:
    """Make the folders that lead to the paths, each open to all."""
    found = dict.fromkeys(str(parent) for path in paths for parent in reversed(Path(path).parents))
    return [word for parent in found if parent not in ("/", "/tmp", *paths) for word in ("--perms", "0755", "--dir", parent)]


@cache
def _has_size() -> bool:
    return "--size" in subprocess.run(["bwrap", "--help"], capture_output=True, text=True, check=False).stdout


def _environment(flag: str) -> list[str]:
    return [word for name, value in ENVIRONMENT.items() for word in (flag, name, value)]


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin",
}
"""All that a plugin's process finds in its environment."""


def _container(program: str) -> Callable[[Room, list[str], str], list[str]]:
    def wrap(room: Room, argv: list[str], name: str) -> list[str]:
        _make_image(program)
        mounts = [f"--volume={path}:{path}:ro" for path in (*room.interpreter, *room.libraries, str(room.folder))]
        mounts += [f"--tmpfs={path}:ro" for path in room.masked]
        walls = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=64", "--memory=6g"]
        walls += ["--ulimit=nofile=256:256", "--ulimit=nproc=64:64", "--log-driver=none"]
        scratch = f"--tmpfs=/tmp:size={SCRATCH_BYTES},mode=1777"
        variables = [f"--env={name}={value}" for name, value in ENVIRONMENT.items()]
        return [
            program,
            "run",
            "--rm",
            "--interactive",
            f"--name={name}",
            *walls,
            f"--user={NOBODY}:{NOBODY}",
            scratch,
            *mounts,
            *variables,
            IMAGE,
            *argv,
        ]

    return wrap


@cache
def _make_image(program: str) -> None:
    """Make an image that holds nothing: all that a plugin's process sees is mounted from here, read only."""
    known = subprocess.run([program, "image", "inspect", IMAGE], capture_output=True, check=False, timeout=60)
    if known.returncode:
        empty = bytes(10240)  # an empty tar file
        made = subprocess.run([program, "import", "-", IMAGE], input=empty, capture_output=True, check=False, timeout=60)
        if made.returncode:
            said = made.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise IsolationError(f"{program} must work, got {said[-1][:200]}; start its service or choose another level")


def _walls(room: Room) -> Lock:
    """Close what is left open inside a jail that has its own view of files."""
    del room
    return Lock(drop_to=NOBODY, calls=True)


def _no_walls(room: Room) -> Lock:
    """Close files and calls where nothing else does."""
    return Lock(drop_to=NOBODY, keep_reading=os.getuid() == 0 and room.hidden(), readable=tuple(room.readable()), calls=True)


def _limits(room: Room) -> Lock:
    return Lock(drop_to=NOBODY, keep_reading=os.getuid() == 0 and room.hidden())


JAILS = (
    Jail(4, "podman", "podman", _container("podman"), _walls),
    Jail(4, "docker", "docker", _container("docker"), _walls),
    Jail(3, "bubblewrap", "bwrap", _bubblewrap, _walls),
    Jail(2, "Landlock and seccomp", "", _bare, _no_walls),
    Jail(1, "limits", "", _bare, _limits),
)
"""From the strongest down."""


def installed(jail: Jail) -> str:
    """Return why a jail cannot even be tried, empty where it can."""
    if jail.program and not shutil.which(jail.program):
        return f"{jail.program} is not installed"
    return ""
