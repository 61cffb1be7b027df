"""The explain stage: one unit in, one record out, whatever the explainer does.

The explainer sees a waveform and a detector. Twin, mask, vocoder and speaker stay on this side; only oracles are handed the twin.
"""

import math
import re
from dataclasses import dataclass, fields, replace
from statistics import median

import torch
from torch import Tensor

from xaibench.benchmark.heatmaps import write_heatmap
from xaibench.benchmark.observe import Meter, memory_limit, sealed_randomness, time_limit
from xaibench.benchmark.plan import PlannedClip
from xaibench.benchmark.seal import Seal
from xaibench.benchmark.units import Explanation, Problem, Status, Twins, Unit, first_line
from xaibench.benchmark.world import World
from xaibench.errors import NotApplicableError, PluginError
from xaibench.tasks.masks import truth
from xaibench.tasks.recipes import TIME
from xaibench.types import Clip, Detector, Explainer, Task, tensors_hash


class InvalidHeatmapError(Exception):
    """The explainer returned something that is no heatmap, or broke its contract."""


def explain_unit(world: World, planned: PlannedClip, clip: Clip, unit: Unit, seal: Seal, attempt: int = 1) -> Explanation:
    """Explain one clip and store the heatmap.

    Raises:
        RunError: If the heatmap cannot be stored. Nothing else: what goes wrong in the explainer is written into the record.
    """
    detector = world.detectors[unit.detector]
    meter = Meter(detector)
    heatmap: Tensor | None = None
    diagnostics: dict[str, float | None] = {}
    status: Status = "ok"
    problem: Problem | None = None
    try:
        heatmap, diagnostics = _explain(world, planned, clip, unit, meter, seal)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, SystemExit too, and the run goes on
        status, problem = verdict(error)
    return Explanation(
        key=unit.key,
        unit=unit,
        status=status,
        problem=problem,
        heatmap_sha256="" if heatmap is None else write_heatmap(world.folder, heatmap),
        negative=heatmap is not None and bool((heatmap < 0).any()),
        timeout_s=world.timeout_s,
        diagnostics=diagnostics,
        cost=meter.cost,
        attempt=attempt,
    )


@dataclass(frozen=True)
class Variation:
    """What is asked instead of the unit's own question; ``None`` leaves a part as it is."""

    detector: Detector | None = None
    waveform: Tensor | None = None
    """(T,)."""
    seed: int | None = None


def explain_varied(world: World, planned: PlannedClip, clip: Clip, unit: Unit, variation: Variation) -> Tensor:
    """Explain once more under a variation, by the same rules; return the map (F, N), which is not stored.

    Raises:
        Exception: Whatever the explainer raises, or ``InvalidHeatmapError``.
    """
    detector = variation.detector or world.detectors[unit.detector]
    return _explain(world, planned, clip, unit, Meter(detector), Seal(detector), variation)[0]


def _explain(
    world: World, planned: PlannedClip, clip: Clip, unit: Unit, meter: Meter, seal: Seal, variation: Variation | None = None
) -> tuple[Tensor, dict[str, float | None]]:
    asked = variation or Variation()
    detector = asked.detector or world.detectors[unit.detector]
    task = world.tasks[unit.clip.task]
    explainer = world.ready(unit.explainer, unit.recipe, unit.clip.task, planned.pair)
    usable, reason = explainer.applicable(detector)
    if not usable:
        raise NotApplicableError(reason)
    if world.is_oracle(unit.explainer) and not clip.has_twin:
        return _oracle_of_labels(explainer, clip, world, unit), {}
    device = device_of(detector)
    references = _references(explainer, task, clip, device, oracle=world.is_oracle(unit.explainer))
    if world.is_oracle(unit.explainer):
        known = {"valid_samples": clip.valid_samples, "planted": clip.planted}
        explainer = replace(explainer, **{f.name: known[f.name] for f in fields(explainer) if f.name in known})
    seed = unit.seed if asked.seed is None else asked.seed
    generator = torch.Generator(device).manual_seed(seed)
    waveform = (clip.spoof if asked.waveform is None else asked.waveform)[None].to(device, copy=True)
    grid = world.stft(unit.clip.task)
    shape = (1, grid.bins, grid.frames(clip.spoof.shape[-1]))
    try:
        with sealed_randomness(seed), memory_limit(world.memory_mb), time_limit(world.timeout_s):
            with meter:
                heatmap = explainer.explain(waveform, detector, references=references, generator=[generator])
            grad_mode = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            diagnostics = diagnosed(explainer, heatmap, waveform, detector, references, shape)
    except NotApplicableError as error:  # a method that skips the clips it dislikes must not look better for it
        raise PluginError(f"explainer must say in applicable(detector) what it cannot explain, got it for one clip: {error}") from error
    finally:
        changed = seal.broken()
        if changed:
            seal.mend()
    if not grad_mode:
        changed = changed or "grad mode"
    if changed:
        raise InvalidHeatmapError(f"explainer must leave the detector as it found it, got a changed {changed}; work on a copy")
    return checked(heatmap, shape), diagnostics


