"""The command line answers fast, says one sentence on error, and returns the exit code of the kind of ending."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = str(Path(sys.executable).parent / "xaibench")


def xaibench(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120, check=False, **options)


def processor_seconds() -> float:
    """Seconds that finished child processes have spent so far."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_help_is_fast_and_imports_no_torch():
    code = "import sys; sys.argv = ['xaibench', '--help']\nfrom xaibench.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
    code += "    assert end.code == 0\nassert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    times = []
    for _ in range(3):
        start = processor_seconds()
        result = xaibench("--help")
        times.append(processor_seconds() - start)
    assert result.returncode == 0
    assert "run" in result.stdout
    assert min(times) < 0.5  # what an idle machine takes; clocks on the wall also count what runs beside


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--explainer", "specsegdif"], 2, "explainer must be a registered name, got 'specsegdif'; did you mean specsegdiff"),
        (["run", "--task", "minivok"], 2, "task must be a registered name, got 'minivok'; did you mean minivoc"),
        (["run", "--detector", "aasist_x"], 2, "detector must be a registered name, got 'aasist_x'; did you mean aasist"),
        (["run", "--limit", "0"], 2, "Invalid value for '--limit'"),
        (["run", "--explainer", "gradient_shap:samples=3"], 2, "got 'samples'; did you mean n_samples?"),
        (["run", "--detector", "aasist", "--detector-weights", "nowhere.pth"], 2, "nowhere.pth"),
        (["info", "explainer", "enregy"], 2, "did you mean energy"),
        (["list", "explainer_s"], 2, "kind must be one of explainers"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["data", "get", "minivox"], 2, "got 'minivox'"),
        (["report", "no/such/run"], 2, "no/such/run"),
        (["explain", "no-such-file.wav"], 2, "no-such-file.wav"),
    ],
)
def test_errors_are_one_sentence_with_an_exit_code(arguments: list[str], code: int, message: str, tmp_path: Path):
    result = xaibench(*arguments, cwd=tmp_path)
    said = " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr, result.stderr
    assert message in said
    assert result.returncode == code
    assert not list(tmp_path.rglob("DONE"))


def test_info_explains_an_explainer_with_its_options():
    result = xaibench("info", "explainer", "oracle_ig")
    assert result.returncode == 0
    assert "1703.01365" in result.stdout
    assert "n_steps" in result.stdout
    assert "8" in result.stdout


def test_doctor_finds_no_broken_plugin():
    result = xaibench("doctor")
    assert result.returncode == 0, result.stderr
    assert "failed to load" not in result.stdout
