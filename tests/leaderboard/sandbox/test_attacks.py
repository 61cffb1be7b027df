"""The attack corpus on code: one hostile plugin, one attack for each clip, and for each the refusal that it must meet."""

import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import GRID, T, ToyDetector

from xaibench.benchmark.explain import InvalidHeatmapError, checked
from xaibench.leaderboard.sandbox.box import MAX_SAMPLES, Box, Order, PluginFailedError
from xaibench.leaderboard.sandbox.ladder import JAILS, Jail, installed
from xaibench.leaderboard.sandbox.probe import probe
from xaibench.leaderboard.sandbox.room import room
from xaibench.leaderboard.sandbox.wire import Frame, WireError, send

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

PLUGIN = r'''
import glob, os, resource, socket, struct, subprocess, sys, time
from dataclasses import dataclass
import torch
import xaibench
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude
from xaibench.types import Explainer

REFUSED = []

def fill():
    for number in range(200):
        with open(f"/tmp/fill-{number}", "wb") as file:
            file.write(bytes(1 << 20))

def data():
    root = os.path.dirname(xaibench.__file__)
    kinds = ("flac", "wav", "safetensors", "pth", "npz", "csv")
    found = [p for kind in kinds for p in glob.glob(f"{root}/**/*.{kind}", recursive=True)]
    return found or REFUSED

def environment():
    return [name for name in os.environ if "SECRET" in name or "TOKEN" in name or name.startswith("XAIBENCH")] or REFUSED

def parents():
    seen = b"".join(open(f"/proc/{pid}/environ", "rb").read() for pid in (os.getppid(), 1))
    return seen if b"SECRET" in seen else REFUSED

def raise_limit():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def everyone():
    os.kill(-1, 9)

def threads():
    import threading
    running = [threading.Thread(target=time.sleep, args=(3,), daemon=True) for _ in range(500)]
    for thread in running:
        thread.start()

def pipes(content):
    for handle in range(3, 64):
        try:
            os.write(handle, content)
        except OSError:
            pass
    time.sleep(60)

ATTACKS = {
    "mask": lambda detector, secret: open(secret).read(),
    "folder of masks": lambda detector, secret: os.listdir(os.path.dirname(secret)),
    "passwords": lambda detector, secret: open("/etc/shadow").read(),
    "data of the package": lambda detector, secret: data(),
    "environment": lambda detector, secret: environment(),
    "environment of the parent": lambda detector, secret: parents(),
    "tcp": lambda detector, secret: socket.create_connection(("127.0.0.1", 22), timeout=1),
    "udp": lambda detector, secret: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 53)),
    "unix socket": lambda detector, secret: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"),
    "fork": lambda detector, secret: os.fork(),
    "subprocess": lambda detector, secret: subprocess.run(["/usr/bin/id"]),
    "threads": lambda detector, secret: threads(),
    "memory": lambda detector, secret: bytearray(20 << 30),
    "memory of torch": lambda detector, secret: torch.ones(6 << 30),
    "disk": lambda detector, secret: fill(),
    "large file": lambda detector, secret: open("/tmp/large", "wb").write(bytes(65 << 20)),
    "link": lambda detector, secret: os.symlink(secret, "/tmp/map.npy"),
    "hard link": lambda detector, secret: os.link(__file__, "/tmp/map.npy"),
    "pipe": lambda detector, secret: os.mkfifo("/tmp/map.npy"),
    "own code": lambda detector, secret: open(__file__, "a").write("#"),
    "harness on disk": lambda detector, secret: open(xaibench.__file__, "a").write("#"),
    "root": lambda detector, secret: os.setuid(0),
    "limits": lambda detector, secret: raise_limit(),
    "kill": lambda detector, secret: everyone(),
    "anonymous file": lambda detector, secret: os.memfd_create("x"),
    "weights": lambda detector, secret: list(detector.parameters()) + list(detector.buffers()) or REFUSED,
    "hidden states": lambda detector, secret: detector.hidden_states(torch.zeros(1, 4096)),
    "gradients that are not declared": lambda detector, secret: torch.autograd.grad(
        detector.spoof_logit(torch.zeros(1, 4096, requires_grad=True)).sum(), torch.zeros(1, requires_grad=True)),
    "gradient": lambda detector, secret: detector.spoof_logit(torch.zeros(1, 4096, requires_grad=True)).sum().backward(),
    "huge question": lambda detector, secret: detector(torch.zeros(1, 64600 * 9)),
    "log": lambda detector, secret: [print("x" * (1 << 20), flush=True) for _ in range(40)] and REFUSED,
    "hang": lambda detector, secret: time.sleep(600),
    "spin": lambda detector, secret: exec("while True: pass"),
    "exit": lambda detector, secret: os._exit(0),
    "garbage": lambda detector, secret: pipes(b"\xff" * 64),
    "huge frame": lambda detector, secret: pipes(struct.pack(">II", 100, 0xFFFFFFFF)),
    "wrong frame": lambda detector, secret: pipes(struct.pack(">II", 2, 0) + b"{}"),
    "endless frame": lambda detector, secret: pipes(
        struct.pack(">II", 56, 0) + b'{"kind":"heatmap","facts":{},"shapes":{"value":[1e999]}}'),
    "lying frame": lambda detector, secret: pipes(struct.pack(">II", 56, 0) + b'{"kind":"heatmap","facts":{},"shapes":{"value":[9,9,9]}}'),
}

@EXPLAINERS.register("hostile")
@dataclass(frozen=True)
class Hostile(Explainer):
    """Attacks where the first sample says which."""

    needs = frozenset({"logits"})
    secret: str = ""
    stft: STFTConfig = DEFAULT_STFT

    def explain(self, waveform, detector, *, references=None, generator=None):
        number = round(float(waveform[0, 0]))
        if number < 0:
            import xaibench.benchmark.explain as harness
            harness.checked = lambda heatmap, shape: torch.zeros(shape)[0]
            torch.isfinite = lambda value: torch.ones_like(value, dtype=torch.bool)
            return magnitude(waveform, self.stft) * float("nan")
        result = list(ATTACKS.values())[number](detector, self.secret)
        if result is not REFUSED:
            raise AssertionError("opened: " + repr(result)[:200])
        return magnitude(waveform, self.stft)
'''
NAMES = re.findall(r'^    "([a-z ]+)": lambda', PLUGIN, re.MULTILINE)
ENDINGS = {
    "hang": TimeoutError,
    "spin": TimeoutError,
    "exit": WireError,
    "garbage": WireError,
    "huge frame": WireError,
    "wrong frame": WireError,
    "endless frame": WireError,
    "lying frame": WireError,
}
"""Attacks after which the process is gone; all others end in an exception of the plugin, or in an empty hand."""
DENIED = "|".join(
    (
        *("PermissionError", "FileNotFoundError", "BlockingIOError", "ProcessLookupError", "OSError"),
        *("MemoryError", "RuntimeError", "ValueError", "NotImplementedError", "RefusedError"),
    )
)
EMPTY_HANDED = {"data of the package", "environment", "environment of the parent", "weights", "log"}


