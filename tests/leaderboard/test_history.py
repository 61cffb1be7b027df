"""The history of a folder of runs says what changed, marks regressions, escapes everything, and stays small over a thousand runs."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xaibench.cli import app
from xaibench.errors import RunError
from xaibench.leaderboard.history import RUNS_PER_PAGE, build_history

HOSTILE = "</td></table><script>window.hacked=1</script>\u202e\x00'\""


def row(explainer, mean, width=0.05, *, metric="generalized_dice", part="all", **more):
    return {
        **{"task": "toy", "detector": "toy_detector", "explainer": explainer, "title": explainer, "recipe": "sym", "occluder": ""},
        **{
            "control": False,
            "oracle": False,
            "polarity": "declared",
            "metric": metric,
            "slice": part,
            "n": 500,
            "n_total": 500,
            "note": "",
        },
        **{"mean": mean, "low": None if mean is None else mean - width, "high": None if mean is None else mean + width},
        **more,
    }


def write(folder: Path, day: str, rows, *, protocol="p", weights="w", done=True) -> Path:
    folder.mkdir(parents=True)
    head = {
        **{"schema_version": 1, "run": "r", "suite": "suite", "suite_sha256": protocol, "tier": "quick", "n_units": 1, "n_by_status": {}},
        **{
            "tasks": [{"name": "toy", "fingerprint": "f"}],
            "detectors": [{"task": "toy", "detector": "toy_detector", "fingerprint": weights}],
        },
    }
    dump = lambda value: json.dumps(value, sort_keys=True, separators=(",", ":"))  # noqa: E731
    lines = ",\n".join(map(dump, rows))
    (folder / "summary.json").write_text(f'{dump(head).removesuffix("}")},"rows":[\n{lines}\n]}}\n')
    (folder / "manifest.json").write_text(json.dumps({"started_at": f"2026-01-{day}T00:00:00+00:00"}))
    if done:
        (folder / "DONE").write_text("r\n")
    return folder


class Cells(HTMLParser):
    """Collects the sections of a page: their heading, rows of cells, and links; and every tag."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.tags, self.place = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.place = tag if tag in ("h2", "td", "th", "p") else self.place
        if tag == "section":
            self.sections.append({"head": "", "rows": [], "links": [], "said": ""})
        elif tag == "tr" and self.sections:
            self.sections[-1]["rows"].append([])
        elif tag in ("td", "th") and self.sections:
            self.sections[-1]["rows"][-1].append("")
        elif tag == "a" and self.sections:
            self.sections[-1]["links"].append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        self.place = "" if tag in ("h2", "td", "th", "p") else self.place

    def handle_data(self, data):
        if not self.sections:
            return
        if self.place == "h2":
            self.sections[-1]["head"] += data
        elif self.place == "p":
            self.sections[-1]["said"] += data
        elif self.place in ("td", "th"):
            self.sections[-1]["rows"][-1][-1] += data


def read(page):
    return Cells(Path(page).read_text(encoding="utf-8"))


def told(section):
    return {cells[0]: (cells[5], cells[6], cells[8].strip()) for cells in section["rows"][1:]}


def test_changes_are_against_the_last_run_that_asked_the_same(tmp_path):
    noise = [row("mine", 0.1, metric="auroc"), row("mine", 0.2, part="seen"), row("mine", 0.3, polarity="magnitude")]
    write(tmp_path / "a", "01", [*noise, row("mine", 0.40), row("other", 0.30), row("energy", 0.10, control=True)])
    write(tmp_path / "b", "02", [row("mine", 0.90)], weights="another detector")
    write(tmp_path / "deep" / "er" / "c", "03", [row("mine", 0.42), row("other", 0.10), row("energy", 0.30, control=True)])
    write(tmp_path / "d", "04", [row("mine", 0.20, 0.25), row("other", None, note="not enough clips"), row("fresh", 0.5)])
    write(tmp_path / "e", "05", [row("mine", 0.1)], protocol="another suite")
    write(tmp_path / "unfinished", "06", [row("mine", 0.1)], done=False)
    (tmp_path / "d" / "report").mkdir()
    (tmp_path / "d" / "report" / "index.html").write_text("x")
    page = build_history(tmp_path)
    assert page == tmp_path / "history" / "index.html"
    e, d, c, b, a = read(page).sections
    assert [s["head"][:10] for s in (a, b, c, d, e)] == [f"2026-01-0{n}" for n in range(1, 6)]
    assert told(a) == {"mine": ("40.0", "35.0 to 45.0", ""), "other": ("30.0", "25.0 to 35.0", ""), "energy": ("10.0", "5.0 to 15.0", "")}
    assert told(b)["mine"][2] == ""  # another detector
    assert [told(c)[name][2] for name in ("mine", "other", "energy")] == ["+2.0", "−20.0 ▼ regression", "+20.0 ▲ better"]
    assert told(d)["mine"][2] == "−22.0"  # its interval is too wide to say so
    assert told(d)["othernot enough clips"] == ("–", "", "▼ no value any more")
    assert told(d)["fresh"][2] == ""
    assert told(e)["mine"][2] == ""  # another protocol
    assert (d["links"], c["links"]) == (["../d/report/index.html"], [])
    assert "5 runs, 2 regressions" in page.read_text(encoding="utf-8")


