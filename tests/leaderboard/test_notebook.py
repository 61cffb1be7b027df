"""Notebooks: results and heatmaps show themselves, texts of outside stay texts, and the tutorial runs from top to bottom."""

import json
from pathlib import Path

import pytest
import torch

from xaibench.leaderboard.notebook import HeatmapView
from xaibench.tasks.spectrogram import magnitude

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"
CLIP = 0.1 * torch.sin(torch.arange(16_000) / 8)


def test_a_heatmap_shows_picture_truth_and_three_sounds() -> None:
    heatmap = magnitude(CLIP[None])[0]
    html = HeatmapView(CLIP, heatmap, heatmap > heatmap.median(), title="<script>x</script>")._repr_html_()
    assert html.count("data:image/png") == 4
    assert html.count("data:audio/ogg") == 3
    assert "<script" not in html
    assert "http" not in html
    assert HeatmapView(CLIP, heatmap)._repr_html_().count("data:image/png") == 2


def test_a_map_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"heatmap must have shape \(513, 63\), got \(63, 513\)"):
        HeatmapView(CLIP, magnitude(CLIP[None])[0].T)


def test_the_tutorial_is_committed_without_outputs() -> None:
    cells = json.loads(TUTORIAL.read_text(encoding="utf-8"))["cells"]
    assert len(cells) > 10
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbclient.NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("data:image/png" in output.get("data", {}).get("text/html", "") for output in shown)
    assert any("GDice" in output.get("data", {}).get("text/html", "") for output in shown)
    assert (tmp_path / "runs" / "tutorial" / "report" / "index.html").is_file()
