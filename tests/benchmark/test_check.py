"""Each rule of the contract catches the fault that it is there for, and a sound plugin passes all of them."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xaibench.benchmark.check import Finding, check_detector, check_explainer, example_clips, require
from xaibench.errors import NotApplicableError, PluginError
from xaibench.tasks.spectrogram import STFTConfig, log_magnitude, magnitude
from xaibench.types import Detector, Explainer, clip_generators

GRID = STFTConfig(64, 32)
SAMPLES = 1024


class Listener(Detector):
    """A small detector with a parameter, a buffer and a submodule."""

    name = "listener"
    input_samples = SAMPLES

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.readout = nn.Linear(GRID.bins, 1)
        self.eval()

    def forward(self, waveform: Tensor) -> Tensor:
        return self.readout(self.norm(magnitude(waveform, GRID).mean(2)[:, None])[:, 0])[:, 0]


@dataclass(frozen=True)
class Sound(Explainer):
    """Gradient of the log-odds at each clip, plus seeded noise: uses the detector, gradients and randomness as allowed."""

    name = "sound"
    needs = frozenset({"gradients"})
    deterministic = False
    stft: STFTConfig = GRID

    def explain(self, waveform, detector, *, references=None, generator=None):
        clip = waveform.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(detector(clip).sum(), clip)
        noise = torch.stack([torch.rand(*self.grid(waveform), generator=g) for g in clip_generators(generator, len(waveform))])
        return (log_magnitude(slope, self.stft) + 0.1 * noise).detach()

    def grid(self, waveform):
        return self.stft.bins, self.stft.frames(waveform.shape[-1])


def broken(**declared):
    """Make a subclass of the sound explainer that spoils the map, or something else, in a named way."""

    def decorate(spoil):
        def explain(self, waveform, detector, *, references=None, generator=None):
            heatmap = Sound.explain(self, waveform, detector, references=references, generator=generator)
            spoiled = spoil(heatmap, waveform, detector)
            return heatmap if spoiled is None else spoiled

        return dataclass(frozen=True)(type("Broken", (Sound,), {"explain": explain, **declared}))()

    return decorate


def leave_eval(heatmap, waveform, detector):
    detector.train()


def leave_hook(heatmap, waveform, detector):
    detector.norm.register_forward_hook(lambda *_: None)


def leave_gradient(heatmap, waveform, detector):
    detector(waveform).sum().backward()


def leave_frozen(heatmap, waveform, detector):
    detector.requires_grad_(False)


def leave_patch(heatmap, waveform, detector):
    detector.norm.forward = detector.norm.forward


def leave_weights(heatmap, waveform, detector):
    with torch.no_grad():
        detector.readout.weight += 1e-3


def leave_torch_state(heatmap, waveform, detector):
    torch.rand(1)


def leave_numpy_state(heatmap, waveform, detector):
    np.random.rand()  # noqa: NPY002


def leave_python_state(heatmap, waveform, detector):
    random.random()


def leave_waveform(heatmap, waveform, detector):
    waveform *= 0.5


def leave_grad_on_waveform(heatmap, waveform, detector):
    waveform.requires_grad_(True)


calls = {"count": 0}


def drift(heatmap, waveform, detector):
    calls["count"] += 1
    return heatmap + calls["count"]


FAULTS = [
    (lambda h, w, d: h[:, :-1], r"must have shape \(B, F, N\) \(torch.Size\(\[2, 32, 33\]\) for a batch of two"),
    (lambda h, w, d: h.numpy(), r"must have shape"),
    (lambda h, w, d: h.double(), r"must be float32 \(torch.float64"),
    (lambda h, w, d: h.requires_grad_(True), "must be detached"),
    (lambda h, w, d: torch.where(h > h.median(), float("nan"), h), "must be finite"),
    (lambda h, w, d: h / w.abs().amax(dim=1)[:, None, None] * 0 + h, r"must be finite \(1089 cells are not, for digital silence"),
    (lambda h, w, d: h - h.mean(), "a batch must equal its singles"),
    (lambda h, w, d: h + 1e-3 * len(h) * torch.arange(33.0) / 33, "a batch must equal its singles"),
    (drift, "the same seed must give the same bits"),
    (lambda h, w, d: 1 / 0, r"explain must not raise \(ZeroDivisionError"),
    (leave_eval, "changed: eval mode of its modules"),
    (leave_hook, "changed: hooks of its modules"),
    (leave_gradient, "changed: gradients of parameters"),
    (leave_frozen, "changed: requires_grad flags"),
    (leave_patch, "changed: classes or methods of its modules"),
    (leave_weights, "changed: parameters and buffers"),
    (leave_torch_state, "changed: global random state of torch"),
    (leave_numpy_state, "changed: global random state of NumPy"),
    (leave_python_state, "changed: global random state of Python"),
    (leave_waveform, "the waveform must not be changed"),
    (leave_grad_on_waveform, "the waveform must not be changed"),
]


def messages(explainer: Explainer, detector: Detector | None = None) -> str:
    return "; ".join(map(str, check_explainer(explainer, detector or Listener())))


def test_a_sound_explainer_passes():
    assert check_explainer(Sound(), Listener()) == []


@pytest.mark.parametrize(("spoil", "message"), FAULTS)
def test_each_fault_is_found(spoil, message):
    found = messages(broken()(spoil))
    with pytest.raises(PluginError, match=message):
        raise PluginError(found)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"polarity": "absolute"}, "polarity must be signed or magnitude ('absolute')"),
        ({"needs": frozenset({"gradients", "twin"})}, "needs must be a subset of gradients, logits, references, training_pairs (['twin'])"),
        ({"needs": frozenset()}, "needs must contain 'logits' or 'gradients'"),
        ({"needs": frozenset({"logits"})}, "needs must contain 'gradients' where they are used"),
        ({"deterministic": True}, "deterministic must be False where the seed matters"),
        ({"name": ""}, "the class must be registered under a name"),
    ],
)
def test_each_false_declaration_is_found(declared, message):
    assert message in messages(broken(**declared)(lambda *_: None))


def test_a_small_difference_that_moves_cells_past_each_other_is_found():
    """Tiny beside the largest value, but large beside the cells that it reorders."""

    def spoil(heatmap, waveform, detector):
        loud = torch.zeros_like(heatmap)
        loud[:, 0, 0] = 1e7
        return loud + (heatmap if len(heatmap) == 1 else heatmap.flip(1))

    assert "a batch must rank cells as its singles do" in messages(broken()(spoil))


def test_references_are_given_where_declared_and_must_survive():
    @dataclass(frozen=True)
    class Writes(Sound):
        needs = frozenset({"gradients", "references"})

        def explain(self, waveform, detector, *, references=None, generator=None):
            references.zero_()
            return super().explain(waveform, detector, references=references, generator=generator)

    assert "the references must not be changed" in messages(Writes())


def test_an_explainer_that_does_not_apply_is_not_checked():
    @dataclass(frozen=True)
    class Picky(Sound):
        def applicable(self, detector):
            return False, "no attention layers"

    with pytest.raises(NotApplicableError, match="no attention layers; check it with another detector"):
        check_explainer(Picky(), Listener())


def test_fields_that_are_no_configuration_are_found():
    @dataclass(frozen=True)
    class Holds(Sound):
        table: Tensor = field(default_factory=lambda: torch.zeros(2))

    assert "fields must be plain JSON values" in messages(Holds())


def spoiled_detector(spoil) -> Listener:
    class Spoiled(Listener):
        def forward(self, waveform):
            return spoil(super().forward(waveform), waveform, self)

    return Spoiled()


def count_up(logit, waveform, detector):
    detector.norm.running_mean += 0.1
    return logit


DETECTOR_FAULTS = [
    (lambda z, w, d: z[:, None], r"log-odds must be float32 of shape \(B,\)"),
    (lambda z, w, d: z.double(), "log-odds must be float32"),
    (lambda z, w, d: z / w.abs().amax(1), "log-odds must be finite, for silence too"),
    (lambda z, w, d: z + torch.rand(1), "two calls must give equal bits"),
    (lambda z, w, d: z - z.mean(), "a batch must equal its singles"),
    (lambda z, w, d: w.mul_(0.5).sum(1) * 0 + z, "the waveform must not be changed"),
    (count_up, "a forward pass must leave no trace"),
    (lambda z, w, d: z.detach(), "log-odds must be differentiable"),
    (lambda z, w, d: z * 0, "the gradient by the waveform must be finite and not zero"),
    (lambda z, w, d: 1 / 0, "forward must not raise"),
]


def test_a_sound_detector_passes():
    assert check_detector(Listener()) == []


@pytest.mark.parametrize(("spoil", "message"), DETECTOR_FAULTS)
def test_each_fault_of_a_detector_is_found(spoil, message):
    with pytest.raises(PluginError, match=message):
        require(check_detector(spoiled_detector(spoil)), "spoiled")


def test_construction_faults_are_found():
    detector = Listener().train()
    detector.activation = nn.ReLU(inplace=True)
    detector.name = ""
    found = "; ".join(map(str, check_detector(detector)))
    assert "a loaded detector must be in eval mode (4 modules are not)" in found
    assert "no module may work in place, which falsifies hooks (activation)" in found
    assert "registered under a name (Listener)" in found


def test_wrong_hidden_states_are_found():
    detector = Listener()
    detector.hidden_states = lambda waveform: torch.zeros(2, 3)
    assert "hidden states must have shape (L, B, N', D) ((2, 3) for 2 clips)" in map(str, check_detector(detector))


def test_findings_become_one_sentence():
    require([], "mine")
    with pytest.raises(PluginError, match=r"^mine must keep the contract, got 2 broken rule\(s\): a \(b\); c \(d\); mend them$"):
        require([Finding("a", "b"), Finding("c", "d")], "mine")


def test_example_clips_are_equal_on_every_call_and_differ_from_each_other():
    clips = example_clips(SAMPLES)
    assert torch.equal(clips, example_clips(SAMPLES))
    assert not torch.equal(clips[0], clips[1])
    assert clips.abs().max() < 1
