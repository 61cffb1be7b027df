"""The plugin's process: closes the doors, loads the plugin, and explains clip after clip until the parent hangs up.

Everything that it sends is taken by the parent as said by the plugin, since the plugin shares this process.
"""

import importlib
import os
import random
import sys
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from xaibench.leaderboard.sandbox.lock import Lock
from xaibench.leaderboard.sandbox.remote import Channel, RemoteDetector
from xaibench.leaderboard.sandbox.wire import Frame, WireError, receive, send
from xaibench.tasks.spectrogram import STFTConfig
from xaibench.types import Explainer

LONGEST = 500


def main() -> None:
    """Serve the parent on standard input and output, which the plugin gets as nothing and as the log."""
    source, target = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    try:
        _serve(Channel(source, target))
    except WireError:  # the parent hung up
        os._exit(0)


def _serve(channel: Channel) -> None:
    order = receive(channel.source)
    try:
        Lock.of(order.facts["lock"]).close()
    except BaseException as error:
        send(channel.target, _failure("unlocked", error))
        os._exit(1)
    try:
        explainer = _load(order.facts)
        detector = RemoteDetector(channel, str(order.facts["detector"]), int(order.facts["input_samples"])).eval()
        applies, reason = explainer.applicable(detector)
    except BaseException as error:  # a plugin may raise anything
        send(channel.target, _failure("broken", error))
        os._exit(1)
    knows = any(f.name == "recipe" for f in fields(explainer))
    facts = {"applies": bool(applies), "reason": str(reason)[:LONGEST], "needs": sorted(explainer.needs), "recipe": knows}
    send(channel.target, Frame("ready", {**facts, "polarity": explainer.polarity, "deterministic": bool(explainer.deterministic)}))
    while True:
        question = receive(channel.source)
        try:
            answer = _explain(explainer, detector, question)
        except WireError:
            raise
        except BaseException as error:
            answer = _failure("failed", error)
        send(channel.target, answer)


def _load(facts: dict[str, Any]) -> Explainer:
    sys.path.insert(0, str(facts["plugin"]))
    module, _, name = str(facts["entry"]).partition(":")
    explainer: Explainer = getattr(importlib.import_module(module), name)(**facts["options"])
    if not isinstance(explainer, Explainer) or not is_dataclass(explainer):
        raise TypeError(f"entry must name an Explainer, got {type(explainer).__name__}; derive from xaibench.types.Explainer")
    if any(f.name == "stft" for f in fields(explainer)):
        explainer = replace(explainer, stft=STFTConfig(*facts["stft"]))  # type: ignore[call-arg]
    return explainer


def _explain(explainer: Explainer, detector: RemoteDetector, question: Frame) -> Frame:
    if question.facts["recipe"]:
        explainer = replace(explainer, recipe=question.facts["recipe"])  # type: ignore[call-arg]
    references = question.arrays.get("references")
    seed = int(question.facts["seed"])
    torch.manual_seed(seed)
    random.seed(seed)
    heatmap = explainer.explain(
        torch.from_numpy(question.arrays["waveform"]),
        detector,
        references=None if references is None else torch.from_numpy(references),
        generator=[torch.Generator().manual_seed(seed)],
    )
    return Frame("heatmap", arrays={"value": heatmap.detach().cpu().float().numpy()})


def _failure(kind: str, error: BaseException) -> Frame:
    try:
        message = str(error)
    except Exception:  # a class of the plugin
        message = "no message"
    return Frame(kind, {"type": type(error).__name__[:80], "message": message.encode("ascii", "backslashreplace").decode()[:LONGEST]})
