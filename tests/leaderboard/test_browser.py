"""The report in a real browser: no console error, policy kept, state read from the address, audio that plays."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from xaibench.leaderboard.site import build

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


def browse(url: str, tmp_path: Path, *options: str) -> tuple[str, str]:
    """Open a page headless; return its document after the scripts ran, and what the browser logged."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*command, *options, url], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture(scope="module")
def report(toy_run: Path, tmp_path_factory: pytest.TempPathFactory, toys: dict[str, Any]) -> Path:
    return build(toy_run, tmp_path_factory.mktemp("report"), **toys, samples=1).parent


def test_script_runs_under_the_policy_without_a_word_on_the_console(report: Path, tmp_path: Path) -> None:
    for page in ("index.html", "samples/0-01.html"):
        document, console = browse((report / page).as_uri(), tmp_path)
        assert console == ""
        assert '<html lang="en" class="js"' in document
    assert "▶ Play" in document


def test_view_in_the_address_is_shown_again(report: Path, tmp_path: Path) -> None:
    state = "#board-0-0.sort=gdice.ascending&board-0-0.q=s&board-0-0.no-oracle=1&board-0-0.hide=auroc&recipe-0=grinberg-rel-linear-v1"
    document, _ = browse((report / "index.html").as_uri() + state, tmp_path)
    table = document[document.index('id="board-0-0"') : document.index('id="board-0-1"')]
    assert re.search(r'data-key="gdice"[^>]*aria-sort="ascending"', table)
    body = table[table.index('<tbody class="explainer"') : table.index('<tbody class="control"')]
    assert body.index("saliency") < body.index("specsegdiff")
    assert re.search(r'<tbody class="oracle"[^>]*hidden', table)
    assert re.search(r'data-key="auroc"[^>]*hidden', table)
    assert "2 of 5 rows" in document


@pytest.mark.parametrize("width", [360, 1280, 2560])
@pytest.mark.parametrize("page", ["index.html", "samples/0-01.html"])
def test_page_fits_its_window(report: Path, tmp_path: Path, page: str, width: int) -> None:
    original = report / page
    measured = original.with_name("measured.html")
    probe = "<script>document.documentElement.dataset.wide = document.documentElement.scrollWidth</script>"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", original.read_text(encoding="utf-8"))
    measured.write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    document, _ = browse(measured.as_uri(), tmp_path, f"--window-size={width},2000", f"--screenshot={tmp_path / 'page.png'}")
    wide = re.search(r'data-wide="(\d+)"', document)
    assert wide is not None
    assert int(wide[1]) <= max(width, 500), "headless windows are at least 500 pixels wide"
