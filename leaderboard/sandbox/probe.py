"""Try a jail before it is trusted: a prober inside tries every door, and the jail counts only if it finds them shut."""

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from xaibench.errors import IsolationError, XaibenchError
from xaibench.leaderboard.sandbox.box import Box, Order, PluginFailedError
from xaibench.leaderboard.sandbox.ladder import JAILS, LEAST_FOR_STRANGERS, Jail, installed
from xaibench.leaderboard.sandbox.room import room
from xaibench.types import Detector

PROBER = """
import os, socket
from dataclasses import dataclass
from xaibench.types import Explainer

def _opens(act):
    try:
        act()
    except OSError:
        return False
    return True

@dataclass(frozen=True)
class Prober(Explainer):
    name = "prober"
    secret: str = ""

    def explain(self, waveform, detector, *, references=None, generator=None):
        doors = {
            "files": lambda: open(self.secret).read(),
            "names": lambda: os.listdir(os.path.dirname(self.secret)),
            "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
            "processes": lambda: os.fork() or os._exit(0),
            "links": lambda: os.symlink(self.secret, "/tmp/link"),
        }
        found = [name for name, act in doors.items() if _opens(act)]
        found += ["environment"] if "XAIBENCH_PROBE_SECRET" in os.environ else []
        found += ["root"] if 0 in (os.getuid(), os.geteuid()) else []
        raise RuntimeError("open: " + ",".join(found))
"""


@dataclass(frozen=True)
class Finding:
    """What became of one rung of the ladder."""

    jail: Jail
    problem: str = ""
    """Why it cannot be used, empty where it holds."""


class _Deaf(Detector):
    name = "nobody"
    input_samples = 16

    def forward(self, waveform: Tensor) -> Tensor:
        return torch.zeros(len(waveform))


@cache
def probe(jail: Jail) -> Finding:
    """Try a jail; remembered for the life of this process."""
    if missing := installed(jail):
        return Finding(jail, missing)
    with tempfile.TemporaryDirectory(prefix="xaibench-probe-") as folder:
        secret = Path(folder) / "secret"
        secret.write_text("seen")
        secret.chmod(0o644)
        Path(folder).chmod(0o755)
        os.environ["XAIBENCH_PROBE_SECRET"] = "seen"
        order = Order("prober:Prober", {"secret": str(secret)}, (256, 128), gradients=False, timeout_s=30)
        try:
            with room({"prober.py": PROBER.encode()}) as place, Box(jail, place, order, _Deaf().eval()) as box:
                box.explain(torch.zeros(1, 16), 0)
        except PluginFailedError as error:
            opened = str(error).partition("open: ")[2]
            return Finding(jail, f"it leaves open: {opened}" if opened and jail.level > 1 else "")
        except (XaibenchError, TimeoutError, OSError) as error:
            return Finding(jail, str(error))
        finally:
            del os.environ["XAIBENCH_PROBE_SECRET"]
    return Finding(jail, "its prober did not report")


def choose(level: int | None = None, *, trusted: bool = False) -> Jail:
    """Return the strongest jail that holds on this machine.

    Args:
        level: Wanted level; ``None`` for the strongest.
        trusted: Whether somebody vouches for the code, so that a jail below L3 will do.

    Raises:
        IsolationError: If there is none of the wanted level, or none strong enough for code of strangers.
    """
    tried = []
    for jail in JAILS:
        if level is not None and jail.level != level:
            continue
        if jail.level < LEAST_FOR_STRANGERS and not trusted:
            continue
        found = probe(jail)
        if not found.problem:
            return jail
        tried.append(f"{jail}: {found.problem}")
    wanted = f"L{level}" if level is not None else f"L{LEAST_FOR_STRANGERS} or stronger" if not trusted else "any level"
    told = "; ".join(tried) or f"code of strangers is run at L{LEAST_FOR_STRANGERS} or stronger alone"
    raise IsolationError(
        f"isolation of {wanted} must be possible here, got none ({told}); install bubblewrap, or vouch for it with --i-trust-this-code"
    )
