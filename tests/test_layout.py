"""The house stands as drawn: nothing is missing from the package, imports run one way, and no generic name is installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STATIONS = ("tasks", "explainers", "benchmark", "leaderboard")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_a_listed_package():
    found = {"xaibench"}
    for folder, prefix in [*((ROOT / s, f"xaibench.{s}") for s in STATIONS), (ROOT / "src/xaibench/cli", "xaibench.cli")]:
        for init in folder.rglob("__init__.py"):
            found.add(".".join((prefix, *init.parent.relative_to(folder).parts)))
    assert found == set(SETTINGS["tool"]["setuptools"]["packages"])


def test_stations_are_linked_for_type_checkers_and_not_installed_under_generic_names(tmp_path: Path):
    for station in STATIONS:
        assert (ROOT / "src/xaibench" / station).readlink() == Path("../..") / station
        code = f"import importlib.util; assert importlib.util.find_spec({station!r}) is None; import xaibench.{station}"
        subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd=tmp_path)


@pytest.mark.skipif(not shutil.which("lint-imports", path=str(Path(sys.executable).parent)), reason="import-linter is not installed")
def test_imports_run_one_way():
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_file_outgrows_its_shelf():
    """350 lines at most, so that a reader can hold a file in mind."""
    long = {
        str(path.relative_to(ROOT)): count
        for station in (*STATIONS, "src/xaibench")
        for path in (ROOT / station).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 350
    }
    assert not long


def test_data_files_are_covered_by_package_data():
    """Every file that is not code must match a pattern, or the wheel lacks it."""
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]
    missing = []
    for station in STATIONS:
        for path in (ROOT / station).rglob("*"):
            if path.is_file() and path.suffix not in {".py", ".pyc"}:
                package = path.parent
                while not (package / "__init__.py").exists():
                    package = package.parent
                name = ".".join(("xaibench", *package.relative_to(ROOT).parts))
                if not any(path.relative_to(package).match(p) for p in patterns.get(name, [])):
                    missing.append(str(path.relative_to(ROOT)))
    assert not missing


def test_the_package_is_typed():
    assert importlib.util.find_spec("xaibench").submodule_search_locations
    assert (ROOT / "src/xaibench/py.typed").exists()


def test_every_page_of_the_documentation_is_in_its_navigation():
    import re

    listed = re.findall(r":\s+([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
