"""Causal truth: the axioms in closed form, planted tiles found, refusals, the null control, and a cache that knows what it holds."""

import itertools
import math

import pytest
import torch

from xaibench import load
from xaibench.tasks.causal import CausalConfig, cache_path, causal_truth, from_json, measure, to_json
from xaibench.tasks.shapley import exact
from xaibench.tasks.spectrogram import STFTConfig, stft
from xaibench.tasks.swap import SwapGame, phase_randomized
from xaibench.tasks.tiles import TileGrid
from xaibench.types import Clip, Detector, Pair

SAMPLES = 2048
STFT = STFTConfig(64, 16)
GRID = TileGrid(8, 4, stft=STFT)
SMALL = TileGrid(3, 2, stft=STFT)
TIME = TileGrid(1, 6, "time", 4.0, STFT)
PAIR = Pair("p", "u", "s", "v", "b.flac", "s.flac")


def noise(seed, scale=0.1):
    return scale * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def clip():
    return Clip(PAIR, noise(1), noise(2), SAMPLES)


class Toy(Detector):
    """Counts what it hears; subclasses score."""

    name = "toy"

    def __init__(self, clip):
        super().__init__()
        self.register_buffer("twin", clip.bonafide.clone())
        self.register_buffer("direction", (clip.spoof - clip.bonafide) / (clip.spoof - clip.bonafide).square().sum())
        self.register_buffer("weight", noise(3))
        self.heard = 0
        self.eval()

    def forward(self, waveform):
        self.heard += len(waveform)
        return self.score(waveform)

    def place(self, waveform):
        """0 at the twin, 1 at the spoof."""
        return (waveform - self.twin) @ self.direction


class Linear(Toy):
    name = "linear"

    def score(self, waveform):
        return 5 * self.place(waveform) + waveform @ self.weight - 1


class Curved(Toy):
    name = "curved"

    def score(self, waveform):
        return 4 * torch.tanh(3 * self.place(waveform)) + torch.sin(8 * (waveform @ self.weight)) + 30 * waveform.square().mean(-1)


class Energy(Toy):
    """Log-odds from the energy of a patch of the STFT."""

    name = "energy"
    bins = slice(9, 16)
    frames = slice(40, 60)

    def score(self, waveform):
        patch = stft(waveform, STFT)[:, self.bins, self.frames].abs().square()
        return 3 * torch.log10(patch.mean((1, 2)) + 1e-6)


@pytest.mark.parametrize("grid", [GRID, SMALL, TIME])
def test_on_a_linear_detector_a_tile_is_worth_its_part(clip, grid):
    detector = Linear(clip)
    truth = measure(clip, detector, CausalConfig(grid, permutation_pairs=2))
    parts = grid.split(clip.spoof - clip.bonafide)
    expected = parts.double() @ (5 * detector.direction + detector.weight).double()
    torch.testing.assert_close(truth.values.reshape(-1), expected, rtol=0, atol=2e-5)
    assert float(truth.standard_error.max()) < 1e-5
    assert truth.split_half > 0.99


@pytest.mark.parametrize("grid", [GRID, SMALL, TIME])
def test_values_sum_to_the_gap_of_the_twins(clip, grid):
    detector = Curved(clip)
    truth = measure(clip, detector, CausalConfig(grid))
    scores = detector.spoof_logit(torch.stack([clip.bonafide, clip.spoof])).double()
    assert float(truth.values.sum()) == pytest.approx(float(scores[1] - scores[0]), abs=1e-4)
    assert (truth.bonafide_log_odds, truth.spoof_log_odds) == pytest.approx(tuple(scores.tolist()), abs=1e-4)
    assert truth.values.shape == truth.standard_error.shape == truth.null_shifts.shape == (grid.bands, grid.segments)


def test_a_tile_in_which_the_twins_agree_is_worth_nothing(clip):
    first, second = clip.bonafide[:1100], clip.spoof[1100:]
    same = Clip(PAIR, clip.bonafide, torch.cat([first, second]), SAMPLES)
    grid = TileGrid(1, 4, "time", 4.0, STFT)
    truth = measure(same, Curved(same), CausalConfig(grid))
    assert truth.values[0, :2].abs().max() < 1e-4
    assert truth.values[0, 2:].abs().min() > 0.05


