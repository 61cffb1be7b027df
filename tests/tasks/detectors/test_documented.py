"""What docs/detectors.md tells the reader to type does what it says."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from xaibench.benchmark.check import check_detector, check_explainer, example_clips
from xaibench.errors import WeightsError
from xaibench.registry import DETECTORS, EXPLAINERS

PAGE = (Path(__file__).resolve().parents[3] / "docs/detectors.md").read_text(encoding="utf-8")


class MyModel(torch.nn.Module):
    """Somebody's module: two logits from the loudness of four bands."""

    def __init__(self) -> None:
        super().__init__()
        self.bands, self.readout = torch.nn.Conv1d(1, 4, 64, stride=32), torch.nn.Linear(4, 2)

    def forward(self, waveform):
        return self.readout(self.bands(waveform[:, None]).square().mean(2))


def test_the_recipe_for_a_bare_module_makes_a_detector(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_models", types.SimpleNamespace(MyModel=MyModel))
    monkeypatch.setitem(DETECTORS._loaded, "my_detector", None)
    del DETECTORS._loaded["my_detector"]
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/detectors.md", "exec"), {"__name__": "my_package.detector"})
    model = MyModel()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    detector, clips = DETECTORS.load("my_detector", weights=str(tmp_path / "model.pth")), example_clips(16_000)
    with torch.no_grad():
        assert torch.equal(detector(clips), model(clips)[:, 1] - model(clips)[:, 0])
    assert not check_detector(detector, samples=clips)
    assert not check_explainer(EXPLAINERS.load("input_x_gradient"), detector, samples=clips)
    torch.save({"bands.weight": model.bands.weight.data}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"3 missing keys: bands\.bias, readout\.bias, readout\.weight"):
        DETECTORS.load("my_detector", weights=str(tmp_path / "part.pth"))


def test_the_page_names_every_detector_and_every_option_of_its_commands():
    from typer.testing import CliRunner

    from xaibench.cli.train import app

    named = set(re.findall(r"`([a-z0-9_]+)`", PAGE.split("## Loading")[0]))
    assert {name for name in DETECTORS.names() if name != "my_detector"} <= named
    told = CliRunner().invoke(app, ["detector", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    commands = "\n".join(re.findall(r"```\n(xaibench train.*?)```", PAGE, re.DOTALL))
    options = set(re.findall(r"--[a-z][a-z-]+", commands))
    assert len(options) >= 6
    assert not {option for option in options if option not in told}
