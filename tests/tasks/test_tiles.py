"""Tiles: parts add up, lie where they should, and never reach a copy that another tile owns."""

import pytest
import torch

from xaibench.tasks.audio import tile
from xaibench.tasks.spectrogram import STFTConfig, stft, valid_cells
from xaibench.tasks.tiles import TileGrid

SMALL = STFTConfig(64, 16)
GRIDS = [TileGrid(8, 4, stft=SMALL), TileGrid(3, 2, stft=SMALL), TileGrid(1, 5, "time", stft=SMALL), TileGrid(1, 5, "time", 0.0, SMALL)]


def noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("valid", [None, 700, 2000])
def test_parts_add_up_to_the_clip(grid, valid):
    whole = tile(noise(valid or 2000), 2000)
    parts = grid.split(whole, valid)
    assert parts.shape == (grid.tiles, 2000)
    torch.testing.assert_close(parts.sum(0), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_splitting_is_linear(grid):
    a, b = noise(1500), noise(1500, 1)
    torch.testing.assert_close(grid.split(2 * a - b), 2 * grid.split(a) - grid.split(b), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS[:2])
def test_a_rectangle_keeps_its_energy_where_it_belongs(grid):
    samples = 4000
    cells = grid.cells(samples)
    for number, part in enumerate(grid.split(noise(samples))):
        energy = stft(part, SMALL).abs().square()
        assert float(energy[cells == number].sum() / energy.sum()) > 0.8


def test_a_segment_is_silent_outside_its_cross_fades():
    grid = TileGrid(1, 4, "time", fade_ms=10.0, stft=SMALL)  # fades of 160 samples around 1000, 2000 and 3000
    parts = grid.split(torch.ones(4000))
    assert bool((parts[1, :919] == 0).all())
    assert bool((parts[1, 2081:] == 0).all())
    assert bool((parts[1, 1081:1919] == 1).all())
    assert bool((parts >= 0).all())


def test_copies_of_a_short_clip_follow_their_original():
    grid = TileGrid(2, 2, stft=SMALL)
    parts = grid.split(tile(noise(600), 1500), 600)
    assert torch.equal(parts[:, :600], parts[:, 600:1200])


def test_cells_are_numbered_by_band_and_segment():
    grid = TileGrid(8, 4)
    cells = grid.cells(64_600)
    assert cells.shape == (513, 253)
    assert cells[0, 0] == 0
    assert cells[0, -1] == 3
    assert cells[-1, 0] == 28
    counts = torch.bincount(cells.reshape(-1))
    assert len(counts) == 32
    assert int(counts.max()) < 1.04 * int(counts.min())


def test_cells_that_tiling_reaches_belong_to_no_tile():
    grid = TileGrid(8, 4)
    cells = grid.cells(64_600, 30_000)
    assert torch.equal(cells >= 0, valid_cells(30_000, 64_600))
    assert int(cells.max()) == 31


@pytest.mark.parametrize(("valid", "fits"), [(64_600, True), (4_000, True), (2_000, False), (500, False)])
def test_too_short_a_clip_has_tiles_without_cells(valid, fits):
    assert TileGrid().fits(64_600, valid) is fits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": 0}, r"bands must be in 1\.\.513 and segments at least 1, got 0 and 4"),
        ({"bands": 600}, r"bands must be in 1\.\.513"),
        ({"segments": 0}, "segments at least 1, got 8 and 0"),
        ({"domain": "mel"}, "domain must be stft or time, got 'mel'"),
        ({"domain": "time"}, "bands must be 1 in the time domain, got 8"),
        ({"fade_ms": -1.0}, r"fade_ms must be at least 0, got -1\.0"),
    ],
)
def test_impossible_grids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TileGrid(**options)


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"waveform must be one clip \(T,\), got shape \(2, 3\)"):
        TileGrid().split(torch.zeros(2, 3))
