"""Both tracks from a scaffold to a row on the leaderboard, and what is refused on the way."""

import importlib.util
import json
import shutil
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import SUITE, ToyTask, toy_run

from xaibench.errors import ExitCode, IsolationError, PluginError, SubmissionError
from xaibench.leaderboard.sandbox import probe as probing
from xaibench.leaderboard.sandbox.box import agreement
from xaibench.leaderboard.sandbox.ladder import JAILS
from xaibench.leaderboard.sandbox.probe import Finding, choose, probe
from xaibench.leaderboard.sandbox.variation import MAX_SHIFT, Variation
from xaibench.leaderboard.site import build
from xaibench.leaderboard.submission.new import new_explainer, new_results
from xaibench.leaderboard.submission.pack import pack_code, pack_run
from xaibench.leaderboard.submission.package import Package
from xaibench.leaderboard.submission.running import GivenCode
from xaibench.leaderboard.submission.scoring import score
from xaibench.tasks.masks import mask

FEW = replace(SUITE, budgets={"quick": replace(SUITE.budgets["quick"], clips=4)}, min_clips=3)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return new_explainer("gradient_view", tmp_path_factory.mktemp("projects"))


@pytest.fixture(scope="module")
def jail():
    """The strongest jail of this machine, or a visible skip."""
    for candidate in JAILS:
        if not probe(candidate).problem:
            return candidate
    pytest.skip("no isolation works here: " + "; ".join(f"{j}: {probe(j).problem}" for j in JAILS))


def facts(project, place):
    card = tomllib.loads((project / "submission.toml").read_text())
    return {
        **card,
        "suite": place.suite.name,
        "task": {"name": "toy", "fingerprint": place.task.fingerprint()},
        "detector": {"name": "toy_detector", "fingerprint": place.detector.fingerprint()},
    }


