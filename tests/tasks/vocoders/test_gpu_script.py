"""The GPU script trains every vocoder at the smallest size, goes on where it stopped, and prints what the cards say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xaibench.tasks.vocoders.neural import job

SCRIPT = Path(job.__file__).with_name("gpu.sh")


@pytest.mark.slow
def test_the_gpu_script_trains_scores_and_goes_on(speech_folder: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable, "XAIBENCH": str(Path(sys.executable).with_name("xaibench"))}
    environment |= {"XAIBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    names = "hn_nsf vocos hifigan waveglow diffwave"
    options = ["--config", "tiny", "--device", "cpu", "--batch-size", "1", "--vocoders", names, "--adversarial-after", "2"]
    command = ["bash", str(SCRIPT), "--minutes", "0.2", "--speech", str(speech_folder), "--out", str(tmp_path / "out"), *options]
    steps: dict[str, list[int]] = {}
    for _ in range(2):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=280)
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in (tmp_path / "out/scores.txt").read_text().splitlines()[1:]]
        assert [row[0] for row in rows] == names.split()
        for row in rows:
            card = json.loads((tmp_path / "out" / row[0] / f"{row[0]}.json").read_text())
            assert int(row[1]) == card["steps"]
            assert float(row[3]) == pytest.approx(card["scores"]["log_mel_db"], abs=0.006)
            steps.setdefault(row[0], []).append(card["steps"])
    assert all(first < second for first, second in steps.values())


def test_the_gpu_script_says_what_it_needs() -> None:
    done = subprocess.run(["bash", str(SCRIPT), "--minutes", "1"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--speech must name a folder of recordings" in done.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_does(speech_folder: Path, tmp_path: Path) -> None:
    """Without discriminators bit for bit up to rounding; with them the run ends, and the first process alone writes."""
    pytest.importorskip("accelerate", reason="accelerate joins the processes")
    environment = os.environ | {"XAIBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("xaibench")), "train", "vocoder", "vocos", "--speech", str(speech_folder)]
    options = ["--config", "tiny", "--steps", "6", "--batch-size", "4", "--frames", "12"]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    losses = {}
    for name, start, after in (("one", [], "-1"), ("two", two, "-1"), ("judged", two, "2")):
        call = [*start, *command, *options, "--adversarial-after", after, "--out", str(tmp_path / name)]
        done = subprocess.run(call, check=False, capture_output=True, text=True, env=environment, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        losses[name] = [json.loads(line)["loss"] for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        assert json.loads((tmp_path / name / "vocos.json").read_text())["steps"] == 6
    assert losses["two"] == pytest.approx(losses["one"], rel=2e-3)
    assert len(losses["judged"]) == 6
    assert losses["judged"][:3] == pytest.approx(losses["one"][:3], rel=2e-3)