def test_tiles_that_do_the_same_are_worth_the_same():
    """A detector of the level alone, and a clip whose two halves differ from the twin by the same samples."""
    half = noise(5)[: SAMPLES // 2]
    clip = Clip(PAIR, torch.zeros(SAMPLES), half.repeat(2), SAMPLES)

    class Level(Toy):
        def score(self, waveform):
            return 3 * torch.log10(waveform.square().mean(-1) + 1e-8)

    truth = measure(clip, Level(clip), CausalConfig(TileGrid(1, 2, "time", 0.0, STFT)))
    assert float(truth.values[0, 0]) == pytest.approx(float(truth.values[0, 1]), abs=1e-4)
    assert truth.values[0, 0] > 1


def test_sampled_values_lie_within_their_error_of_the_slow_exact_ones(clip):
    detector = Curved(clip)
    players = SMALL.tiles
    parts = SMALL.split(clip.spoof - clip.bonafide)
    slow = torch.zeros(players, dtype=torch.float64)
    for order in itertools.permutations(range(players)):
        mixture, clips = clip.bonafide.clone(), [clip.bonafide]
        for number in order:
            mixture = mixture + parts[number]
            clips.append(mixture)
        gains = detector(torch.stack(clips)).double().diff()
        slow[list(order)] += gains / math.factorial(players)
    game = SwapGame.of_twins(clip, detector, SMALL)
    torch.testing.assert_close(exact(game, players), slow, rtol=0, atol=1e-4)
    truth = measure(clip, detector, CausalConfig(SMALL, permutation_pairs=64))
    deviation = (truth.values.reshape(-1) - slow).abs()
    assert bool((deviation < 3 * truth.standard_error.reshape(-1) + 1e-4).all())
    assert float(truth.standard_error.max()) < 0.1 * float(slow.abs().max())


def planted_clip():
    """A tone patch added to noise, in bins 9 to 15 (tiles of bands 2 and 3) and frames 40 to 59 (segment 1)."""
    time = torch.arange(SAMPLES)
    tones = sum(torch.sin(2 * torch.pi * bin_ * time / 64 + bin_) for bin_ in range(10, 15))
    gate = ((time >= 40 * 16) & (time < 60 * 16)).float()
    background = noise(7, 0.01)
    return Clip(PAIR, background, background + 0.1 * gate * tones, SAMPLES)


def average_precision(values, planted):
    order = values.reshape(-1).argsort(descending=True)
    hits = planted.reshape(-1)[order].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def test_planted_tiles_are_found():
    clip = planted_clip()
    truth = measure(clip, Energy(clip), CausalConfig(GRID))
    planted = torch.zeros(8, 4, dtype=torch.bool)
    planted[2:4, 1] = True
    assert not truth.refused
    assert average_precision(truth.values, planted) > 0.9
    assert float(truth.values[planted].sum()) > 0.9 * truth.gap
    assert float(truth.closed_by_values[2]) > 0.9
    assert float(truth.closed_at_random[2]) < 0.2


def test_planted_segments_are_found_in_the_time_domain():
    clip = planted_clip()
    truth = measure(clip, Energy(clip), CausalConfig(TileGrid(1, 16, "time", 4.0, STFT)))
    planted = torch.zeros(1, 16, dtype=torch.bool)
    planted[0, 5:8] = True  # 40 * 16 to 60 * 16 of 2048 samples
    assert average_precision(truth.values, planted) > 0.9


def test_the_seed_decides_everything_and_the_batch_nothing(clip):
    detector, config = Curved(clip), CausalConfig(GRID, permutation_pairs=4)
    one, again = measure(clip, detector, config), measure(clip, detector, config)
    assert to_json(one) == to_json(again)
    for batch in (7, 1000):
        other = measure(clip, detector, config, batch=batch)
        torch.testing.assert_close(other.values, one.values, rtol=0, atol=1e-4)
        assert other.forwards == one.forwards
    moved = measure(clip, detector, CausalConfig(GRID, permutation_pairs=4, seed=1))
    assert not torch.allclose(moved.values, one.values, atol=1e-3)


def test_forwards_are_counted_and_ends_shared(clip):
    detector = Curved(clip)
    truth = measure(clip, detector, CausalConfig(GRID))
    assert truth.forwards == detector.heard <= 2 + 32 * 31 + 31 + 32


def test_random_numbers_of_others_are_left_alone(clip):
    before = torch.random.get_rng_state()
    measure(clip, Linear(clip), CausalConfig(SMALL))
    assert torch.equal(before, torch.random.get_rng_state())


def test_twins_too_close_are_refused_after_two_forwards(clip):
    class Faint(Toy):
        def score(self, waveform):
            return 1.9 * self.place(waveform)

    detector = Faint(clip)
    truth = measure(clip, detector, CausalConfig(GRID))
    assert truth.refused
    assert truth.reason.startswith("the vocoded clip scores 1.90 log-odds above its twin, less than 2")
    assert truth.forwards == detector.heard == 2
    assert bool(truth.values.isnan().all())
    assert truth.gap == pytest.approx(1.9, abs=1e-4)


def test_a_detector_that_prefers_the_twin_as_spoof_is_refused(clip):
    class Inverted(Toy):
        def score(self, waveform):
            return -8 * self.place(waveform)

    assert "scores -8.00 log-odds above" in measure(clip, Inverted(clip), CausalConfig(SMALL)).reason


@pytest.mark.parametrize(("bump", "refused"), [(4.0, False), (100.0, True), (-100.0, True)])
def test_mixtures_beyond_both_twins_are_refused(clip, bump, refused):
    class Bumpy(Toy):
        def score(self, waveform):
            place = self.place(waveform)
            return 5 * place + bump * place * (1 - place)

    truth = measure(clip, Bumpy(clip), CausalConfig(SMALL))
    assert truth.refused is refused
    assert (truth.share_outside > 0.2) is refused
    assert ("of the mixtures score beyond both twins" in truth.reason) is refused
    assert bool(truth.values.isfinite().all())


def test_a_clip_too_short_for_its_tiles_is_refused_unheard(clip):
    detector = Linear(clip)
    truth = measure(Clip(PAIR, clip.bonafide, clip.spoof, 70), detector, CausalConfig(GRID))
    assert truth.reason == "the clip has 70 samples, too few for 32 tiles"
    assert detector.heard == truth.forwards == 0


def test_a_detector_out_of_its_mind_is_an_error(clip):
    class Broken(Toy):
        def score(self, waveform):
            return torch.full((len(waveform),), math.nan)

    with pytest.raises(ValueError, match="log-odds must be finite"):
        measure(clip, Broken(clip))
    with pytest.raises(ValueError, match="detector must be in eval mode"):
        measure(clip, Linear(clip).train())


def test_the_null_control_tells_magnitude_from_phase():
    clip = planted_clip()
    heard = measure(clip, Energy(clip), CausalConfig(GRID))
    assert heard.null_passed
    assert heard.null_shift < 0.05

    class Waveform(Toy):
        def score(self, waveform):
            return 5 * self.place(waveform)

    truth = measure(clip, Waveform(clip), CausalConfig(TileGrid(2, 2, stft=STFT)))
    assert not truth.null_passed
    assert truth.null_shift > 0.2


def test_random_phases_keep_the_magnitudes_roughly_and_the_length():
    clip = noise(1)
    copy = phase_randomized(clip, STFT)
    assert copy.shape == clip.shape
    assert torch.equal(copy, phase_randomized(clip, STFT))
    spectra = [stft(x, STFT).abs().square().mean(1) for x in (clip, copy)]
    assert 0.1 < float(spectra[1].sum() / spectra[0].sum()) < 1
    assert abs(float(torch.corrcoef(torch.stack([clip, copy]))[0, 1])) < 0.1


def test_the_cache_answers_without_the_detector(clip):
    detector, config = Curved(clip), CausalConfig(GRID, permutation_pairs=2)
    first = causal_truth(clip, detector, config)
    heard = detector.heard
    assert to_json(causal_truth(clip, detector, config)) == to_json(first)
    assert detector.heard == heard == first.forwards


def test_refusals_are_cached_with_their_reason(clip):
    config = CausalConfig(GRID, smallest_gap=1000.0)
    detector = Linear(clip)
    first, again = causal_truth(clip, detector, config), causal_truth(clip, detector, config)
    assert detector.heard == 2
    assert again.reason == first.reason != ""
    assert bool(again.values.isnan().all())
    assert math.isnan(again.split_half)


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", '{"values": 3', "null"])
def test_a_damaged_cache_is_measured_again(clip, content):
    detector, config = Linear(clip), CausalConfig(SMALL, permutation_pairs=3)
    truth = causal_truth(clip, detector, config)
    path = cache_path(clip, detector, config)
    path.write_text(content)
    assert to_json(causal_truth(clip, detector, config)) == to_json(truth)
    assert path.read_text() == to_json(truth)


def test_the_cache_key_covers_all_that_matters_and_nothing_else(clip):
    detector, config = Linear(clip), CausalConfig(SMALL)
    path = cache_path(clip, detector, config)
    other = Linear(clip)
    other.weight += 1
    louder = Clip(PAIR, clip.bonafide, clip.spoof * 1.1, SAMPLES)
    renamed = Clip(Pair("q", "u", "s", "v", "elsewhere.flac", "s.flac"), clip.bonafide, clip.spoof, SAMPLES)
    keys = {
        path,
        cache_path(clip, other, config),
        cache_path(louder, detector, config),
        cache_path(Clip(PAIR, clip.bonafide, clip.spoof, SAMPLES - 500), detector, config),
        cache_path(clip, detector, CausalConfig(SMALL, seed=1)),
        cache_path(clip, detector, CausalConfig(GRID)),
    }
    assert len(keys) == 6
    assert cache_path(renamed, detector, config) == path


def test_a_truth_survives_its_file_bit_by_bit(clip):
    truth = measure(clip, Curved(clip), CausalConfig(SMALL))
    read = from_json(to_json(truth))
    assert torch.equal(read.values, truth.values)
    assert read.values.dtype == torch.float64
    assert to_json(read) == to_json(truth)
    with pytest.raises(ValueError, match="text must hold the fields of a causal truth"):
        from_json("{}")


def test_the_truth_paints_its_tiles():
    grid = TileGrid(2, 2, stft=STFT)
    clip = planted_clip()
    truth = measure(clip, Energy(clip), CausalConfig(grid))
    painted = truth.heatmap(grid, SAMPLES, 1000)
    cells = grid.cells(SAMPLES, 1000)
    assert painted.dtype == torch.float32
    assert bool((painted[cells < 0] == 0).all())
    for number, value in enumerate(truth.values.reshape(-1).float()):
        assert bool((painted[cells == number] == value).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"permutation_pairs": 0}, "permutation_pairs must be at least 1, got 0"),
        ({"smallest_gap": 0.0}, "smallest_gap must be positive"),
        ({"margin": -0.1}, r"margin must be at least 0 and largest_share_outside in \[0, 1\], got -0\.1 and 0\.2"),
        ({"largest_share_outside": 1.5}, "largest_share_outside"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CausalConfig(**options)


def test_mixtures_must_fit():
    clip = planted_clip()
    with pytest.raises(ValueError, match=r"difference must have base's shape \(2048,\), got \(2047,\)"):
        SwapGame(clip.bonafide, clip.spoof[1:], Linear(clip), SMALL)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        measure(clip, Energy(clip), batch=0)


def test_the_embedded_detector_has_a_causal_truth():
    task, detector = load("task", "minivoc"), load("detector", "spectrogram_cnn")
    pair = next(p for p in task.pairs("test") if p.vocoder == "channel_vocoder")
    clip = task.load(pair)
    truth = measure(clip, detector, CausalConfig(TileGrid(3, 2), permutation_pairs=4))
    scores = detector.spoof_logit(torch.stack([clip.bonafide, clip.spoof])).tolist()
    assert not truth.refused
    assert float(truth.values.sum()) == pytest.approx(scores[1] - scores[0], abs=1e-3)
    assert 0 < truth.null_shift < 0.3
