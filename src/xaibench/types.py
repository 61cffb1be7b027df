"""The contracts of the house, each stated once: audio, heatmap, detector, explainer, pair, task.

Conventions
    Audio is mono float32 in [-1, 1] at 16 kHz, ``(B, T)``. A detector hears ``CLIP_SAMPLES`` samples (4.0375 s).
    A grid is ``(B, F, N)``: frequency bins by frames of one ``STFTConfig`` (``tasks/spectrogram.py``).
    A heatmap is float32 ``(B, F, N)`` of any scale; larger means more evidence for *spoof*.
    A detector's output is a log-odds ``(B,)``; larger means more likely *spoof*.
    Axes keep these letters and this order: B batch, T samples, F frequency bins, N frames, L layers, D features.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

SAMPLE_RATE = 16_000
CLIP_SAMPLES = 64_600

Polarity = Literal["signed", "magnitude"]
Need = Literal["gradients", "logits", "references", "training_pairs"]
Split = Literal["train", "dev", "test"]
Weights = dict[str, Tensor]
Generators = Sequence[torch.Generator] | torch.Generator | None


def content_hash(value: Any) -> str:
    """Hash canonical JSON (sorted keys, no white space, no NaN) with SHA-256.

    Never pass what may differ between two equal experiments: order of a set, a path, a time.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors by name, dtype, shape and bytes with SHA-256; independent of device and of dict order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Detector(nn.Module, ABC):
    """A detector of spoofed speech: waveform ``(B, T)`` in, log-odds of *spoof* ``(B,)`` out.

    Subclasses implement ``forward`` and resolve the class order of published checkpoints there and nowhere else.
    In ``eval()`` two calls give equal bits; no module works in place, so that hooks and rules see true values.
    """

    name: str = ""
    input_samples: int = CLIP_SAMPLES
    cpu_batch: int = 4
    """Clips per forward at which a CPU needs the least time per clip; 1 where the activations of one clip already exceed its caches."""

    @abstractmethod
    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-odds that each clip is spoof, ``(B,)``."""

    def spoof_logit(self, waveform: Tensor) -> Tensor:
        """Return the log-odds that each clip is spoof, ``(B,)``; larger means more likely spoof."""
        logit: Tensor = self(waveform)
        return logit

    def hidden_states(self, waveform: Tensor) -> Tensor:
        """Return the layers' features ``(L, B, N', D)``; detectors without a stack of layers raise ``NotImplementedError``."""
        raise NotImplementedError(f"detector {self.name!r} has no stack of hidden layers; choose an explainer that does not need one")

    def fingerprint(self) -> str:
        """Hash name, configuration (a dataclass called ``config``, if any), parameters and buffers.

        Two detectors with equal fingerprints give equal answers. Settings that are ``None``, not in use, are left out: one that is added
        later leaves the detectors before it what they were.
        """
        config = getattr(self, "config", None)
        stated = asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}
        settings = {name: value for name, value in stated.items() if value is not None}
        return content_hash({"name": self.name, "config": settings, "weights": tensors_hash(self.state_dict())})


@dataclass(frozen=True)
class Explainer(ABC):
    """An explanation method; its dataclass fields are its configuration, its command-line options and part of each result's key.

    Subclasses are frozen dataclasses registered with ``EXPLAINERS.register``. A field with ``metadata={"config": False}``
    carries state that the harness injects (fitted tables, loaded weights) and must be covered by ``state_hash``; one with
    ``metadata={"result": False}`` is an option that changes speed or memory and never a value.
    A field called ``recipe`` makes the harness run the explainer once for each mask recipe, a field called ``stft`` takes the task's grid.
    """

    name: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    polarity: ClassVar[Polarity] = "signed"
    needs: ClassVar[frozenset[Need]] = frozenset()
    deterministic: ClassVar[bool] = True
    control: ClassVar[bool] = False
    oracle: ClassVar[bool] = False
    """An oracle is handed the bona fide twin as its only reference, ``(1, T)``; it marks the ceiling and competes with nobody."""
    ablation: ClassVar[str] = ""
    """Name of the explainer that is this one without what its claim rests on; empty where nothing is claimed."""
    claim: ClassVar[str] = ""
    """What it claims to be, e.g. ``detector-specific``; the row says so only where it is better than its ablation."""
    version: ClassVar[str] = "1"

    @abstractmethod
    def explain(
        self,
        waveform: Tensor,
        detector: Detector,
        *,
        references: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Attribute the detector's spoof log-odds to the time-frequency grid.

        Args:
            waveform: Clips to explain, ``(B, T)``, float32 in [-1, 1], 16 kHz.
            detector: In ``eval()`` mode; must be left exactly as it was found.
            references: Bona fide recordings of other speakers, ``(R, T)``, for explainers with ``"references"`` in ``needs``.
            generator: One generator per clip (or a single one when B is 1). ``None`` means a fixed seed.
                Randomness is drawn clip by clip, so that a batch equals its singles.

        Returns:
            Heatmap, ``(B, F, N)`` float32, finite, larger for more evidence of spoof.
        """

    @property
    def decision_threshold(self) -> float | None:
        """Value of the heatmap above which the method itself calls a cell artifact; ``None`` for methods that only rank cells."""
        return None

    def applicable(self, detector: Detector) -> tuple[bool, str]:
        """Tell whether the method can explain this detector, with the reason if not."""
        return True, ""

    def diagnostics(self, heatmap: Tensor, waveform: Tensor, detector: Detector, references: Tensor | None = None) -> dict[str, float]:
        """Return what the method can tell of its own error on one clip, by name, e.g. how far attributions miss the sum they should have.

        The harness asks after it was explained, without gradients and off the bill, and records the numbers beside the clip's scores.

        Args:
            heatmap: What ``explain`` returned, ``(1, F, N)``.
            waveform: The clip, ``(1, T)``.
            detector: The explained detector.
            references: As given to ``explain``.
        """
        del heatmap, waveform, detector, references
        return {}

    def config(self) -> dict[str, Any]:
        """Return what the result depends on as plain JSON values: neither injected state nor what changes speed and memory alone."""
        skipped = {f.name for f in fields(self) if not (f.metadata.get("config", True) and f.metadata.get("result", True))}
        return {k: v for k, v in asdict_shallow(self).items() if k not in skipped}

    def bind(self, task: str) -> "Explainer":
        """Return the explainer as the harness uses it on the task of this name; methods that ship weights by task choose them here."""
        del task
        return self

    def state_hash(self) -> str:
        """Hash fitted state (tables, weights); empty for methods that have none."""
        return ""


