"""Faithfulness: a linear detector in closed form, naive re-derivations, bookkeeping of forwards, and definitions by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.benchmark.metrics import faithfulness as faith
from xaibench.benchmark.metrics.info import info
from xaibench.benchmark.metrics.occluders import OCCLUDERS, Scene
from xaibench.benchmark.metrics.probe import Probe
from xaibench.errors import UnknownNameError
from xaibench.tasks.spectrogram import STFTConfig, inverse, stft
from xaibench.types import Detector

GRID = STFTConfig(32, 8)
SAMPLES = 320
SHAPE = (GRID.bins, GRID.frames(SAMPLES))


class Linear(Detector):
    """Log-odds linear in the waveform; counts what it hears."""

    name = "linear"

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(SAMPLES, generator=torch.Generator().manual_seed(3)))
        self.batches: list[int] = []

    def forward(self, waveform):
        self.batches.append(len(waveform))
        return waveform @ self.weight + 0.5


class Curved(Linear):
    """Log-odds that are not linear."""

    def forward(self, waveform):
        return 3 * torch.tanh(super().forward(waveform) / 3) + waveform.square().mean(-1)


@pytest.fixture
def scene():
    g = torch.Generator().manual_seed(5)
    return {
        "waveform": 0.3 * torch.randn(SAMPLES, generator=g),
        "twin": 0.3 * torch.randn(SAMPLES, generator=g),
        "references": 0.3 * torch.randn(4, SAMPLES, generator=g),
        "heatmap": torch.randn(SHAPE, generator=g),
    }


def probe(scene, detector, occluder="zero", **options):
    return Probe(scene["waveform"], detector, occluder=occluder, twin=scene["twin"], references=scene["references"], stft=GRID, **options)


def fill(scene, occluder, seed=0):
    return OCCLUDERS.load(occluder)(Scene(stft(scene["waveform"], GRID), scene["twin"], scene["references"], GRID, seed))


def ask(detector, spectrum):
    with torch.no_grad():
        return float(detector(inverse(spectrum[None], SAMPLES, GRID))[0])


# Closed form and re-derivation ---------------------------------------------------------------------


def contributions(scene, detector):
    """How much each cell adds to a linear detector's log-odds: the gradient with respect to a gain on it."""
    gain = torch.ones(SHAPE, requires_grad=True)
    detector(inverse((stft(scene["waveform"], GRID) * gain)[None], SAMPLES, GRID)).sum().backward()
    detector.zero_grad()
    return gain.grad


def test_curves_of_a_linear_detector_are_sums_of_sorted_contributions(scene):
    detector = Linear().eval()
    parts = contributions(scene, detector)
    curves = probe(scene, detector).curves(parts, steps=7)
    total, ordered = float(parts.sum()), parts.flatten().sort(descending=True).values.double()
    counts = [round(q * parts.numel()) for q in curves.fractions]
    expected = np.array([float(ordered[:k].sum()) for k in counts])
    np.testing.assert_allclose(curves.deletion, total + 0.5 - expected, atol=1e-4)
    np.testing.assert_allclose(curves.insertion, 0.5 + expected, atol=1e-4)


def test_no_map_beats_a_linear_detectors_own_contributions(scene):
    detector = Linear().eval()
    one = probe(scene, detector)
    best = faith.summary(one.curves(contributions(scene, detector)))
    other = faith.summary(one.curves(scene["heatmap"]))
    assert best["deletion"] < min(other["deletion"], other["deletion_random"])
    assert best["insertion"] > max(other["insertion"], other["insertion_random"])
    assert best["srg"] > max(abs(other["srg"]), abs(other["srg_random"])) > 0