def load(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    spec = importlib.util.spec_from_file_location("gradient_view", project / "gradient_view.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gradient_view", module)
    spec.loader.exec_module(module)
    return module.GradientView()


def few(place):
    return replace(place, suite=FEW)


def row_of(report: Path, label: str) -> str:
    text = report.read_text(encoding="utf-8")
    start = text.index(f'data-row="{label}"')
    return text[text.rindex("<tr", 0, start) : text.index("</tr>", start)]


def test_heatmaps_go_from_a_scaffold_to_a_row_of_the_leaderboard(project, place, tmp_path, monkeypatch):
    run = toy_run(tmp_path / "run", load(project, monkeypatch), suite=FEW)
    path = pack_run(run.path, tmp_path, {"authors": ["A. Author"], "licence": "CC0-1.0", "version": "1.0"}, explainer="gradient_view")
    with Package(path) as package:
        results = score(package, few(place), tmp_path / "scored", jobs=1)
    row = row_of(build(results.path, tasks={"toy": place.task}, detectors={"toy_detector": place.detector}), "gradient_view@1.0")
    assert "B · heatmaps" in row
    assert "tag on" in row
    greyed = shutil.copytree(results.path, tmp_path / "greyed")
    text = (greyed / "summary.json").read_text()
    told = {"track": "code", "isolation": "L2 Landlock and seccomp", "trusted": False, "covered": 3}
    summary = json.loads(text)
    summary["origins"]["gradient_view@1.0"] |= told
    (greyed / "summary.json").write_text(json.dumps(summary))
    row = row_of(build(greyed, samples=0), "gradient_view@1.0")
    assert "C · code · L2 Landlock and seccomp · partial 3 of 4 · not isolated" in row
    assert 'class="outside"' in row
    assert "tag not" in row


def test_code_goes_from_a_scaffold_through_the_sandbox_to_a_row_that_shows_its_isolation(project, place, jail, tmp_path, monkeypatch):
    with Package(pack_code(project, tmp_path, facts(project, place))) as package:
        assert set(package.code()) == {"gradient_view.py"}
        results = score(package, few(place), tmp_path / "scored", jobs=1, given=GivenCode(package, place, jail))
    origin = results.summary.origins["gradient_view@1.0"]
    assert (origin.track, origin.isolation, origin.trusted, origin.covered) == ("code", str(jail), jail.level >= 3, 4)
    assert origin.repeatability > 0.4  # of a map that is a twentieth by chance; the toy detector hears the gain
    frame = results.frame[results.frame.explainer == "gradient_view@1.0"]
    assert set(frame[frame.metric == "forwards"].value) == set(frame[frame.metric == "backwards"].value) == {1.0}
    row = row_of(build(results.path, tasks={"toy": place.task}, detectors={"toy_detector": place.detector}), "gradient_view@1.0")
    assert f"C · code · {jail}" in row
    inside = toy_run(tmp_path / "run", load(project, monkeypatch), suite=FEW).table().set_index("explainer")
    assert results.table().set_index("explainer").loc["gradient_view@1.0", "mean"] == pytest.approx(
        inside.loc["gradient_view", "mean"], abs=0.02
    )


HEAD = """
from dataclasses import dataclass
import os, sys, time
import torch
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude
from xaibench.types import Explainer

@EXPLAINERS.register("gradient_view")
@dataclass(frozen=True)
class GradientView(Explainer):
    polarity = "magnitude"
    needs = frozenset({"gradients"})
    stft: STFTConfig = DEFAULT_STFT

    def explain(self, waveform, detector, *, references=None, generator=None):
"""
BODIES = {
    "different maps": (
        "        return magnitude(waveform, self.stft) + int.from_bytes(os.urandom(2), 'big')\n",
        SubmissionError,
        "equal clips and seeds must give equal maps",
    ),
    "another declaration": ("        return waveform\n", PluginError, "card must declare polarity, by_recipe and needs as the plugin does"),
    "no import": ("import nothing_like_this\n", PluginError, "ModuleNotFoundError"),
    "false facts": (
        "import json, os, struct\nhead = json.dumps({'kind': 'ready', 'facts': {'needs': 5}, 'shapes': {}}).encode()\n"
        "for handle in range(3, 64):\n    try:\n        os.write(handle, struct.pack('>II', len(head), 0) + head)\n"
        "    except OSError:\n        pass\n",
        PluginError,
        "plugin must declare applies",
    ),
    "no class": ("", PluginError, "plugin must load"),
}


@pytest.mark.parametrize(("body", "error", "words"), BODIES.values(), ids=BODIES.keys())
def test_code_that_lies_or_breaks_is_refused(project, place, jail, tmp_path, body, error, words):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    text = HEAD.replace('"magnitude"', '"signed"') if "declare" in words else HEAD
    (hostile / "gradient_view.py").write_text(body if not body.startswith(" ") else text + body)
    with Package(pack_code(hostile, tmp_path, facts(project, place))) as package, pytest.raises(error, match=words):
        score(package, few(place), tmp_path / "scored", jobs=1, faithfulness=False, given=GivenCode(package, place, jail))


def test_clips_on_which_code_dies_or_sleeps_fail_alone(project, place, jail, tmp_path):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    body = "        n = int(1e4 * float(waveform.abs().sum())) % 3\n        os._exit(3) if n == 0 else time.sleep(60) if n == 1 else None\n"
    (hostile / "gradient_view.py").write_text(HEAD + body + "        return magnitude(waveform, self.stft)\n")
    with Package(pack_code(hostile, tmp_path, facts(project, place))) as package:
        given = GivenCode(package, place, jail, timeout_s=1.0)
        given._chosen = lambda plan: set()
        plan_of_clips = {}
        for record in given.records(_plan(package, few(place), given), _folder(tmp_path)):
            plan_of_clips[record.unit.clip.pair] = record.status
    assert len(plan_of_clips) == 4
    assert set(plan_of_clips.values()) <= {"ok", "error", "timeout"}
    assert given.origin().covered == 4


def test_code_that_stops_applying_after_a_clip_of_its_choice_is_partial(project, place, jail, tmp_path):
    """Dying on one clip and declining the others would keep a lucky start."""
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    body = "        return magnitude(waveform, self.stft)\n\n    def applicable(self, detector):\n        return False, 'tired'\n"
    (hostile / "gradient_view.py").write_text(HEAD + body)
    with Package(pack_code(hostile, tmp_path, facts(project, place))) as package:
        given = GivenCode(package, place, jail)
        statuses = [record.status for record in given.records(_plan(package, few(place), given), _folder(tmp_path))]
    assert statuses == ["not_applicable"] * 4
    assert given.origin().partial


def _folder(tmp_path):
    (tmp_path / "heatmaps").mkdir()
    return tmp_path


def _plan(package, place, given):
    from xaibench.benchmark.plan import make_plan
    from xaibench.benchmark.world import World

    world = World(
        place.suite,
        {"toy": place.task},
        {"toy_detector": place.detector},
        {"toy": "toy_detector"},
        {package.card.label: given.explainer},
        0,
    )
    return make_plan(world, place.suite.budgets["quick"], "quick", None, ())


def test_code_of_strangers_is_refused_below_level_three_and_greyed_where_somebody_vouches_for_it(monkeypatch):
    weak = {jail: Finding(jail, "" if jail.level < 3 else "not here") for jail in JAILS}
    monkeypatch.setattr(probing, "probe", weak.__getitem__)
    with pytest.raises(IsolationError, match="isolation of L3 or stronger must be possible here") as caught:
        choose()
    assert caught.value.exit_code == ExitCode.ISOLATION_UNAVAILABLE == 7
    with pytest.raises(IsolationError, match=r"isolation of L2 must be possible here.*code of strangers"):
        choose(2)
    assert choose(trusted=True).level == 2
    assert choose(1, trusted=True).level == 1


def test_a_varied_clip_cannot_be_looked_up_and_its_truth_stays_where_it_was():
    task = ToyTask()
    for pair in task.pairs("test")[:4]:
        clip = task.load(pair)
        heard = Variation.draw().of(clip.spoof[None])
        assert not torch.equal(heard, clip.spoof[None])
        assert len({Variation.draw().of(clip.spoof[None]).numpy().tobytes() for _ in range(20)}) == 20
        late = Variation(1.5, MAX_SHIFT)
        one = mask(clip.bonafide[None], clip.spoof[None], stft=task.stft)
        other = mask(late.of(clip.bonafide[None]), late.of(clip.spoof[None]), stft=task.stft)
        assert agreement(one.float(), other.float()) > 0.8


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Gradient", "name must match"),
        ("1st", "begin with a letter"),
        ("energy", "must be new"),
        ("random.x", "folder"),
        ("json", "must not hide a module"),
    ],
)
def test_names_that_cannot_be_a_project_are_refused(tmp_path, name, words):
    if words == "folder":
        (tmp_path / name).mkdir()
    with pytest.raises(PluginError, match=words):
        new_explainer(name, tmp_path)