def test_what_cannot_be_read_says_why_and_hides_no_other(tmp_path):
    write(tmp_path / "a", "01", [row("mine", 0.4)])
    write(tmp_path / "b", "02", [row("mine", 0.4)])
    (tmp_path / "b" / "summary.json").write_text("{")
    write(tmp_path / "c", "03", [row("mine", 0.4)])
    found = json.loads((tmp_path / "c" / "summary.json").read_text())
    (tmp_path / "c" / "summary.json").write_text(json.dumps({**found, "schema_version": 99}))
    write(tmp_path / "d", "04", [])
    torn = (write(tmp_path / "e", "05", [row("mine", 0.4), row("other", 0.4)]) / "summary.json").read_bytes()
    (tmp_path / "e" / "summary.json").write_bytes(torn[:-200])
    (tmp_path / "d" / "summary.json").write_text(json.dumps({**found, "rows": [row("mine", 0.1)]}, indent=2))  # by another hand
    e, d, c, b, a = read(build_history(tmp_path)).sections
    assert "summary must be whole" in e["said"]
    assert "summary must be JSON" in b["said"]
    assert "use the release that wrote it" in c["said"]
    assert told(a)["mine"][0] == "40.0"
    assert told(d)["mine"][2] == "−30.0 ▼ regression"
    with pytest.raises(RunError, match="folder must hold runs, got none that is finished"):
        build_history(tmp_path / "a")


def test_names_from_outside_stay_text(tmp_path):
    evil = row(HOSTILE, 0.4, task=HOSTILE, detector=HOSTILE, recipe=HOSTILE, note=HOSTILE, title=HOSTILE)
    write(tmp_path / "<img src=x onerror=window.hacked=1>", "01", [evil])
    page = build_history(tmp_path, tmp_path / "out")
    text, found = page.read_text(encoding="utf-8"), read(page)
    assert found.tags.count("script") == 1  # ours
    assert not {"img", "iframe", "object"} & set(found.tags)
    assert "\u202e" not in text
    assert "default-src 'none'" in text
    assert "http" not in text.split("</head>")[1]


def test_many_runs_are_on_pages(tmp_path):
    for i in range(RUNS_PER_PAGE + 1):
        write(tmp_path / f"run-{i:03}", "01", [row("mine", 0.4)])
    result = CliRunner().invoke(app, ["report", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.strip().endswith("history/index.html")
    first, second = (read(tmp_path / "history" / name) for name in ("index.html", "page-2.html"))
    assert (len(first.sections), len(second.sections)) == (RUNS_PER_PAGE, 1)
    assert "run-000" in second.sections[0]["head"]
    refused = CliRunner().invoke(app, ["report", str(tmp_path), "--single-file"])
    assert "--single-file must be given with one run" in str(refused.exception)


MEASURE = """
import sys, time
from pathlib import Path
from xaibench.leaderboard.history import build_history
start = time.process_time()
build_history(sys.argv[1])
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(time.process_time() - start, int(peak) / 1024)
"""


def measured(folder):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True)
    return map(float, done.stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read from /proc")
def test_a_thousand_runs_take_twenty_seconds_and_the_memory_of_a_few(tmp_path):
    """Summaries as long as a run of 500 clips makes them: 16 explainers, every metric and slice, 1.7 MB."""
    names = [f"explainer_{i}" for i in range(16)]
    rows = [row(n, 0.4, metric=f"metric_{m}", part=f"vocoder:{v}") for n in names for m in range(36) for v in range(10)]
    model = write(tmp_path / "many" / "run-0000", "01", [*rows, *(row(n, 0.4) for n in names)])
    assert 1.4e6 < (model / "summary.json").stat().st_size < 3e6
    for i in range(1, 1000):
        path = tmp_path / "many" / f"run-{i:04}"
        path.mkdir()
        for name in ("summary.json", "manifest.json", "DONE"):
            os.link(model / name, path / name)
    for i in range(20):
        (tmp_path / "few" / f"run-{i:04}").mkdir(parents=True)
        for name in ("summary.json", "manifest.json", "DONE"):
            os.link(model / name, tmp_path / "few" / f"run-{i:04}" / name)
    _, few = measured(tmp_path / "few")
    seconds, many = measured(tmp_path / "many")
    assert seconds <= 20
    assert many - few < 16