@pytest.mark.parametrize("occluder", OCCLUDERS.names())
def test_every_point_is_what_masking_one_spectrogram_at_a_time_gives(scene, occluder):
    detector = Curved().eval()
    curves = probe(scene, detector, occluder).curves(scene["heatmap"], steps=5, budgets=(0.05,), soft=True)
    spectrum, blank = stft(scene["waveform"], GRID), fill(scene, occluder)
    order = scene["heatmap"].flatten().argsort(descending=True)

    def masked(count, *, keep):
        top = torch.zeros(spectrum.numel(), dtype=torch.bool)
        top[order[:count]] = True
        return ask(detector, torch.where(top.reshape(SHAPE) == keep, spectrum, blank))

    counts = [round(q * spectrum.numel()) for q in curves.fractions]
    np.testing.assert_allclose(curves.deletion, [masked(k, keep=False) for k in counts], atol=1e-4)
    np.testing.assert_allclose(curves.insertion, [masked(k, keep=True) for k in counts], atol=1e-4)
    budget = round(0.05 * spectrum.numel())
    assert (curves.masked_in[0], curves.masked_out[0]) == pytest.approx((masked(budget, keep=True), masked(budget, keep=False)), abs=1e-4)
    share = (scene["heatmap"] - scene["heatmap"].min()) / (scene["heatmap"].max() - scene["heatmap"].min())
    soft = [ask(detector, blank + weight * (spectrum - blank)) for weight in (share, 1 - share)]
    assert curves.soft == pytest.approx(soft, abs=1e-4)


def test_least_relevant_first_is_the_deletion_curve_of_the_negated_map(scene):
    one = probe(scene, Curved().eval())
    cells = SHAPE[0] * SHAPE[1]
    steps = next(k for k in range(3, 30) if cells % k == 0)
    curves, negated = (one.curves(sign * scene["heatmap"], steps=steps) for sign in (1, -1))
    np.testing.assert_allclose(curves.least_first, negated.deletion, atol=1e-5)
    scores = faith.summary(curves)
    assert scores["srg"] == pytest.approx(faith.area(negated.deletion) - scores["deletion"], abs=1e-5)


def test_both_end_points_are_on_the_curves_and_twins_meet(scene):
    detector = Curved().eval()
    curves = probe(scene, detector, "twin_complex").curves(scene["heatmap"])
    with torch.no_grad():
        original, twin = detector(torch.stack([scene["waveform"], scene["twin"]])).double().tolist()
    for curve in (curves.deletion, curves.random_deletion, curves.least_first):
        assert (curve[0], curve[-1]) == pytest.approx((original, twin), abs=1e-4)
    assert (curves.original, curves.occluded) == pytest.approx((original, twin), abs=1e-4)


def test_the_area_does_not_grow_with_the_number_of_steps():
    for steps in (1, 4, 50):
        assert faith.area(np.linspace(3, 1, steps + 1)) == pytest.approx(2)


# Order ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_curves_depend_on_the_order_of_cells_alone(scene, scale):
    one = probe(scene, Curved().eval())
    plain, scaled = one.curves(scene["heatmap"]), one.curves(scene["heatmap"] * scale)
    np.testing.assert_array_equal(plain.deletion, scaled.deletion)
    np.testing.assert_array_equal(plain.random_deletion, scaled.random_deletion)


def test_a_constant_map_removes_cells_in_shuffled_order(scene):
    one = probe(scene, Linear().eval())
    places = one.order(torch.zeros(SHAPE)).argsort().reshape(SHAPE)
    first = places[:8].mean() / places.max()  # in memory order the upper half of the grid would come first
    assert 0.4 < first < 0.6


def test_repeated_probes_give_equal_bits(scene):
    for occluder in ("zero", "noise"):
        first, second = (probe(scene, Curved().eval(), occluder).curves(scene["heatmap"]) for _ in range(2))
        np.testing.assert_array_equal(first.random_insertion, second.random_insertion)
        np.testing.assert_array_equal(first.insertion, second.insertion)
        other = probe(scene, Curved().eval(), occluder, seed=1).curves(scene["heatmap"])
        assert not np.array_equal(first.random_insertion, other.random_insertion)