class Control(Explainer):
    """A row that every explainer must beat. Only the controls of a suite are ever handed the task and the pair."""

    control = True

    def prepare(self, task: "Task", pair: "Pair") -> "Explainer":
        """Return the control as the harness uses it on this pair, e.g. with a table fitted on all other speakers."""
        del task, pair
        return self


class TrainableExplainer(Explainer):
    """An explainer that is fitted on training pairs before it can explain."""

    @abstractmethod
    def fit(self, pairs: Iterable["Clip"]) -> Weights:
        """Fit on training clips and return the weights as named tensors."""


def asdict_shallow(instance: Any) -> dict[str, Any]:
    """Return a dataclass as a dict, nested dataclasses as dicts, other values untouched."""
    return {f.name: asdict(v) if hasattr(v := getattr(instance, f.name), "__dataclass_fields__") else v for f in fields(instance)}


def clip_generators(generator: Generators, batch: int) -> list[torch.Generator]:
    """Return one generator per clip; ``None`` gives every clip the same fixed seed.

    Raises:
        ValueError: If a single generator comes with several clips, or the count differs from the batch.
    """
    if generator is None:
        return [torch.Generator().manual_seed(0) for _ in range(batch)]
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) != batch:
        raise ValueError(
            f"generator must hold one torch.Generator per clip ({batch}), got {len(generators)}; "
            "pass a list, so that a batch equals its singles"
        )
    return generators


@dataclass(frozen=True)
class Pair:
    """A real recording and its vocoded twin, as a task lists them."""

    id: str
    utterance: str
    speaker: str
    vocoder: str
    bonafide: str
    """Path relative to the task's data folder."""
    spoof: str
    lag: int = 0
    """Samples at 16 kHz by which the spoof is late."""
    split: Split = "test"
    seen_vocoder: bool = True
    """Whether training pairs of the task contain this vocoder."""
    corpus: str = ""
    family: str = ""
    """Vocoder family, e.g. all HiFi-GAN variants; the unit of leave-one-vocoder-out."""
    bonafide_sha256: str = ""
    """SHA-256 of the decoded 16 kHz samples (little-endian 16-bit integers)."""
    spoof_sha256: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Clip:
    """A pair as loaded: aligned, level-matched, cropped or tiled to the detector's input length."""

    pair: Pair
    bonafide: Tensor
    """(T,) float32; (0,) where the corpus has no twin, so that whoever needs one fails instead of comparing with silence."""
    spoof: Tensor
    """(T,) float32."""
    valid_samples: int
    """Samples before tiling began; equal to T for clips that are long enough."""
    planted: Tensor | None = None
    """(F, N) bool, the planted region, in tasks with planted truth."""
    fake: Tensor | None = None
    """(T,) bool, the samples that are labelled fake, in tasks with time truth."""

    @property
    def has_twin(self) -> bool:
        """Whether there is a recording to compare with."""
        return len(self.bonafide) > 0


@dataclass(frozen=True)
class Task(ABC):
    """Pairs, splits and front end of one corpus: what is explained, and the truth.

    Fields are the task's options. ``load`` is the only door to audio; it aligns, level-matches, crops and tiles.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "1"
    licence: ClassVar[str] = ""
    title: ClassVar[str] = ""
    default_detector: ClassVar[str] = "spectrogram_cnn"
    truth: ClassVar[Literal["artifact", "planted", "time", "none"]] = "artifact"
    """``time``: labels say when, never which frequency, so the time marginal alone is scored. ``none``: nothing but the detector is."""
    recipes: ClassVar[tuple[str, ...]] = ("sym-floor60-v1", "grinberg-rel-linear-v1")

    data: str = field(default="", metadata={"config": False})
    """Folder that holds the audio; empty for the task's own default (embedded, ``XAIBENCH_DATA`` or the cache)."""

    @abstractmethod
    def pairs(self, split: Split) -> list[Pair]:
        """Return the pairs of a split in a fixed order; an empty list where the task has no such split."""

    def complete(self, pair: Pair) -> Pair:
        """Return the pair with the hashes and the lag that its identity needs; the harness asks for each clip that it plans.

        Corpora that are too large to be hashed when they are listed find them here, one pair at a time.

        Raises:
            PairError: If the two recordings are not twins; the harness leaves the pair out and says so.
        """
        return pair

    @abstractmethod
    def load(self, pair: Pair) -> Clip:
        """Load one pair: aligned, level-matched, ``CLIP_SAMPLES`` long, tiled where shorter."""

    @abstractmethod
    def references(self, pair: Pair) -> Tensor:
        """Return 20 bona fide training recordings that share no speaker or utterance with the pair, ``(20, T)``."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash the content of the task: audio hashes, lags, splits, version; never paths or order."""
