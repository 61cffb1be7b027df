"""The reusable action and its example can run on GitHub: valid YAML, inputs that exist, scripts that pass words and exit codes on."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; pip install 'xaibench[docs]'")
GITHUB = Path(__file__).parents[2] / ".github"
ACTION = yaml.safe_load((GITHUB / "actions/gate/action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]


def test_the_example_gives_the_action_inputs_that_it_has_and_writes_nothing():
    workflow = yaml.safe_load((GITHUB / "workflows/gate.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert list(workflow[True]) == ["pull_request"]  # YAML reads the key `on` as a truth value
    (used,) = [step for step in workflow["jobs"]["gate"]["steps"] if step.get("uses", "").startswith("./")]
    assert (GITHUB.parent / used["uses"] / "action.yml").is_file()
    required = {name for name, told in ACTION["inputs"].items() if told.get("required")}
    assert required <= set(used["with"]) <= set(ACTION["inputs"])
    for name in ("baseline", "rules"):
        assert (GITHUB.parent / used["with"][name]).is_file()


def test_inputs_reach_scripts_as_variables_and_never_as_text():
    for step in STEPS:
        assert "${{" not in step["run"]
        asked = re.findall(r"inputs\.(\w+)", " ".join(step["env"].values()))
        assert set(asked) <= set(ACTION["inputs"])


@pytest.mark.parametrize("code", [0, 4, 5, 9])
def test_the_steps_pass_words_and_the_gates_exit_code_on(tmp_path, code):
    fake = tmp_path / "bin" / "xaibench"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "<%s>" "$@" >> {tmp_path}/said\n[ "$1" = run ] || exit {code}\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    values = {"run": "--explainer mine --limit 2 $(touch harmed)", "folder": "a run", "baseline": "b.json", "rules": "r.toml"}
    inputs = {name: values.get(name, told.get("default", "")) for name, told in ACTION["inputs"].items()}
    ends = []
    for step in STEPS:
        filled = {name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: inputs[m[1]], text) for name, text in step["env"].items()}
        place = {**os.environ, **filled, "PATH": f"{fake.parent}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(tmp_path / "output")}
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], env=place, cwd=tmp_path, check=False)
        ends.append(done.returncode)
    assert ends == [0, code]
    assert (tmp_path / "output").read_text() == f"code={code}\n"
    assert not (tmp_path / "harmed").exists()
    said = (tmp_path / "said").read_text()
    assert said.startswith("<run><--explainer><mine><--limit><2><$(touch><harmed)><--out><a run><--no-report>")
    assert "<gate><a run><--baseline><b.json><--rules><r.toml><--junit><xaibench-gate.xml>" in said
