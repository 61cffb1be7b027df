"""The GPU script runs from end to end at the smallest size, goes on where it stopped, and measures what it says."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.main import get_command

from xaibench.cli.train import app
from xaibench.explainers.segdiff import measure as measuring
from xaibench.explainers.segdiff.measure import against_the_paper, measure
from xaibench.explainers.segdiff.network import CONFIGS, parameters
from xaibench.explainers.segdiff.weights import preset
from xaibench.tasks.manifest import write_manifest
from xaibench.types import Pair

SCRIPT = Path(measuring.__file__).with_name("gpu.sh")


def test_measurements_are_complete_and_count_operations() -> None:
    found = measure("tiny", batch_size=2, repeats=1)
    with torch.device("meta"):
        assert found["parameters"] == parameters(preset("specsegdiff", "tiny").build())
    assert found["train_clips_per_s"] > 0
    assert found["train_flop_utilisation"] is None  # the peak of a CPU is in no table
    assert 0 < found["explain_s_per_clip"] < 30
    convolution = 2 * 16 * 16 * 9 * 64 * 32  # one 3 x 3 convolution of 16 channels on the folded grid of 64 x 32 places
    assert found["train_tflop_per_clip"] * 1e12 > 3 * 10 * convolution


def test_the_papers_procedure_costs_many_times_the_default() -> None:
    model = preset("specsegdiff", "tiny")
    times = against_the_paper(model.build().eval(), model, torch.zeros(1, 3, 512, 64), steps=1)
    assert times["times_faster"] == pytest.approx(times["paper_s"] / times["default_s"])
    assert times["times_faster"] > 60


def test_the_command_that_waits_for_a_gpu_asks_for_base_and_paper(tmp_path: Path) -> None:
    """The command of docs/gpu.md, run as it stands with programs that only write down what they are asked for."""
    page = (Path(__file__).parents[3] / "docs/gpu.md").read_text()
    command = shlex.split(next(line for line in page.splitlines() if line.startswith("explainers/segdiff/gpu.sh")))
    recorder, asked = tmp_path / "recorder", tmp_path / "asked.jsonl"
    recorder.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "if sys.argv[1] == '-c':\n    exec(sys.argv[2])\nelse:\n"
        f"    open({str(asked)!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))\n"
    )
    recorder.chmod(0o755)
    environment = os.environ | {"PYTHON": str(recorder), "XAIBENCH": str(recorder)}
    subprocess.run(["bash", str(SCRIPT), *command[1:]], check=True, cwd=tmp_path, env=environment, capture_output=True, timeout=60)
    calls = [json.loads(line) for line in asked.read_text().splitlines()]
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    trained = []
    for method, *options in (call[1:] for call in calls if call[0] == "train"):
        given = verbs[method].make_context(method, options).params  # as `xaibench train` reads them
        trained.append((given["config"], method, given["device"], given["precision"], given["minutes"]))
    methods, minutes = ("one_shot", "specsegdiff"), float(command[command.index("--minutes") + 1])
    assert trained == [(config, method, "cuda", "bf16", minutes / 4) for config in ("base", "paper") for method in methods]
    measured = [call[call.index("--config") + 1] for call in calls if call[0] == "-m"]
    assert measured == ["base", "paper"]
    assert [call[0] for call in calls].count("run") == 2


@pytest.mark.slow
def test_the_gpu_script_trains_measures_and_goes_on(tmp_path: Path) -> None:
    data, generator = tmp_path / "data", np.random.default_rng(0)
    pairs = []
    for i, split in enumerate(("train", "train", "dev", "test", "test")):
        swell = np.abs(np.sin(np.arange(64_600) / 3000))
        speech = 0.1 * np.convolve(generator.standard_normal(64_600), np.ones(4) / 4, "same") * (0.2 + swell)
        copy = speech + 0.02 * np.convolve(generator.standard_normal(64_600), [1, -1], "same") * swell
        for side, samples in (("bonafide", speech), ("spoof/noisy", copy)):
            (data / side).mkdir(parents=True, exist_ok=True)
            soundfile.write(data / side / f"s{i}_a.wav", samples, 16_000)
        pairs.append(Pair(f"p{i}", f"s{i}_a", f"s{i}", "noisy", f"bonafide/s{i}_a.wav", f"spoof/noisy/s{i}_a.wav", split=split))  # type: ignore[arg-type]
    write_manifest(data / "manifest.csv", pairs)
    environment = os.environ | {"PYTHON": sys.executable, "XAIBENCH": str(Path(sys.executable).with_name("xaibench"))}
    environment |= {"XAIBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    options = ["--minutes", "0.1", "--configs", "tiny", "--device", "cpu", "--precision", "float32", "--batch-size", "2", "--steps", "4000"]
    command = ["bash", str(SCRIPT), "--task", f"folder:data={data}", "--out", str(tmp_path / "out"), *options]
    for _ in range(2):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "out" / "measured.jsonl").read_text().splitlines()]
    assert [line["config"] for line in lines] == ["tiny", "tiny"]
    for method in ("one_shot", "specsegdiff"):
        folder = tmp_path / "out" / "tiny" / method
        steps = [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1))
        assert json.loads((folder / f"{method}-folder.json").read_text())["steps"] == len(steps)
    assert "specsegdiff" in (tmp_path / "out" / "scores-tiny.txt").read_text()
    assert CONFIGS["tiny"].stem == (8, 8)