def test_the_workflows_give_forks_no_secret_and_no_right_to_write(tmp_path):
    """What runs on a pull request reads alone; the key is in reach of the job that runs on what was merged."""
    text = (new_results("results", tmp_path) / ".github/workflows/submissions.yml").read_text()
    check, sign = text.split("\n  sign:\n")
    assert "pull_request_target" not in text
    assert "secrets." not in check
    assert "write" not in check.partition("jobs:")[2]
    assert "permissions: {}" in check
    assert "github.event_name == 'push'" in sign
    assert "environment: scoring" in sign
    assert "submit run" not in text
    assert "$$" not in text
    for line in text.splitlines():
        if "${{" in line:  # expressions in variables alone, never pasted into a script
            assert line.strip().split(":")[0] in {"BASE", "GH_TOKEN", "XAIBENCH_SIGNING_KEY"}, line


CHANGES = {
    "a package added": (lambda base: (base / "new-1.xaib.zip").write_bytes(b"x"), 0),
    "another's package changed": (lambda base: (base / "old-1.xaib.zip").write_bytes(b"y"), 1),
    "another's package removed": (lambda base: (base / "old-1.xaib.zip").unlink(), 1),
    "another's package renamed": (lambda base: (base / "old-1.xaib.zip").rename(base / "old-2.xaib.zip"), 1),
    "a link": (lambda base: (base / "new-1.xaib.zip").symlink_to("/etc/passwd"), 1),
    "a record": (lambda base: (base.parent / "record.json").write_text("{}"), 1),
    "a strange name": (lambda base: (base / 'a"; id #.xaib.zip').write_text("x"), 1),
}


@pytest.mark.parametrize(("change", "code"), CHANGES.values(), ids=CHANGES.keys())
def test_the_workflow_takes_a_new_package_and_nothing_else(tmp_path, change, code):
    """The step of the workflow as it stands, run on a pull request."""
    text = (new_results("results", tmp_path) / ".github/workflows/submissions.yml").read_text()
    script = textwrap.dedent(
        text.partition("name: Records are written by the other job alone\n        run: |\n")[2].partition("        env:")[0]
    )
    clone, origin = tmp_path / "clone", tmp_path / "origin.git"
    environment = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "PATH": "/usr/bin:/bin", "BASE": "main"}
    names = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*arguments):
        subprocess.run(["git", *arguments], cwd=clone, check=True, capture_output=True, env=environment | names)

    (clone / "submissions").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", "--bare", str(origin)], check=True, env=environment)
    git("init", "--quiet", "-b", "main")
    (clone / "submissions/old-1.xaib.zip").write_bytes(b"another's")
    for step in (["add", "."], ["commit", "-qm", "old"], ["remote", "add", "origin", str(origin)], ["push", "-q", "origin", "main"]):
        git(*step)
    git("checkout", "-q", "-b", "theirs")
    change(clone / "submissions")
    git("add", "--all")
    git("commit", "-qm", "new")
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=clone, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.slow
def test_a_scaffold_builds_and_passes_its_own_tests_as_it_comes_out(project, tmp_path):
    """Built and installed without a network into a folder of its own; found by its entry point."""
    site = tmp_path / "site"
    copy = shutil.copytree(project, tmp_path / "copy")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(site),
        str(copy),
    ]
    subprocess.run(pip, check=True, timeout=300)
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    listed = subprocess.run(
        [str(Path(sys.executable).parent / "xaibench"), "list", "explainers"], capture_output=True, text=True, check=True, env=environment
    )
    assert "gradient_view" in listed.stdout
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(project)], capture_output=True, text=True, check=False, env=environment, cwd=project
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "2 passed" in tested.stdout
