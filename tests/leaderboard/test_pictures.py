import io

import numpy as np
import pytest
from PIL import Image

from xaibench.leaderboard.evidence import places
from xaibench.leaderboard.pictures import RANKS, heatmap_png, outline_png, ramp, rank_classes, spectrogram_png, verdict_png

SHAPE = (24, 40)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB bytes, an independent measure of the ramps' order."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


@pytest.mark.parametrize("name", ["ink", "ember"])
def test_ramp_lightness_rises_evenly(name: str) -> None:
    steps = np.diff(lightness(ramp(name, 16).astype(float)))
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.min()


def test_classes_hold_the_shares_that_the_legend_says() -> None:
    values = np.random.default_rng(0).permutation(np.arange(2000)).reshape(40, 50).astype(np.float32)
    classes = rank_classes(values, np.ones(values.shape, bool))
    counts = np.bincount(classes.ravel(), minlength=len(RANKS) + 1) / values.size
    np.testing.assert_allclose(np.cumsum(counts)[:-1], RANKS, atol=1e-3)
    top = values >= np.sort(values.ravel())[-100]
    assert set(classes[top]) == {9, 10, 11, 12, 13, 14, 15}
    assert classes[~top].max() == 8


def test_heatmap_picture_depends_on_ranks_alone_and_has_high_frequencies_on_top() -> None:
    values = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    valid = np.ones(SHAPE, bool)
    valid[:, 30:] = False
    assert heatmap_png(values, valid) == heatmap_png(np.exp(values * 3) * 1e-6, valid)
    values[0, 5] = 99
    picture = pixels(heatmap_png(values, valid))
    assert picture.shape[:2] == SHAPE
    assert picture[-1, 5, :3].tolist() == ramp("ember", 16)[-1].tolist()
    assert (picture[:, 30:, :3] == ramp("ember", 16)[0]).all()


def test_constant_heatmap_and_silence_are_dark() -> None:
    assert pixels(heatmap_png(np.ones(SHAPE, np.float32), np.ones(SHAPE, bool)))[..., :3].max() < 60
    assert pixels(spectrogram_png(np.zeros(SHAPE, np.float32)))[..., :3].max() < 30


def test_verdict_colours_hits_misses_and_false_alarms() -> None:
    chosen, truth = np.zeros((2, *SHAPE), bool)
    chosen[0, :2], truth[0, 1:3] = True, True
    row = pixels(verdict_png(chosen, truth))[-1]
    assert len({tuple(c) for c in row[:3].tolist()}) == 3
    assert row[:3, 3].tolist() == [255] * 3
    assert row[3:, 3].max() == 0


def test_outline_surrounds_the_mask() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[10:14, 10:14] = True
    alpha = pixels(outline_png(mask))[..., 3] > 0
    assert alpha.shape == (72, 120)
    assert alpha.sum() == 4 * 12 - 4


def test_places_are_rectangles_in_seconds_and_hertz() -> None:
    chosen = np.zeros((513, 253), bool)
    chosen[128:192, 62:80] = True  # 2 to 3 kHz, 0.99 to 1.28 s
    chosen[400:430, 200:206] = True
    first, second = places(chosen)
    assert first.from_hz == pytest.approx(2000, abs=210)
    assert first.to_hz == pytest.approx(3000, abs=210)
    assert first.from_s == pytest.approx(0.99, abs=0.06)
    assert first.to_s == pytest.approx(1.28, abs=0.06)
    assert first.share > 0.8 > second.share > 0.1
    assert "kHz" in first.words(4.0)
    assert first.words(4.0).startswith(f"{first.from_s + 4:.2f} to")
    assert places(np.zeros((513, 253), bool)) == []
