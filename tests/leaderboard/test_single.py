"""One file that holds everything: nothing outside it is named, it stays within its limit, and it is made twice alike."""

import re
from pathlib import Path
from typing import Any

import pytest

from xaibench.errors import RunError
from xaibench.leaderboard.single import build_single


@pytest.fixture(scope="module")
def single(toy_run: Path, tmp_path_factory: pytest.TempPathFactory, toys: dict[str, Any]) -> Path:
    return build_single(toy_run, tmp_path_factory.mktemp("single") / "board.html", **toys, samples=2)


def test_pictures_and_sounds_lie_in_the_file_itself(single: Path) -> None:
    text = single.read_text(encoding="utf-8")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {a.split(":")[0].split(";")[0] if not a.startswith("#") else "#" for a in addresses} <= {"data", "#", "https"}
    kinds = {a.split(";")[0] for a in addresses if a.startswith("data:")}
    assert kinds == {"data:image/webp", "data:audio/ogg"}
    anchors = {a[1:] for a in addresses if a.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]*)"', text))
    assert {"sample-0-01", "sample-0-02"} <= anchors
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_equal_runs_give_equal_files(single: Path, toy_run: Path, tmp_path: Path, toys: dict[str, Any]) -> None:
    assert build_single(toy_run, tmp_path / "again.html", **toys, samples=2).read_bytes() == single.read_bytes()


def test_a_tight_limit_costs_detail_and_an_impossible_one_is_told(
    single: Path, toy_run: Path, tmp_path: Path, toys: dict[str, Any]
) -> None:
    whole = single.stat().st_size
    small = build_single(toy_run, tmp_path / "small.html", **toys, samples=2, limit_bytes=whole - 20_000)
    assert small.stat().st_size <= whole - 20_000
    assert small.read_text(encoding="utf-8").count('class="sheet"') == 2
    with pytest.raises(RunError, match=r"report must fit into 0\.05 MB, got .* with 2 samples; ask for fewer"):
        build_single(toy_run, tmp_path / "none.html", **toys, samples=2, limit_bytes=50_000)
    with pytest.raises(RunError, match=r"with 0 samples; ask for a folder"):
        build_single(toy_run, tmp_path / "none.html", **toys, samples=0, limit_bytes=5_000)
    assert not (tmp_path / "none.html").exists()