def usable(jail: Jail) -> Jail:
    if missing := installed(jail):
        pytest.skip(f"{jail}: {missing}")
    if problem := probe(jail).problem:
        pytest.skip(f"{jail}: {problem}")
    return jail


class Cell:
    """A box that is opened again after an attack that ended it."""

    def __init__(self, jail: Jail, place, secret: Path):
        self.jail, self.place, self.secret = jail, place, secret
        self.box = None

    def explain(self, number: int):
        if self.box is None or not self.box.alive:
            self.close()
            order = Order("hostile:Hostile", {"secret": str(self.secret)}, (256, 128), gradients=False, timeout_s=3.0)
            self.box = Box(self.jail, self.place, order, ToyDetector().eval()).__enter__()
        clip = torch.zeros(1, T)
        clip[0, 0] = float(number)
        return self.box.explain(clip, 0)

    def close(self):
        if self.box is not None:
            self.box.close()
            self.box = None


@pytest.fixture(scope="module", params=[jail for jail in JAILS if jail.level >= 2], ids=str)
def cell(request, tmp_path_factory):
    jail = usable(request.param)
    secret = tmp_path_factory.mktemp("masks") / "mask.npy"
    secret.write_text("the truth")
    for folder in (secret, secret.parent):
        folder.chmod(0o755)
    os.environ["XAIBENCH_SECRET"] = "hunter2"
    with room({"hostile.py": PLUGIN.encode()}) as place:
        held = Cell(jail, place, secret)
        yield held
        held.close()
    del os.environ["XAIBENCH_SECRET"]


