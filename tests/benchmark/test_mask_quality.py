import json
import re

import pytest
import torch

from xaibench.benchmark.mask_quality import DENSITIES, MaskQuality, VocoderQuality, mask_quality, verdicts
from xaibench.errors import NothingMeasuredError
from xaibench.leaderboard.mask_page import build_mask_page, mask_text
from xaibench.tasks.corpora.asvspoof2019 import ASVspoof2019
from xaibench.tasks.corpora.minivoc import Minivoc
from xaibench.tasks.masks import truth


@pytest.fixture(scope="module")
def quality():
    return mask_quality(Minivoc(), limit=6)


def test_profiles_shares_and_similarity_are_those_of_the_masks(quality):
    task = Minivoc()
    assert quality.clips == 6
    assert len(quality.vocoders) == 6
    utterances = {}
    for pair in task.pairs("test"):
        utterances.setdefault(pair.utterance, []).append(pair)
    for v in quality.vocoders:
        assert sum(v.profile) == pytest.approx(1)
        assert v.stability["1 samples"] > v.stability["8 samples"] > v.stability["32 samples"] > v.stability["128 samples"]
        assert v.controls["random"] == pytest.approx(0.095, abs=0.01)
    assert len(quality.similarity) == 15
    first = next(v for v in quality.vocoders if v.vocoder == "lpc")
    again = []
    for group in utterances.values():
        found = {p.vocoder: truth(task.load(p)) for p in group if p.vocoder in ("lpc", "world")}
        both = found["lpc"].mask & found["world"].mask
        dice = float(2 * both.sum() / (found["lpc"].mask.sum() + found["world"].mask.sum()))
        again.append((found["lpc"].share_added, dice))
        if again[-1][0] == pytest.approx(first.added):
            assert quality.similarity["lpc|world"] == pytest.approx(dice)
            bands = torch.tensor([float(part.sum()) for part in found["lpc"].mask.sum(1).tensor_split(16)])
            assert first.profile == pytest.approx((bands / bands.sum()).tolist())
            break
    else:
        pytest.fail(f"no utterance has the reported share {first.added}: {again[:3]}")


def test_the_sweep_moves_away_from_the_recipe_as_it_should(quality):
    dice = [quality.sweep[f"density {d:g}"]["dice"] for d in DENSITIES]
    assert dice == pytest.approx([2 * min(d, 0.05) / (d + 0.05) for d in DENSITIES], abs=2e-3)
    assert quality.sweep["kernel 3 x 3"]["dice"] < 1


def test_text_json_and_page_hold_the_same_numbers(quality, tmp_path):
    page = build_mask_page(quality, tmp_path)
    html = page.read_text()
    known = json.loads((tmp_path / "masks.json").read_text())
    assert known["clips"] == 6
    assert html.count("<svg") == 6
    assert html.count("<rect") == 96
    assert not re.search(r"src=|href=\"(?!#)|https?://", html)
    for v in quality.vocoders:
        assert f"{100 * v.controls['energy']:.1f}" in html
        assert v.vocoder in mask_text(quality)


def test_what_stands_out_is_said():
    loud = VocoderQuality("x", clips=3, empty=1, added=0.99, controls={"energy": 0.6, "random": 0.1})
    said = verdicts(MaskQuality("t", "r", 3, {}, [loud, VocoderQuality("y")], {"x|y": 0.8}, {}))
    assert [s for s in said if "energy alone scores 60" in s]
    assert [s for s in said if "1 of 3 clips have no mask" in s]
    assert [s for s in said if "99 % of the mask is added" in s]
    assert [s for s in said if "one map fits all" in s]


def test_a_corpus_without_twins_has_no_masks():
    with pytest.raises(NothingMeasuredError, match=r"task must hold twins to have masks, got asvspoof2019"):
        mask_quality(ASVspoof2019())
