"""Whatever a plugin does to the detector or the process is told and undone."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import ToyDetector

from xaibench.benchmark.seal import Seal


class Network(ToyDetector):
    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(3)
        self.heard = 0


def state(detector):
    tensors = {name: value.clone() for name, value in detector.state_dict().items()}
    here = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), Path.cwd(), dict(os.environ))
    modes = [(name, m.training, type(m), "forward" in m.__dict__, len(m._forward_hooks)) for name, m in detector.named_modules()]
    return tensors, here, modes, [p.requires_grad for p in detector.parameters()]


DEEDS = {
    "parameter slope": lambda d: setattr(d.slope, "data", torch.tensor(3.0)),
    "parameter inner.weight": lambda d: setattr(d.inner.weight, "data", torch.ones(3, dtype=torch.float64)),
    "parameter inner.running_mean": lambda d: d.inner.running_mean.add_(1),
    "set of parameters, buffers or submodules": lambda d: d.register_buffer("notes", torch.zeros(2)),
    "set of parameters, buffers or submodules of inner": lambda d: setattr(d.inner, "weight", nn.Parameter(torch.ones(3))),
    "training mode of inner": lambda d: d.inner.train(),
    "hooks of inner": lambda d: d.inner.register_forward_pre_hook(lambda *_: None, with_kwargs=True),
    "method": lambda d: setattr(d, "forward", lambda waveform: waveform.mean(-1)),
    "method of inner": lambda d: setattr(d.inner, "__class__", nn.Identity),
    "requires_grad": lambda d: d.slope.requires_grad_(True),
    "default dtype of torch": lambda _: torch.set_default_dtype(torch.float64),
    "number of threads": lambda _: torch.set_num_threads(torch.get_num_threads() + 1),
    "grad mode": lambda _: torch.set_grad_enabled(False),
    "working directory": lambda _: os.chdir("/"),
    "environment variable": lambda _: os.environ.update(PATH="/nowhere"),
}


@pytest.mark.parametrize("named", DEEDS)
def test_every_change_is_named_and_undone(named):
    detector = Network().eval().requires_grad_(False)
    before, seal = state(detector), Seal(detector)
    assert seal.broken() == ""
    DEEDS[named](detector)
    found = seal.broken()
    seal.mend()
    assert found == named
    assert seal.broken() == ""
    after = state(detector)
    assert before[1:] == after[1:]
    assert before[0].keys() == after[0].keys()
    assert all(v.dtype == after[0][n].dtype and torch.equal(v, after[0][n]) for n, v in before[0].items())


def test_a_new_submodule_is_removed_with_its_parameters():
    detector = Network().eval().requires_grad_(False)
    seal = Seal(detector)
    detector.extra = nn.Linear(2, 2)
    assert seal.broken() == "set of parameters, buffers or submodules"
    seal.mend()
    assert [name for name, _ in detector.named_modules()] == ["", "inner"]


def test_a_cache_of_the_detector_and_variables_of_late_imports_are_no_offence():
    detector = Network().eval().requires_grad_(False)
    seal = Seal(detector)
    detector.heard += 1
    os.environ["A_LIBRARY_SAYS"] = "1"
    assert seal.broken() == ""
    seal.mend()
    assert detector.heard == 1
    assert "A_LIBRARY_SAYS" not in os.environ