def ended(cell, attack) -> str:
    """Return what the plugin raised, empty where it found nothing to take."""
    try:
        cell.explain(NAMES.index(attack))
    except PluginFailedError as error:
        return str(error)
    return ""


def test_the_list_of_attacks_is_that_of_the_plugin():
    assert len(NAMES) == len(set(NAMES)) > 30
    assert set(ENDINGS) | EMPTY_HANDED < set(NAMES)


@pytest.mark.parametrize("attack", NAMES)
def test_an_attack_is_refused_and_the_harness_goes_on(cell, attack):
    start = time.monotonic()
    if attack in ENDINGS:
        with pytest.raises(ENDINGS[attack]):
            cell.explain(NAMES.index(attack))
        assert not cell.box.alive
        assert time.monotonic() - start < 60
    elif attack in EMPTY_HANDED:
        assert not re.match("AssertionError", ended(cell, attack))
        assert len(cell.box.messages()) <= 300
    else:
        with pytest.raises(PluginFailedError) as caught:
            cell.explain(NAMES.index(attack))
        assert re.match(DENIED, str(caught.value)), caught.value
        assert str(caught.value).isprintable()


DEAF = """
import os, struct, json, time
from dataclasses import dataclass
from xaibench.types import Explainer

@dataclass(frozen=True)
class Deaf(Explainer):
    needs = frozenset({"gradients"})

    def explain(self, waveform, detector, *, references=None, generator=None):
        head = json.dumps({"kind": "gradient", "facts": {}, "shapes": {"waveform": [64, 4096], "weights": [64]}}).encode()
        content = struct.pack(">II", len(head), 4 * 64 * 4097) + head + bytes(4 * 64 * 4097)
        while content:
            content = content[os.write(detector.channel.target, content):]
        time.sleep(60)
"""


def test_a_plugin_that_asks_and_never_reads_the_answer_meets_the_deadline(cell):
    """The answer is larger than a pipe holds."""
    order = Order("deaf:Deaf", {}, (256, 128), gradients=True, timeout_s=2.0)
    with room({"deaf.py": DEAF.encode()}) as place, Box(cell.jail, place, order, ToyDetector().eval()) as box:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            box.explain(torch.zeros(1, T), 0)
        assert box.bill.backwards == 64
        assert time.monotonic() - start < 40


def test_a_frame_that_nobody_reads_is_given_up_at_the_deadline():
    source, target = os.pipe()
    os.set_blocking(target, False)
    with pytest.raises(TimeoutError):
        send(target, Frame("explain", {}, {"waveform": np.zeros((1, 1 << 20), np.float32)}), time.monotonic() + 0.1)
    os.close(source)
    with pytest.raises(WireError, match="closed pipe"):
        send(target, Frame("explain"), time.monotonic() + 0.1)
    os.close(target)


