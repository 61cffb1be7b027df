import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from xaibench.errors import RunError
from xaibench.leaderboard.site import build

RECIPES = ("sym-floor60-v1", "grinberg-rel-linear-v1")
HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    "\"' onmouseover=window.hacked=1 x='",
    "javascript:window.hacked=1//",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title><svg/onload=window.hacked=1>",
    "\u202egnp.exe\u2066\u200b",
    "=HYPERLINK(1)\n\r\x00\x1b[31m",
    "x" * 5000,
]
TAGS = """
filter fecolormatrix fecomponenttransfer fefunca output pre noscript article
html head meta title style body a header main footer script span section h1 h2 h3 p b bdi dl dt dd div input label nav br
table caption thead tbody
tr th td small svg g line text rect polyline circle ul li i code details summary figure figcaption img audio
"""
ALLOWED = set(re.findall(r"\w+", TAGS))
MEASURED = (
    *("specsegdiff", "toy_detector", "6 clips", "5 of 6 clips", "quick tier", "beats every control", "oracle_mask", RECIPES[1]),
    *(
        "never seen",
        "vocoder-1",
        "Above about 76 GDice",
        "Localisation is not faithfulness",
        "1 failed",
        "1 of 5 curves greyed",
        "more than 20 % of the answers",
    ),
)


