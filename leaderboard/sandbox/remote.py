"""The detector as a plugin sees it: log-odds and, where declared, input gradients, asked of the parent over a pipe. It has no weights."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xaibench.leaderboard.sandbox.wire import Frame, receive, send
from xaibench.types import Detector

AT_ONCE = 32
"""Clips in one question."""


class RefusedError(Exception):
    """The parent does not answer this question; the message says why."""


class Channel:
    """The pipe to the parent."""

    def __init__(self, source: int, target: int):
        self.source, self.target = source, target

    def ask(self, kind: str, **arrays: Tensor) -> Tensor:
        """Ask a question and wait for the answer.

        Raises:
            RefusedError: If the parent refuses, e.g. gradients that the card does not declare.
        """
        send(self.target, Frame(kind, arrays={name: value.detach().cpu().float().numpy() for name, value in arrays.items()}))
        answer = receive(self.source)
        if answer.kind != "answer":
            raise RefusedError(str(answer.facts.get("message", "the parent refuses")))
        return torch.from_numpy(answer.arrays["value"])


class _Ask(torch.autograd.Function):
    """Log-odds forward, the parent's input gradient backward."""

    @staticmethod
    def forward(ctx: Any, waveform: Tensor, channel: Channel) -> Tensor:
        ctx.channel = channel
        ctx.save_for_backward(waveform)
        parts = [channel.ask("logits", waveform=part) for part in torch.split(waveform, AT_ONCE)]
        return torch.cat(parts).to(waveform)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:
        (waveform,) = ctx.saved_tensors
        pieces = zip(torch.split(waveform, AT_ONCE), torch.split(weights, AT_ONCE), strict=True)
        parts = [ctx.channel.ask("gradient", waveform=part, weights=weight) for part, weight in pieces]
        return torch.cat(parts).to(waveform), None


class RemoteDetector(Detector):
    """Answers as the real detector does; has neither parameters nor hidden states."""

    def __init__(self, channel: Channel, name: str, input_samples: int):
        super().__init__()
        self.name, self.input_samples = name, input_samples
        self.__dict__["channel"] = channel

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-odds of spoof, (B,)."""
        logits: Tensor = _Ask.apply(waveform, self.__dict__["channel"])  # type: ignore[no-untyped-call]
        return logits
