"""The parent's side: a plugin in a jail, asked for one map at a time, and answered what it may ask of the detector.

Queries are counted here, where the plugin cannot touch the count. What comes back is bounded in size and time, and is a heatmap only once
``benchmark.explain.checked`` says so.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

import torch
from torch import Tensor

from xaibench.benchmark.units import clean
from xaibench.errors import IsolationError, PluginError
from xaibench.leaderboard.sandbox.ladder import ENVIRONMENT, Jail
from xaibench.leaderboard.sandbox.room import Room
from xaibench.leaderboard.sandbox.wire import Frame, WireError, receive, send
from xaibench.types import CLIP_SAMPLES, Detector

MAX_BATCH = 64
MAX_SAMPLES = 8 * CLIP_SAMPLES
MAX_QUERIES = 200_000
"""Clips through the detector for one explanation."""
MAX_LOG_BYTES = 64 << 10


@dataclass(frozen=True)
class Order:
    """What is run: an entry ``module:Class`` of the files in the room, and what it is told."""

    entry: str
    options: dict[str, Any]
    stft: tuple[int, int]
    gradients: bool
    """Whether the card declares gradients; others are refused."""
    timeout_s: float = 600.0
    """For one explanation."""
    start_s: float = 60.0


@dataclass
class Bill:
    """Clips that went through the detector for one explanation."""

    forwards: int = 0
    backwards: int = 0


class PluginFailedError(Exception):
    """The plugin raised in ``explain``; the message is its own."""


@dataclass
class Box:
    """A plugin's process; open it as a context manager.

    Raises:
        IsolationError: If the jail does not hold or does not start.
        PluginError: If the plugin cannot be loaded.
    """

    jail: Jail
    room: Room
    order: Order
    detector: Detector
    facts: dict[str, Any] = field(default_factory=dict)
    """What the plugin declares of itself."""
    bill: Bill = field(default_factory=Bill)

    def __enter__(self) -> Self:
        self._name = f"xaibench-{secrets.token_hex(8)}"
        argv = self.jail.wrap(self.room, self.room.argv(), self._name)
        environment = ENVIRONMENT if not self.jail.program or self.jail.program == "bwrap" else os.environ
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environment, **_path()},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise IsolationError(f"{self.jail} must start, got {error.strerror}; choose another level") from error
        os.set_blocking(self._into, False)  # a plugin that does not read must not keep us waiting past the deadline
        self._log = _Log(self.process.stderr)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self) -> None:
        facts = {
            "lock": self.jail.lock(self.room).facts(),
            "plugin": str(self.room.plugin),
            "entry": self.order.entry,
            "options": self.order.options,
            "stft": self.order.stft,
            "detector": self.detector.name,
            "input_samples": self.detector.input_samples,
        }
        try:
            deadline = time.monotonic() + self.order.start_s
            send(self._into, Frame("load", facts), deadline)
            answer = self._next(deadline)
        except (WireError, TimeoutError) as error:
            raise IsolationError(
                f"{self.jail} must start a process, got {error} ({self.messages() or 'no message'}); see `xaibench doctor`"
            ) from error
        if answer.kind == "unlocked":
            raise IsolationError(f"{self.jail} must close, got {answer.text('type')}: {answer.text('message')}; choose another level")
        if answer.kind != "ready":
            raise PluginError(f"plugin must load, got {answer.text('type')}: {answer.text('message')}; mend it")
        self.facts = _declared(answer.facts)

    @property
    def _into(self) -> int:
        return self.process.stdin.fileno()  # type: ignore[union-attr]

    def explain(self, waveform: Tensor, seed: int, *, recipe: str = "", references: Tensor | None = None) -> Tensor:
        """Ask for the map of one clip.

        Args:
            waveform: The clip, (1, T).
            seed: Of the plugin's generator.
            recipe: Recipe that it is told to look for.
            references: Bona fide recordings, (R, T), where it declares to need them.

        Returns:
            What the plugin sent, (1, F, N) or not.

        Raises:
            PluginFailedError: If it raised.
            TimeoutError: If it took too long; the process is ended.
            WireError: If it died or broke the protocol; the process is ended.
        """
        self.bill = Bill()
        deadline = time.monotonic() + self.order.timeout_s
        arrays = {"waveform": waveform.numpy()} | ({} if references is None else {"references": references.numpy()})
        try:
            send(self._into, Frame("explain", {"seed": seed, "recipe": recipe}, arrays), deadline)
            while (frame := self._next(deadline)).kind in ("logits", "gradient"):
                send(self._into, self._answer(frame), deadline)
        except (WireError, TimeoutError):
            self.kill()
            raise
        if frame.kind == "failed":
            raise PluginFailedError(f"{frame.text('type')}: {frame.text('message')}")
        if frame.kind != "heatmap" or "value" not in frame.arrays:
            self.kill()
            raise WireError(f"plugin must send a heatmap, got {clean(frame.kind)[:40]!r}; use xaibench on both sides")
        return torch.from_numpy(frame.arrays["value"])

    def _next(self, deadline: float) -> Frame:
        return receive(self.process.stdout.fileno(), deadline)  # type: ignore[union-attr]

    def _answer(self, frame: Frame) -> Frame:
        """Answer a question about the detector, or say why not."""
        waveform = torch.from_numpy(frame.arrays["waveform"]) if "waveform" in frame.arrays else torch.zeros(0)
        if waveform.ndim != 2 or not 0 < len(waveform) <= MAX_BATCH or not 0 < waveform.shape[1] <= MAX_SAMPLES:
            return _refusal(f"waveform must have shape (B, T), B at most {MAX_BATCH}, got {tuple(waveform.shape)}")
        weights = torch.from_numpy(frame.arrays["weights"]) if "weights" in frame.arrays else torch.zeros(len(waveform))
        if weights.shape != (len(waveform),):
            return _refusal(f"weights must have shape ({len(waveform)},), got {tuple(weights.shape)}")
        if self.bill.forwards + self.bill.backwards + len(waveform) > MAX_QUERIES:
            return _refusal(f"an explanation may ask {MAX_QUERIES} times")
        if frame.kind == "gradient" and not self.order.gradients:
            return _refusal("gradients are not served: the card's needs do not name them")
        try:
            ask = self._gradient if frame.kind == "gradient" else self._logits
            # a few at a time: memory for activations is ours, and a question may be of any size up to the limits
            at_once = max(1, MAX_SAMPLES // waveform.shape[1])
            parts = [ask(*part) for part in zip(torch.split(waveform, at_once), torch.split(weights, at_once), strict=True)]
            value = torch.cat(parts)
        except Exception as error:  # of the detector, on an input that it cannot take
            return _refusal(f"the detector cannot take this: {type(error).__name__}")
        return Frame("answer", arrays={"value": value.detach().cpu().float().numpy()})

    def _logits(self, waveform: Tensor, weights: Tensor) -> Tensor:
        del weights
        self.bill.forwards += len(waveform)
        with torch.no_grad():
            return self.detector.spoof_logit(waveform)

    def _gradient(self, waveform: Tensor, weights: Tensor) -> Tensor:
        """Differentiate weighted log-odds; the forward pass that this repeats was counted when the log-odds were asked for."""
        self.bill.backwards += len(waveform)
        with torch.enable_grad():
            leaf = waveform.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad((self.detector.spoof_logit(leaf) * weights).sum(), leaf)
        return gradient

    def messages(self) -> str:
        """Return the end of what the plugin printed, as one harmless line."""
        return clean(self._log.end().decode("utf-8", "replace"))[-300:]

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process and all its children."""
        if command := self.jail.end(self._name):  # its processes are children of the engine, not ours
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(command, capture_output=True, check=False, timeout=60)
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Hang up, wait a moment, and end what is left."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1.0)
        self.kill()
        self._log.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Log:
    """Takes what a plugin prints off its pipe, however much that is, and keeps the end."""

    def __init__(self, stream: IO[bytes] | None):
        self._stream, self._kept = stream, bytearray()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while self._stream is not None and (piece := self._stream.read1(1 << 16)):  # type: ignore[attr-defined]
            self._kept = (self._kept + piece)[-MAX_LOG_BYTES:]

    def end(self) -> bytes:
        """Return the last bytes, once the process is quiet for a moment or gone."""
        self._thread.join(timeout=0.2)
        return bytes(self._kept)

    def close(self) -> None:
        """Wait for the end of the stream, which the end of the process brings."""
        self._thread.join(timeout=5.0)
        if self._stream is not None and not self._thread.is_alive():
            self._stream.close()


def _path() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/bin")}


def _declared(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a plugin says of itself, each fact of the type that it must have: it can say anything.

    Raises:
        PluginError: If a fact is missing or of another type.
    """
    kinds = {"applies": bool, "reason": str, "needs": list, "recipe": bool, "polarity": str, "deterministic": bool}
    wrong = [name for name, kind in kinds.items() if not isinstance(facts.get(name), kind)]
    if wrong or not all(isinstance(need, str) for need in facts["needs"]):
        raise PluginError(f"plugin must declare {', '.join(kinds)}, got something else for {wrong[0] if wrong else 'needs'}; mend it")
    return {name: facts[name] for name in kinds}


def _refusal(message: str) -> Frame:
    return Frame("refused", {"message": message})


def agreement(one: Tensor, other: Tensor) -> float:
    """Return the share of the strongest twentieth of cells that two maps have in common."""
    count = max(1, one.numel() // 20)
    chosen: Sequence[set[int]] = [set(found.flatten().topk(count).indices.tolist()) for found in (one, other)]
    return len(chosen[0] & chosen[1]) / count