class Page(HTMLParser):
    """Collects tags, attributes and the content of script and style."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.open: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag in self.inline:
            self.open.append(tag)
            self.inline[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.inline[self.open[-1]][-1] += data


@pytest.fixture(scope="module")
def report(toy_run: Path, tmp_path_factory: pytest.TempPathFactory, toys: dict[str, Any]) -> Path:
    return build(toy_run, tmp_path_factory.mktemp("report"), **toys, samples=2).parent


def pages(folder: Path) -> list[Page]:
    found = [Page(path) for path in sorted(folder.rglob("*.html"))]
    assert found
    return found


def test_page_says_what_was_measured(report: Path) -> None:
    text = Page(report / "index.html").text
    for words in MEASURED:
        assert words in text, words


def test_floor_of_stratified_auc_is_what_the_prior_scored(toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    text = (run / "summary.json").read_text(encoding="utf-8")
    (run / "summary.json").write_text(text.replace('"energy"', '"frequency_level_prior"'), encoding="utf-8")
    rows = json.loads((run / "summary.json").read_text(encoding="utf-8"))["rows"]
    prior = [r for r in rows if r["explainer"] == "frequency_level_prior" and r["metric"] == "stratified_auc"]
    page = Page(build(run, samples=0)).text
    told = [f"{100 * r['mean']:.1f} (toy, toy_detector, truth {r['recipe']})" for r in prior]
    assert f"frequency_level_prior here: {', '.join(told)}." in page
    assert len(told) == 2
    assert "falls to about 50" not in page


@pytest.mark.parametrize(
    ("tier", "clips", "words"),
    [
        (
            "quick",
            12,
            "In the quick tier the faithfulness curves run on 12 clips, under the 20 needed for a tier, so they are shown",
        ),
        ("full", 19, "The faithfulness curves run on 19 clips, under the 20 needed for a tier, so they are shown without tiers."),
        ("full", 20, ""),
    ],
)
def test_curves_on_few_clips_say_that_they_have_no_tiers(tier: str, clips: int, words: str, toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    summary["tier"] = tier
    summary["detectors"][0] |= {"curve_clips": clips, "min_clips": 20}
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    page = Page(build(run, samples=0)).text
    assert words in page
    assert ("faithfulness curves run on" in page) == bool(words)
    assert ("run with --full" in page) == (tier == "quick")


def test_faithfulness_is_greyed_by_row_and_occluder(report: Path) -> None:
    text = Page(report / "index.html").text
    board = text[text.index('id="board-0-0"') : text.index('id="board-0-1"')]
    greyed = {name: re.findall(r'<td[^>]*class="[^"]*\bout\b[^"]*" data-label="(\w+)"', row) for name, row in table_rows(board)}
    assert {name: labels for name, labels in greyed.items() if labels} == {"saliency": ["deletion", "insertion", "SRG"]}
    matrix = text[text.index("All curve scores in numbers") :]
    counts = {name: row.count('class="out"') for name, row in table_rows(matrix[: matrix.index("</details>")])}
    assert counts == {"oracle_mask": 0, "specsegdiff": 0, "saliency": 6, "energy": 3, "random": 0}
    plots = re.findall(r'<figure class="plot">.*?</figure>', text, re.S)
    drawn = [re.findall(r'class="line [^"]* out"[^>]*><title>(\w+), greyed', plot) for plot in plots]
    assert drawn == [["saliency"], ["saliency"], ["energy", "saliency"], ["energy", "saliency"]]


def table_rows(table: str) -> list[tuple[str, str]]:
    """Return the rows of a table with the names of their explainers."""
    rows = re.findall(r'<tr[^>]*>(?:(?!</tr>).)*class="name">(?:<a[^>]*>)?<bdi.*?</tr>', table, re.S)
    return [(re.findall(r"<bdi[^>]*>(.*?)</bdi>", row)[0], row) for row in rows]


def test_tiers_promise_no_more_than_the_test_behind_them(report: Path) -> None:
    text = Page(report / "index.html").text
    assert text.count("rows of different tiers may still be inseparable") == 5
    assert "share a tier" not in text


def test_every_link_and_picture_lies_in_the_report(report: Path) -> None:
    n_local = 0
    for path in sorted(report.rglob("*.html")):
        for tag, attributes in Page(path).tags:
            target = attributes.get("src") or (attributes.get("href") if tag == "a" else None)
            if not target or target.startswith("#"):
                continue
            if target.startswith("https://"):
                assert tag == "a"
                assert "noopener" in attributes.get("rel", "")
                continue
            assert (path.parent / target.split("#")[0]).is_file(), target
            n_local += 1
    assert n_local > 40


def test_policy_admits_exactly_the_inlined_script_and_style(report: Path) -> None:
    for page in pages(report):
        policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'")
        for kind, blocks in page.inline.items():
            assert len(blocks) == 1
            digest = base64.b64encode(hashlib.sha256(blocks[0].encode()).digest()).decode()
            assert re.search(rf"{kind}-src 'sha256-{re.escape(digest)}'(;|$)", policy)
        assert not [a for _, a in page.tags if "style" in a or any(name.startswith("on") for name in a)]
        assert "unsafe" not in policy


def test_rebuild_gives_equal_bytes(toy_run: Path, report: Path, tmp_path: Path, toys: dict[str, Any]) -> None:
    again = build(toy_run, tmp_path / "again", **toys, samples=2).parent
    build(toy_run, again, **toys, samples=2)
    first, second = (
        {p.relative_to(f): p.read_bytes() for f in (folder,) for p in folder.rglob("*") if p.is_file()} for folder in (report, again)
    )
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("hostile", HOSTILE)
def test_outside_text_cannot_become_markup(hostile: str, tmp_path: Path, toy_run: Path, toys: dict[str, Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    poison(run, hostile)
    index = build(run, samples=0)
    page = Page(index)
    assert {tag for tag, _ in page.tags} <= ALLOWED
    assert len(page.inline["script"]) == 1
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00\x1b]", page.text)
    assert len(page.text) < 2_000_000
    assert not re.search(r"(?m)(^|,)[=+@]", (index.parent / "leaderboard.csv").read_text(encoding="utf-8"))


def poison(run: Path, hostile: str) -> None:
    """Put ``hostile`` before or in place of every string of the run's JSON that comes from outside."""

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {(hostile + k if key == "packages" else k): spoil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(v, key) for v in value]
        fixed = {"metric", "polarity", "slice"}
        return hostile + value if isinstance(value, str) and key not in fixed else value

    for name in ("manifest.json", "summary.json"):
        path = run / name
        path.write_text(json.dumps(spoil(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def test_hostile_names_of_clips_are_escaped_on_sample_pages(tmp_path: Path, make_run: Any) -> None:
    hostile = "<img src=x onerror=window.hacked=1>\u202e"
    run, toys = make_run(tmp_path / "run", hostile)
    index = build(run, **toys, samples=2)
    found = pages(index.parent / "samples")
    assert len(found) == 2
    for page in found:
        assert {tag for tag, _ in page.tags} <= ALLOWED
        assert "&lt;img src=x" in page.text
        assert "\u202e" not in page.text
        assert not [a for _, a in page.tags if "onerror" in a]


def test_run_without_rows_gives_a_page_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "summary.json").write_text('{"rows": [], "detectors": []}', encoding="utf-8")
    assert "Nothing was measured." in build(tmp_path).read_text(encoding="utf-8")


def test_report_without_the_audio_says_why_there_are_no_samples(toy_run: Path, tmp_path: Path) -> None:
    text = build(toy_run, tmp_path / "out").read_text(encoding="utf-8")
    assert "No sample pages: task must be a registered name" in text
    assert not (tmp_path / "out" / "samples").exists()


def test_unfinished_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run_dir must hold manifest\.json"):
        build(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="manifest must be JSON"):
        build(tmp_path)


def test_report_folder_that_is_a_file_is_one_sentence(toy_run: Path, tmp_path: Path, toys: dict[str, Any]) -> None:
    (tmp_path / "report").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="out_dir must be a folder that can be written"):
        build(toy_run, tmp_path / "report", **toys)
    assert (tmp_path / "report").read_text(encoding="utf-8") == "mine"


def test_only_pages_of_an_earlier_report_are_replaced(toy_run: Path, tmp_path: Path, toys: dict[str, Any]) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "mine.txt").write_text("mine", encoding="utf-8")
    build(toy_run, tmp_path, **toys, samples=1)
    assert (tmp_path / "samples" / "mine.txt").exists()