def diagnosed(
    explainer: Explainer, heatmap: object, waveform: Tensor, detector: Detector, references: Tensor | None, shape: tuple[int, ...]
) -> dict[str, float | None]:
    """Return what the explainer tells of its own error; nothing for a heatmap that cannot be one.

    Raises:
        PluginError: If a name is no identifier.
    """
    if not isinstance(heatmap, Tensor) or tuple(heatmap.shape) != shape or not heatmap.isfinite().all():
        return {}
    with torch.no_grad():
        told = explainer.diagnostics(heatmap, waveform, detector, references)
    for name in told:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
            raise PluginError(f"names of diagnostics must be lower-case identifiers, got {name!r}; rename it")
    return {name: value if math.isfinite(value) else None for name, value in ((name, float(told[name])) for name in sorted(told))}


def _oracle_of_labels(explainer: Explainer, clip: Clip, world: World, unit: Unit) -> Tensor:
    """Return the labels in time as the oracle's map.

    Raises:
        NotApplicableError: If the oracle needs the twin that the corpus does not have.
    """
    if explainer.name != "oracle_mask" or clip.fake is None:
        raise NotApplicableError("an oracle must be handed the twin, and this corpus has none")
    return truth(clip, TIME, world.stft(unit.clip.task)).difference


def _references(explainer: Explainer, task: Task, clip: Clip, device: torch.device, oracle: bool) -> Tensor | None:
    if oracle:
        return clip.bonafide[None].to(device)
    return task.references(clip.pair).to(device) if "references" in explainer.needs else None


def device_of(detector: Detector) -> torch.device:
    """Return the device of a detector's parameters."""
    return next((p.device for p in detector.parameters()), torch.device("cpu"))


def checked(heatmap: object, shape: tuple[int, int, int]) -> Tensor:
    """Return a valid heatmap of one clip as (F, N), or say what is wrong with it.

    Raises:
        InvalidHeatmapError: If it is no tensor, has another shape or dtype, or holds NaN or infinity.
    """
    if not isinstance(heatmap, Tensor):
        raise InvalidHeatmapError(f"heatmap must be a tensor, got {type(heatmap).__name__}; return (B, F, N) float32")
    if tuple(heatmap.shape) != shape:
        raise InvalidHeatmapError(f"heatmap must have shape {shape}, got {tuple(heatmap.shape)}; project it to the task's grid")
    if heatmap.dtype != torch.float32:
        raise InvalidHeatmapError(f"heatmap must be float32, got {str(heatmap.dtype).removeprefix('torch.')}; call .float()")
    bad = int((~torch.isfinite(heatmap)).sum())
    if bad:
        raise InvalidHeatmapError(f"heatmap must be finite, got {bad} cells with NaN or infinity; guard divisions and logarithms")
    return heatmap.detach()[0].cpu().resolve_conj().resolve_neg().contiguous().clone()


def verdict(error: BaseException) -> tuple[Status, Problem]:
    """Sort an exception into the way the unit ended."""
    problem = Problem(kind=type(error).__name__, message=first_line(error))
    if isinstance(error, NotApplicableError):
        return "not_applicable", problem
    if isinstance(error, InvalidHeatmapError):
        return "invalid", problem
    return ("timeout" if isinstance(error, TimeoutError) else "error"), problem


_levels: dict[tuple[int, str], float] = {}


def _reference_level(references: Tensor, detector: Detector) -> float:
    """Return the median log-odds of a clip's references, heard once per set of them."""
    key = id(detector), tensors_hash({"references": references})
    if key not in _levels:
        device = device_of(detector)
        _levels[key] = median(float(detector.spoof_logit(recording[None].to(device))) for recording in references)
    return _levels[key]


def measure_twins(world: World, planned: PlannedClip, clip: Clip) -> Twins:
    """Ask the detector for the log-odds of both twins."""
    detector = world.detectors[planned.detector]
    meter = Meter(detector)
    values: list[float] = []
    reference: float | None = None
    status: Status = "ok"
    problem: Problem | None = None
    try:
        with meter, torch.no_grad():
            twins = torch.stack([clip.bonafide, clip.spoof] if clip.has_twin else [clip.spoof]).to(device_of(detector))
            values = [float(detector.spoof_logit(twin[None])) for twin in twins]
            reference = None if clip.has_twin else _reference_level(world.tasks[planned.ref.task].references(clip.pair), detector)
        if not all(map(torch.isfinite, torch.tensor(values))):
            raise InvalidHeatmapError(f"log-odds must be finite, got {values}; look at the detector's input")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a detector is a plugin too
        values = []
        status, problem = verdict(error)
    bonafide, spoof = (None, *values)[-2:] if values else (None, None)
    return Twins(
        key=planned.key,
        clip=planned.ref,
        detector=planned.detector,
        status=status,
        problem=problem,
        bonafide=bonafide,
        spoof=spoof,
        reference=reference if values else None,
        cost=meter.cost,
    )