# Tiling and invalid cells --------------------------------------------------------------------------


def test_invalid_cells_are_never_occluded(scene):
    detector = Curved().eval()
    valid = np.zeros(SHAPE, bool)
    valid[:, :20] = True
    curves = probe(scene, detector, valid=valid).curves(scene["heatmap"])
    spectrum = stft(scene["waveform"], GRID)
    expected = ask(detector, torch.where(torch.from_numpy(valid), torch.zeros_like(spectrum), spectrum))
    assert curves.occluded == pytest.approx(expected, abs=1e-4)


def test_what_is_removed_is_removed_from_the_tiled_copies_too():
    heard = []

    class Ear(Linear):
        def forward(self, waveform):
            heard.append(waveform.clone())
            return super().forward(waveform)

    period = 160
    waveform = torch.randn(period, generator=torch.Generator().manual_seed(1)).repeat(2)
    valid = np.zeros(SHAPE, bool)
    valid[:, : (period - GRID.window_samples // 2) // GRID.hop_samples + 1] = True
    Probe(waveform, Ear().eval(), valid=valid, valid_samples=period, stft=GRID).curves(torch.rand(SHAPE), steps=2)
    for clips in heard:
        assert torch.equal(clips[:, :period], clips[:, period:])
    original, occluded = heard[-1]
    assert torch.equal(original, waveform)
    assert occluded.square().mean() < 0.3 * waveform.square().mean()  # the frames across the seam stay


# Bookkeeping ---------------------------------------------------------------------------------------


def test_end_points_and_random_order_are_asked_once_for_all_maps(scene):
    detector = Linear().eval()
    one = probe(scene, detector)
    one.curves(scene["heatmap"], steps=10)
    assert sum(detector.batches) == 2 * 9 + 2 * 9 + 2
    detector.batches.clear()
    one.curves(-scene["heatmap"], steps=10)
    assert sum(detector.batches) == 2 * 9
    assert max(detector.batches) == detector.cpu_batch == 4
    detector.batches.clear()
    one.curves(scene["heatmap"], steps=10, budgets=(0.05, 0.2), soft=True)
    assert sum(detector.batches) == (2 * 11) + (2 * 11) + 2  # a new set of shares needs a new random curve


def test_the_detector_is_left_alone_and_keeps_no_graph(scene):
    detector = Curved().eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    probe(scene, detector).curves(scene["heatmap"])
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
    assert detector.weight.grad is None
    assert not detector.training


def test_batches_of_clips_equal_their_singles(scene):
    detector = Curved().eval()
    clips = torch.stack([scene["waveform"], scene["twin"]])
    maps = torch.stack([scene["heatmap"], scene["heatmap"].flip(0)])
    together = faith.deletion_insertion(clips, maps, detector, stft=GRID, steps=4, occluder="twin_complex", twin=clips.flip(0))
    for i in range(2):
        curves = faith.curves(clips[i], maps[i], detector, stft=GRID, steps=4, occluder="twin_complex", twin=clips[1 - i])
        alone = faith.summary(curves)
        assert {name: float(values[i]) for name, values in together.items()} == pytest.approx({name: alone[name] for name in together})


# Scores --------------------------------------------------------------------------------------------


def made(deletion, insertion):
    curve = [np.array(c, float) for c in (deletion, insertion)]
    return faith.Curves("zero", np.linspace(0, 1, len(deletion)), *curve, *curve)


def test_summary_by_hand():
    curves = made([4, 2, 0], [0, 3, 4])
    scores = faith.summary(curves, gap=4.0, score_range=(1.0, 5.0))
    assert (scores["deletion"], scores["insertion"], scores["srg"]) == (2, 2.5, 0.5)
    assert (scores["deletion_normalized"], scores["insertion_normalized"], scores["srg_normalized"]) == (0.5, 0.625, 0.125)
    assert scores["out_of_range"] == pytest.approx(1 / 3)  # 2, 0 and 3 were asked; 0 lies outside
    assert scores["range_excess"] == 1


def test_without_a_gap_normalised_scores_are_nan_with_a_reason():
    for gap in (None, 0.0, -1.0):
        scores = faith.summary(made([4, 2, 0], [0, 3, 4]), gap=gap)
        undefined = {name for name, value in scores.items() if np.isnan(value)}
        assert undefined == {"deletion_normalized", "insertion_normalized", "srg_normalized", "out_of_range", "range_excess"}
        assert undefined == {name for name in scores if faith.undefined_reason(name, gap)}


def test_without_known_clips_the_range_is_that_of_the_twins_widened():
    assert faith.known_range([0.0, 10.0, np.nan, 4.0]) == (-1.0, 11.0)
    curves = made([4, -0.3, 0], [0, 4.5, 4])
    assert faith.summary(curves, gap=4.0)["out_of_range"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="log_odds must hold a finite score, got none"):
        faith.known_range([np.nan])


def test_one_odd_clip_cannot_widen_the_known_range():
    scores = np.linspace(0, 10, 99)
    low, high = faith.known_range([*scores, -60.0])
    assert -1.5 < low < 0
    assert 10 < high < 11.5


def test_every_score_has_a_record(scene):
    curves = probe(scene, Linear().eval()).curves(scene["heatmap"], steps=2, budgets=(0.05,), soft=True)
    for name, value in faith.summary(curves, gap=2.0).items():
        assert info(name).name == name
        assert info(name).low <= value <= info(name).high


def test_confidence_over_all_budgets_costs_no_forward_and_shows_the_trivial_masks(scene):
    curves = probe(scene, Curved().eval()).curves(scene["heatmap"], steps=4)
    found = faith.confidence_curves(curves)
    assert found["average_drop"][-1] == 0  # keeping everything is perfect, whatever the map
    assert found["fidelity_in"][-1] == 1
    assert found["faithfulness_of_spectra"][0] == 0  # removing nothing loses nothing
    assert found["log_odds_removed"][2] == pytest.approx(curves.original - curves.deletion[2])


def logit(p):
    return torch.logit(torch.tensor([p], dtype=torch.float64))


@pytest.mark.parametrize(("p", "o"), [(0.9, 0.5), (0.5, 0.9), (0.99, 0.01), (0.3, 0.3)])
def test_confidence_metrics_by_their_definitions(p, o):
    assert float(faith.average_increase(logit(p), logit(o))) == 100 * (o > p)
    assert float(faith.average_drop(logit(p), logit(o))) == pytest.approx(100 * max(0, p - o) / p)
    assert float(faith.average_gain(logit(p), logit(o))) == pytest.approx(100 * max(0, o - p) / (1 - p))
    assert float(faith.fidelity_in(logit(p), logit(o))) == float((p > 0.5) == (o > 0.5))
    assert float(faith.faithfulness_of_spectra(logit(p), logit(o))) == pytest.approx(p - o)


def test_a_total_drop_reads_100_and_not_63_per_cent():
    assert float(faith.average_drop(torch.tensor([50.0]), torch.tensor([-800.0]))) == pytest.approx(100)
    assert float(faith.average_drop(logit(0.9), logit(0.5))) == pytest.approx(44.4, abs=0.1)  # softmax twice reads 27.5


def test_saturated_detectors_lose_no_digit():
    s, further = torch.tensor([40.0]), torch.tensor([41.0])  # both sigmoids are 1.0 in float64
    assert float(faith.average_increase(s, further)) == 100
    assert float(faith.average_gain(s, further)) == pytest.approx(100 * (1 - np.exp(-1)))
    assert float(faith.average_gain(s, further, scale="log_odds")) == 1
    assert float(faith.average_drop(-further * 20, -further * 20 - 1)) == pytest.approx(100 * (1 - np.exp(-1)))


def test_a_threshold_moves_the_decision():
    s, o = torch.tensor([3.0]), torch.tensor([1.0])
    assert float(faith.fidelity_in(s, o)) == 1
    assert float(faith.fidelity_in(s, o, threshold=2.0)) == 0
    assert float(faith.average_drop(s, o, threshold=2.0)) == pytest.approx(float(faith.average_drop(s - 2, o - 2)))


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_confidence_metrics_stay_in_their_ranges(s, o):
    original, other = torch.tensor([s], dtype=torch.float64), torch.tensor([o], dtype=torch.float64)
    for name, value in faith.confidence(original, other, other).items():
        assert info(name).low <= float(value) <= info(name).high, name


@pytest.mark.parametrize("normalize", [True, False])
def test_infidelity_is_captums_on_grids_of_any_size_and_zero_on_a_linear_function(normalize):
    from captum.metrics import infidelity

    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    inputs, maps, weights, noise = draw(3, 17, 11), draw(3, 17, 11), draw(17, 11), 0.1 * draw(6, 3, 17, 11)

    def curved(x):
        return torch.tanh((x * weights).sum((1, 2)) / 20)

    changes = curved(inputs) - torch.stack([curved(inputs - one) for one in noise])
    copies = noise.transpose(0, 1).flatten(0, 1)  # captum holds all copies of the first clip, then of the second
    theirs = infidelity(curved, lambda repeated: (copies, repeated - copies), inputs, maps, n_perturb_samples=6, normalize=normalize)
    torch.testing.assert_close(faith.infidelity(maps, noise, changes, normalize=normalize), theirs)
    linear = (noise * weights).sum((2, 3))
    exact = faith.infidelity(weights.expand(3, 17, 11), noise, linear, normalize=normalize)
    assert exact.abs().max() < 1e-20
    scaled = faith.infidelity(5 * weights.expand(3, 17, 11), noise, linear, normalize=normalize)
    assert (scaled < 1e-20).all() == normalize
    blank = faith.infidelity(torch.zeros(3, 17, 11), noise, linear, normalize=normalize)
    torch.testing.assert_close(blank, linear.square().mean(0))
    with pytest.raises(
        ValueError, match=r"perturbations and changes must be \(R, 3, 17, 11\) and \(R, 3\), got \(6, 3, 17, 11\) and \(6,\)"
    ):
        faith.infidelity(maps, noise, changes[:, 0])


# Occluders and errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("occluder", OCCLUDERS.names())
def test_occluders_fill_the_grid_even_of_a_silent_clip(scene, occluder):
    for waveform in (scene["waveform"], torch.zeros(SAMPLES)):
        filled = fill({**scene, "waveform": waveform}, occluder)
        assert filled.shape == SHAPE
        assert filled.is_complex()
        assert torch.isfinite(filled.abs()).all()


def test_occluders_do_what_their_names_say(scene):
    spectrum, config = stft(scene["waveform"], GRID), scene["twin"]
    level = spectrum.abs()
    floor = fill(scene, "floor:level_db=-20")
    torch.testing.assert_close(floor.abs(), torch.minimum(level, level.max() / 10))
    torch.testing.assert_close(floor / floor.abs(), spectrum / level)
    torch.testing.assert_close(fill(scene, "mean").abs(), stft(scene["references"], GRID).abs().mean((0, 2))[:, None].expand(SHAPE))
    torch.testing.assert_close(fill(scene, "twin_complex"), stft(config, GRID))
    torch.testing.assert_close(fill(scene, "twin_magnitude").abs(), stft(config, GRID).abs())
    noise = torch.stack([fill(scene, "noise", seed).abs().square() for seed in range(300)]).mean((0, 2))
    torch.testing.assert_close(noise, level.square().mean(1), rtol=0.15, atol=0)


def test_bad_input_is_refused_with_the_remedy(scene):
    detector = Linear().eval()
    with pytest.raises(ValueError, match="twin must be given for the occluder 'twin_complex', got None"):
        Probe(scene["waveform"], detector, occluder="twin_complex", stft=GRID)
    with pytest.raises(UnknownNameError, match="did you mean twin_complex"):
        probe(scene, detector, "twin_komplex")
    with pytest.raises(ValueError, match=r"heatmap must have the clip's grid \(17, 41\), got \(41, 17\)"):
        probe(scene, detector).curves(scene["heatmap"].T)
    with pytest.raises(ValueError, match="heatmap must be finite"):
        probe(scene, detector).curves(scene["heatmap"] * float("nan"))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        probe(scene, detector).curves(scene["heatmap"], steps=0)
    with pytest.raises(ValueError, match=r"budgets must lie between 0 and 1, got \(5,\)"):
        probe(scene, detector).curves(scene["heatmap"], budgets=(5,))
    with pytest.raises(ValueError, match=r"waveform must be one clip \(T,\)"):
        Probe(scene["waveform"][None], detector, stft=GRID)
    with pytest.raises(ValueError, match=r"twin must have waveform's shape \(320,\), got \(100,\)"):
        Probe(scene["waveform"], detector, twin=scene["twin"][:100], stft=GRID)
    with pytest.raises(ValueError, match=r"waveform must be \(B, T\) with heatmap's B 1"):
        faith.deletion_insertion(scene["waveform"], scene["heatmap"][None], detector, stft=GRID)
    with pytest.raises(ValueError, match="scale must be probability or log_odds, got 'percent'"):
        faith.average_drop(torch.zeros(1), torch.zeros(1), scale="percent")
    with pytest.raises(ValueError, match="log-odds must be finite"):
        faith.average_drop(torch.zeros(1), torch.tensor([float("nan")]))


def test_a_detector_that_breaks_on_masked_clips_is_named(scene):
    class Broken(Linear):
        def forward(self, waveform):
            return super().forward(waveform) / waveform.abs().sum(-1)

    with pytest.raises(ValueError, match="log-odds must be finite, got NaN or infinity under the occluder 'zero'"):
        probe({**scene, "waveform": torch.zeros(SAMPLES)}, Broken().eval()).curves(scene["heatmap"])


@pytest.mark.gpu
def test_curves_on_the_accelerator_equal_those_on_the_cpu(scene):
    here = probe(scene, Curved().eval()).curves(scene["heatmap"])
    there = probe(scene, Curved().eval().cuda()).curves(scene["heatmap"].cuda())
    np.testing.assert_allclose(here.deletion, there.deletion, atol=1e-3)


def test_confidence_over_the_area_stands_beside_random_and_trivial_masks(scene):
    curves = probe(scene, Curved().eval()).curves(scene["heatmap"], steps=2, budgets=(0.05, 0.125, 0.2))
    scores = faith.summary(curves)
    for i, suffix in ((0, ""), (1, "_at_12.5"), (2, "_at_20")):
        original, kept, removed = (torch.tensor([float(x)]) for x in (curves.original, curves.masked_in[i], curves.masked_out[i]))
        assert scores[f"average_drop{suffix}"] == pytest.approx(float(faith.average_drop(original, kept)))
        assert scores[f"faithfulness_of_spectra{suffix}"] == pytest.approx(float(faith.faithfulness_of_spectra(original, removed)))
    random = torch.tensor([float(curves.random_in[2])])
    assert scores["average_gain_random_at_20"] == pytest.approx(
        float(faith.average_gain(torch.tensor([curves.original]), random)), rel=1e-5
    )
    assert (scores["average_drop_all"], scores["average_increase_all"], scores["fidelity_in_all"]) == (0, 0, 1)
    assert scores["log_odds_removed_all"] == pytest.approx(curves.original - curves.occluded)
    for name in scores:
        assert info(name).name == name
    assert info("average_drop_random_at_20").family == "diagnostic"
    assert info("average_drop_at_12.5").title == "Average drop at 12.5 % of the cells"