def test_confidence_over_the_area_is_drawn_where_several_areas_were_measured(toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    assert "Confidence over the area" not in build(run, tmp_path / "without").read_text(encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text())
    curves = [row for row in summary["rows"] if row["metric"] == "srg" and row["occluder"] == "twin_complex"]
    heights = {"average_drop_at_1": 40.0, "average_drop": 20.0, "average_drop_at_20": 0.0, "fidelity_in": 0.5}
    for name, mean in heights.items():
        summary["rows"] += [{**row, "metric": name, "mean": mean, "low": mean, "high": mean} for row in curves]
    (run / "summary.json").write_text(json.dumps(summary))
    page = build(run, tmp_path / "with").read_text(encoding="utf-8")
    block = page.split('id="areas-', 1)[1].split("</details>")[0]
    assert block.count("<figure") == 1  # fidelity_in has one area, which makes no line
    assert "Average drop, %" in block
    lines = re.findall(r'<polyline class="line ([^"]*)" points="([^"]*)"', block)
    assert len(lines) == len(curves)
    assert any(css.startswith("c") for css, _ in lines)
    for _, points in lines:  # 1, 5 and 20 % of a plot that ends at 20 %, falling from its top to its bottom
        assert points == "58.7,10.0 141.5,115.0 452.0,220.0"


WRONG = {
    "a mean that is text": lambda s: s["rows"][0].update(mean="NaN"),
    "a mean beyond all bounds": lambda s: s["rows"][0].update(mean=1e300),
    "a tier that is text": lambda s: s["rows"][0].update(tier="1"),
    "a tier below one": lambda s: s["rows"][0].update(tier=-5),
    "a verdict that is a number": lambda s: s["rows"][0].update(beats_best_control=1),
    "a row without a task": lambda s: s["rows"][0].pop("task"),
    "rows that are none": lambda s: s.update(rows=None),
    "a row that is a list": lambda s: s["rows"].append([]),
    "detectors that are text": lambda s: s.update(detectors="x"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_summary_that_no_run_wrote_is_one_sentence(wrong: str, toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run, ignore=shutil.ignore_patterns("heatmaps"))
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    WRONG[wrong](summary)
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(RunError, match=r"must be .*, got .*; run "):
        build(run, samples=0)


@pytest.mark.parametrize("text", ['{"rows": [{"mean": NaN}]}', "[" * 100_000, '{"schema_version": 99}', "\udc80"])
def test_json_that_is_none_is_one_sentence(text: str, toy_run: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "summary.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError):
        build(tmp_path, samples=0)


def test_a_manifest_of_wrong_types_is_shown_as_far_as_it_goes(toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run, ignore=shutil.ignore_patterns("heatmaps"))
    known = {"needs": 3, "config": [1], "polarity": 7, "deterministic": "no", "reference": ["x"]}
    odd = {"explainers": {"specsegdiff": known}, "argv": "x"}
    (run / "manifest.json").write_text(json.dumps(odd), encoding="utf-8")
    card = (build(run, samples=0).parent / "explainers" / "specsegdiff.html").read_text(encoding="utf-8")
    assert "Needs" not in card
    assert "Repeatable" not in card
    (run / "manifest.json").write_text(json.dumps({"explainers": {"energy": []}}), encoding="utf-8")
    with pytest.raises(RunError, match="must be readable JSON"):
        build(run, samples=0)


def test_a_submission_of_the_easy_clips_leads_nothing(toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run, ignore=shutil.ignore_patterns("heatmaps"))
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    for row in summary["rows"]:
        if row["explainer"] == "saliency" and row["metric"] == "generalized_dice":
            row.update(mean=0.99, low=0.98, high=1.0, tier=None, beats_best_control=None)
    summary["origins"] = {"saliency": {"track": "heatmaps", "covered": 1, "asked": 6, "isolation": "", "reproduced": False}}
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    index = build(run, samples=0)
    page = index.read_text(encoding="utf-8")
    lead = re.search(r'class="is-lead"><dt>[^<]*</dt><dd class="big">[^<]*</dd><dd><bdi>(.*?)</bdi>', page)
    assert lead is not None
    assert lead[1] == "specsegdiff"
    assert "partial 1 of 6" in page
    lines = (index.parent / "leaderboard.tex").read_text(encoding="utf-8").splitlines()
    assert not any(line.startswith("saliency") and r"\textbf" in line.split("&")[1] for line in lines)
