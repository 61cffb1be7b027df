"""The picture of all explainers: headings tell scores, panels are equal to those of the report, and the size stays small."""

import io

import torch
from PIL import Image

from xaibench.leaderboard.gallery import HEAD, HEIGHT, WIDTH, Panel, Scene, explainer_panel, montage, truth_panels
from xaibench.registry import DETECTORS, TASKS


def test_a_clip_under_explainers():
    torch.manual_seed(0)
    scene = Scene.of(TASKS.load("minivoc"), "")
    detectors = [DETECTORS.load("spectrogram_cnn"), DETECTORS.load("wav2vec2_aasist_tiny", weights="random")]
    names = ("oracle_mask", "random", "saliency", "gatr", "addsegdiff:weights=none")
    panels = [explainer_panel(scene, name, detectors) for name in names]
    assert panels[0] is not None
    assert panels[0].title == "oracle_mask 100.0"
    assert panels[3] is not None
    assert panels[3].title.startswith("gatr (wav2vec2_aasist_tiny) ")
    assert panels[4] is None
    truths = truth_panels(scene)
    assert [panel.title for panel in truths[2:]] == [f"truth {recipe}" for recipe in scene.task.recipes]
    sheet = montage([*truths, *(panel for panel in panels if panel)])
    picture = Image.open(io.BytesIO(sheet))
    assert picture.size[0] > 5 * WIDTH
    assert picture.size[1] > 2 * (HEIGHT + HEAD)
    assert len(sheet) < 500_000
    assert montage([Panel("one", truths[0].png)]) == montage([Panel("one", truths[0].png)])
