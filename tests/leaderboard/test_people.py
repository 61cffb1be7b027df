"""The report in the hands of people: axe-core finds nothing, filters and pins work by keyboard, sound plays, no request leaves the page."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xaibench.leaderboard.single import build_single
from xaibench.leaderboard.site import build

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGES = ("index.html", "explainers.html", "tasks.html", "metrics.html", "scores.html", "runs.html", "about.html", "samples/0-01.html")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(toy_run: Path, tmp_path_factory: pytest.TempPathFactory, toys: dict[str, Any]) -> Path:
    folder = build(toy_run, tmp_path_factory.mktemp("people"), **toys, samples=2).parent
    build_single(toy_run, folder / "single.html", **toys, samples=2)
    return folder


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Any]:
    """Open a page of the report; every word on the console and every request but for its own files fails the test."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def go(page: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        path, _, anchor = page.partition("#")
        tab.goto((report / path).as_uri() + (f"#{anchor}" if anchor else ""))
        return tab

    yield go
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith((report.as_uri(), "data:"))] == []


def comes_true(tab: Any, expression: str, seconds: float = 10.0) -> None:
    """Ask the page until it says yes; its policy forbids the engine's own way of waiting, which evaluates text."""
    for _ in range(int(10 * seconds)):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(100)
    pytest.fail(f"never came true: {expression}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", [*PAGES, "explainers/specsegdiff.html", "single.html"])
def test_axe_finds_no_violation(visit: Any, page: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(visit(page, color_scheme=scheme, bypass_csp=True)).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


def test_rows_are_filtered_sorted_and_remembered_in_the_address(visit: Any) -> None:
    tab = visit("index.html")
    board = tab.locator("#board-0-0")
    tab.get_by_label("Find an explainer").first.fill("sal")
    assert board.locator("tbody tr[data-row]:visible").count() == 1
    board.get_by_role("button", name="GDice").click()
    assert "board-0-0.q=sal" in tab.url
    assert "board-0-0.sort=gdice.descending" in tab.url
    again = visit("index.html#" + tab.url.split("#")[1])
    assert again.locator("#board-0-0 tbody tr[data-row]:visible").count() == 1
    assert again.locator("#board-0-0 th[aria-sort=descending]").count() == 1


def test_clips_can_be_narrowed_down_and_come_back(visit: Any) -> None:
    tab = visit("index.html")
    cell = tab.locator('#board-0-0 tr[data-row="specsegdiff"] td.main')
    whole = cell.inner_text()
    tab.get_by_label("Clips").first.select_option("unseen")
    assert cell.inner_text() != whole
    assert "3/6" in tab.locator('#board-0-0 tr[data-row="specsegdiff"]').inner_text()
    tab.get_by_label("Clips").first.select_option("all")
    assert cell.inner_text() == whole


def test_up_to_four_rows_are_compared_by_keyboard(visit: Any) -> None:
    tab = visit("index.html")
    panel = tab.locator('[data-compare="board-0-0"]')
    assert panel.is_hidden()
    for name in ("specsegdiff", "saliency", "energy", "random", "oracle_mask"):
        pin = tab.locator("#board-0-0").get_by_role("button", name=f"Pin {name} to compare")
        pin.focus()
        tab.keyboard.press("Enter")
    assert panel.locator("thead th").count() == 5
    assert tab.locator("#board-0-0 tr.pinned").count() == 4
    assert panel.locator("tbody tr").first.locator("td.best").count() == 1
    assert "board-0-0.pin=" in tab.url


def test_the_threshold_slides_by_keyboard(visit: Any) -> None:
    tab = visit("samples/0-01.html")
    slide = tab.locator(".cut input")
    tab.get_by_text("Threshold", exact=True).click()
    assert tab.locator(".cut output").inner_text() == "5 %"
    before = tab.locator("#cut feFuncA").get_attribute("intercept")
    slide.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".cut output").inner_text() == "4 %"
    assert tab.locator("#cut feFuncA").get_attribute("intercept") != before


def test_sound_plays_and_the_playhead_moves(visit: Any) -> None:
    for page in ("samples/0-01.html", "single.html#sample-0-01"):
        tab = visit(page)
        tab.locator("[data-player] .sounds button:visible").first.click()
        comes_true(tab, "[...document.querySelectorAll('audio')].some((a) => a.currentTime > 0.05)")
        comes_true(tab, "Number(getComputedStyle(document.querySelector('[data-player].playing')).getPropertyValue('--t')) > 0")


def test_ten_thousand_rows_are_sorted_at_once(visit: Any, report: Path) -> None:
    import json

    text = (report / "scores.html").read_text(encoding="utf-8")
    start = text.index('data-records="') + len('data-records="')
    known = json.loads(text[start : text.index('"', start)].replace("&#34;", '"'))
    row = known["rows"][0]
    rows = [[*row[:3], (i * 7919) % 10_007 / 100, *row[4:]] for i in range(10_000)]
    many = json.dumps({**known, "rows": rows}).replace('"', "&#34;")
    (report / "many.html").write_text(text[:start] + many + text[text.index('"', start) :], encoding="utf-8")
    tab = visit("many.html")
    comes_true(tab, "window.scoresTable !== undefined")
    spent = tab.evaluate("(() => { const t = performance.now(); scoresTable.order([3, 'desc']).draw(); return performance.now() - t; })()")
    assert tab.locator("#scores tbody tr").first.locator("td").nth(3).inner_text() == f"{max(r[3] for r in rows)}"
    assert spent < 200


@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_nothing_is_wider_than_its_window(visit: Any, width: int) -> None:
    """Also leaves a picture of each page in ``build/screenshots``, where continuous integration keeps them."""
    album = Path(__file__).resolve().parents[2] / "build" / "screenshots"
    for page in ("index.html", "samples/0-01.html", "scores.html", "explainers/specsegdiff.html", "tasks.html"):
        tab = visit(page, viewport={"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, page
        tab.screenshot(path=album / f"{page.replace('/', '-').removesuffix('.html')}-{width}.png", full_page=True)


def test_the_first_paint_comes_within_a_second(visit: Any) -> None:
    for page in ("index.html", "single.html", "scores.html"):
        tab = visit(page)
        tab.wait_for_timeout(300)
        first = min(tab.evaluate("performance.getEntriesByType('paint').map((entry) => entry.startTime)"))
        assert first < 1000, page


def test_the_page_is_read_without_its_script_and_prints_every_truth(visit: Any) -> None:
    tab = visit("index.html", java_script_enabled=False)
    assert tab.locator("#board-0-0 tbody tr").count() > 5
    tab.emulate_media(media="print")
    assert tab.locator("#board-0-0").is_visible()
    assert tab.locator("#board-0-1").is_visible()