@pytest.mark.parametrize("kind", ["logits", "gradient"])
def test_a_large_question_is_answered_a_few_clips_at_a_time(kind):
    """The memory of activations is the harness's: no question decides how much of it there is at once."""
    seen = []

    class Counting(ToyDetector):
        def forward(self, waveform):
            seen.append(waveform.numel())
            return super().forward(waveform)

    order = Order("none:None", {}, (256, 128), gradients=True)
    box = Box(JAILS[-1], None, order, Counting().eval())
    waveform = torch.rand(64, 2 * MAX_SAMPLES // 64, generator=torch.Generator().manual_seed(0)) - 0.5
    arrays = {"waveform": waveform.numpy(), "weights": np.ones(64, np.float32)}
    answer = box._answer(Frame(kind, {}, arrays))
    assert answer.kind == "answer"
    assert max(seen) <= MAX_SAMPLES
    assert len(seen) == 2
    leaf = waveform.clone().requires_grad_(True)
    logits = ToyDetector().eval().spoof_logit(leaf)
    expected = logits if kind == "logits" else torch.autograd.grad(logits.sum(), leaf)[0]
    assert torch.allclose(torch.from_numpy(answer.arrays["value"]), expected, atol=1e-5)
    assert box._answer(Frame("gradient", {}, {**arrays, "weights": np.ones(3, np.float32)})).kind == "refused"


SIGNALLING = """
import ctypes, os, signal, sys
from xaibench.leaderboard.sandbox.seccomp import OF_OTHERS, lock_calls, no_new_privileges
tgkill, prlimit = OF_OTHERS[os.uname().machine]
no_new_privileges()
lock_calls()
libc = ctypes.CDLL(None, use_errno=True)
parent, own = os.getppid(), os.getpid()
print(libc.syscall(tgkill, parent, parent, 0), ctypes.get_errno(), libc.syscall(tgkill, own, own, 0), end=" ")
print(libc.syscall(prlimit, parent, 7, None, None), libc.syscall(prlimit, own, 7, None, None), libc.syscall(prlimit, 0, 7, None, None))
"""


def test_processes_of_the_same_user_can_be_neither_signalled_nor_limited():
    """Here the parent is of the same user, so that nothing but the filter stands between."""
    usable(next(jail for jail in JAILS if jail.level == 2))
    told = subprocess.run([sys.executable, "-c", SIGNALLING], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["-1", "1", "0", "-1", "0", "0"]


def test_a_patched_harness_is_the_plugins_own_copy(cell):
    heatmap = cell.explain(-1)
    with pytest.raises(InvalidHeatmapError, match="heatmap must be finite"):
        checked(heatmap, (1, GRID.bins, GRID.frames(T)))


def test_nothing_of_the_plugin_is_left_behind(cell):
    cell.explain(NAMES.index("environment"))
    process = cell.box.process
    cell.close()
    assert process.poll() is not None
    left = [p for p in Path("/proc").iterdir() if p.name.isdigit() and str(cell.place.folder).encode() in _command(p)]
    assert not left


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


CLOCK = """
import time
from dataclasses import dataclass
from xaibench.types import Explainer

@dataclass(frozen=True)
class Clock(Explainer):
    def explain(self, waveform, detector, *, references=None, generator=None):
        raise RuntimeError(time.process_time())
"""


def test_a_process_in_the_sandbox_is_ready_within_two_seconds_of_its_own_processor_time(cell):
    """At every level, by the clock inside: the children of bubblewrap are not ours to count."""
    with (
        room({"clock.py": CLOCK.encode()}) as place,
        Box(cell.jail, place, Order("clock:Clock", {}, (256, 128), False), ToyDetector().eval()) as box,
        pytest.raises(PluginFailedError, match="RuntimeError: ") as caught,
    ):
        box.explain(torch.zeros(1, T), 0)
    assert 0.1 < float(str(caught.value).partition(": ")[2]) < 2.0


def test_the_sandbox_starts_within_two_seconds_of_processor_time():
    """Wall time on an idle machine; processor time on any."""
    jail = usable(next(jail for jail in JAILS if jail.level == 2))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (
        room({"hostile.py": PLUGIN.encode()}) as place,
        Box(jail, place, Order("hostile:Hostile", {}, (256, 128), False), ToyDetector().eval()),
    ):
        pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0
