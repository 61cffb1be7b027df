"""Localisation: closed forms, slow re-derivations, other people's code, and the traps into which metric libraries fall."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xaibench
from xaibench.benchmark.metrics import localization as loc
from xaibench.benchmark.metrics.info import info
from xaibench.benchmark.metrics.target import Target
from xaibench.tasks.masks import top_cells

PURE = {
    "generalized_dice": loc.generalized_dice,
    "dice": loc.dice,
    "iou": loc.iou,
    "average_precision": loc.average_precision,
    "auroc": loc.auroc,
    "relevance_mass": loc.relevance_mass,
    "relevance_rank": loc.relevance_rank,
    "pointing_game": loc.pointing_game,
}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def clips(rng):
    """Four clips whose heatmaps have ties, both signs, and agree a little with the mask."""
    mask = rng.random((4, 33, 20)) < 0.1
    heatmap = np.round(rng.normal(size=mask.shape) + 0.7 * mask, 1).astype(np.float32)
    return heatmap, mask


def predictions(area: int, predicted: int, found: int, cells: int = 400):
    """A mask and a bool prediction with given counts, (1, 20, 20) each."""
    mask, prediction = np.zeros(cells, bool), np.zeros(cells, bool)
    mask[:area] = True
    prediction[area - found : area - found + predicted] = True
    return prediction.reshape(1, 20, -1), mask.reshape(1, 20, -1)


# Generalized Dice: closed forms --------------------------------------------------------------------


@pytest.mark.parametrize(("density", "rate"), list(product((0.05, 0.25, 0.5), (0.0, 0.2, 0.6, 1.0))))
def test_generalized_dice_of_an_independent_prediction_is_2m_1_minus_m(density, rate):
    area, predicted, found = (round(400 * x) for x in (density, rate, density * rate))
    prediction, mask = predictions(area, predicted, found)
    assert loc.generalized_dice(prediction, mask)[0] == pytest.approx(2 * density * (1 - density), abs=1e-12)
    assert loc.generalized_dice(prediction, mask, chance_corrected=True)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("found", [0, 1, 7, 20])
def test_at_equal_area_all_overlaps_are_one_degree_of_freedom(found):
    m = 0.05
    prediction, mask = predictions(20, 20, found)
    dice = found / 20
    affine = dice * ((1 - m) + m**2 / (1 - m)) + m * (1 - 2 * m) / (1 - m)
    assert loc.dice(prediction, mask)[0] == pytest.approx(dice)
    assert loc.iou(prediction, mask)[0] == pytest.approx(dice / (2 - dice))
    assert loc.generalized_dice(prediction, mask)[0] == pytest.approx(affine, abs=1e-12)
    heatmap = prediction.astype(np.float32)
    assert loc.relevance_rank(heatmap, mask)[0] == pytest.approx(loc.dice(heatmap, mask)[0])


def test_generalized_dice_weights_are_square_and_cover_both_classes():
    prediction, mask = predictions(10, 10, 5)  # 2.5 % area, half overlap: metrics.md gives .512 square, .744 simple, .976 uniform
    assert loc.generalized_dice(prediction, mask)[0] == pytest.approx(0.512, abs=5e-4)


# Other people's code -------------------------------------------------------------------------------


def test_average_precision_and_auroc_agree_with_scikit_learn_under_ties(clips):
    from sklearn.metrics import average_precision_score, roc_auc_score

    heatmap, mask = clips
    for i in range(len(mask)):
        truth, scores = mask[i].ravel(), heatmap[i].ravel()
        assert loc.average_precision(heatmap, mask)[i] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
        assert loc.auroc(heatmap, mask)[i] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_spearman_agrees_with_scipy_under_ties(clips, rng):
    from scipy.stats import spearmanr

    heatmap, _ = clips
    difference = np.round(rng.gamma(2, size=heatmap.shape), 1)
    expected = [spearmanr(h.ravel(), d.ravel()).statistic for h, d in zip(heatmap, difference, strict=True)]
    np.testing.assert_allclose(loc.spearman(heatmap, difference), expected, atol=1e-12)
    assert loc.spearman(heatmap, heatmap)[0] == pytest.approx(1)
    assert loc.spearman(-heatmap, heatmap)[0] == pytest.approx(-1)


def test_generalized_dice_agrees_with_monai_on_non_empty_masks(clips):
    monai = pytest.importorskip("monai.metrics.generalized_dice", reason="cross-check needs the extra: pip install xaibench[xcheck]")
    heatmap, mask = clips
    prediction, truth = (torch.from_numpy(np.stack([~x, x], 1)).float() for x in (heatmap > 0.5, mask))
    theirs = monai.compute_generalized_dice(prediction, truth, include_background=True, weight_type="square", sum_over_classes=True)
    np.testing.assert_allclose(loc.generalized_dice(heatmap > 0.5, mask), theirs.ravel(), rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_generalized_dice_agrees_with_torchmetrics_clip_by_clip(clips):
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation", reason="cross-check needs: pip install xaibench[xcheck]")
    heatmap, mask = clips
    theirs = [
        float(
            segmentation.generalized_dice_score(
                torch.from_numpy((h > 0.5) * 1)[None], torch.from_numpy(m * 1)[None], 2, input_format="index"
            )
        )
        for h, m in zip(heatmap, mask, strict=True)
    ]
    np.testing.assert_allclose(loc.generalized_dice(heatmap > 0.5, mask), theirs, rtol=1e-5)


# Slow re-derivations -------------------------------------------------------------------------------


def slow_stratified_auc(heatmap, mask, magnitude):
    strata = {}
    bins = len(heatmap)
    for f, n in np.ndindex(heatmap.shape):
        decibels = 20 * math.log10(magnitude.max() / magnitude[f, n])
        strata.setdefault((f * 16 // bins, int(decibels // 9)), []).append((heatmap[f, n], mask[f, n]))
    won = pairs = 0.0
    for cells in strata.values():
        inside, outside = ([a for a, hit in cells if hit == wanted] for wanted in (True, False))
        won += sum(0.5 if a == b else float(a > b) for a in inside for b in outside)
        pairs += len(inside) * len(outside)
    return won / pairs


@pytest.mark.parametrize("digits", [1, 6])
def test_stratified_auc_is_the_pairwise_win_rate_inside_strata(rng, digits):
    mask = rng.random((2, 40, 9)) < 0.2
    heatmap = np.round(rng.normal(size=mask.shape) + mask, digits).astype(np.float32)
    magnitude = 10 ** rng.uniform(-3, 1, mask.shape)
    expected = [slow_stratified_auc(*clip) for clip in zip(heatmap, mask, magnitude, strict=True)]
    np.testing.assert_allclose(loc.stratified_auc(heatmap, mask, magnitude), expected, atol=1e-12)


def test_stratified_auc_gives_a_half_to_what_frequency_and_level_explain(rng):
    mask = rng.random((1, 64, 30)) < 0.2
    band = np.broadcast_to((np.arange(64) // 4)[None, :, None], mask.shape)
    assert loc.stratified_auc(band.astype(np.float32), mask, np.ones(mask.shape))[0] == pytest.approx(0.5)
    assert loc.stratified_auc(mask.astype(np.float32), mask, np.ones(mask.shape))[0] == 1


def test_strata_end_at_160_db_and_survive_digital_silence(rng):
    mask = rng.random((1, 16, 50)) < 0.3
    magnitude = np.where(rng.random(mask.shape) < 0.5, 0.0, 1e-30)
    magnitude[0, 0, 0] = 1.0
    assert 0 <= loc.stratified_auc(rng.normal(size=mask.shape), mask, magnitude)[0] <= 1
    assert loc.stratified_auc(mask * 1.0, mask, np.zeros(mask.shape))[0] == 1


def test_marginals_keep_one_axis_only(rng):
    frames = rng.random(30) < 0.3
    mask = np.broadcast_to(frames, (1, 16, 30)).copy()
    heatmap = mask + rng.normal(size=mask.shape) * 0.1
    scores = loc.score(heatmap[0], mask[0])
    assert scores["time_auroc"] == scores["time_average_precision"] == 1
    assert scores["frequency_auroc"] == 0.5
    assert scores["frequency_average_precision"] == pytest.approx(mask.mean())
    for axis in ("time", "frequency"):
        flat = loc.marginal(heatmap, axis)
        assert scores[f"{axis}_auroc"] == pytest.approx(loc.auroc(flat, mask)[0], abs=1e-12)
        assert scores[f"{axis}_average_precision"] == pytest.approx(loc.average_precision(flat, mask)[0], abs=1e-12)


# Traps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 3.0, -3.0])
def test_a_constant_map_scores_chance_and_never_hits_by_luck(level):
    mask = np.zeros((1, 40, 50), bool)
    mask[:, :10, :10] = True  # 5 %, at the start of memory, where unstable sorts find it
    constant = np.full(mask.shape, level, np.float32)
    scores = loc.score(constant[0], mask[0], magnitude=np.ones(mask.shape[1:]), difference=mask[0] * 1.0)
    for name in ("average_precision", "pointing_game", "relevance_mass", "time_average_precision", "frequency_average_precision"):
        assert scores[name] == pytest.approx(0.05, abs=1e-12), name
    for name in ("auroc", "stratified_auc", "time_auroc", "frequency_auroc"):
        assert scores[name] == 0.5, name
    assert scores["spearman"] == 0
    assert scores["dice"] == pytest.approx(0.05, abs=0.05)
    assert scores["tied_cells"] == mask.size


def test_a_sparse_map_is_binarised_at_exactly_the_masks_area(rng):
    mask = rng.random((1, 50, 40)) < 0.05
    sparse = np.where(rng.random(mask.shape) < 0.03, rng.random(mask.shape), 0).astype(np.float32)
    chosen, ties = top_cells(torch.from_numpy(sparse), int(mask.sum()))
    assert chosen.sum() == mask.sum()
    assert loc.dice(sparse, mask)[0] == loc.dice(chosen.numpy(), mask)[0]
    assert loc.tied_cells(sparse, mask)[0] == ties[0] > 1000


def test_relevance_mass_of_a_signed_map_stays_a_share(rng):
    mask = rng.random((3, 20, 20)) < 0.05
    heatmap = rng.normal(size=mask.shape)
    positive = np.maximum(heatmap, 0)
    np.testing.assert_allclose(loc.relevance_mass(heatmap, mask), (positive * mask).sum((1, 2)) / positive.sum((1, 2)))
    np.testing.assert_allclose(loc.relevance_mass(-positive - 1, mask), mask.mean((1, 2)))


def test_pointing_game_counts_the_share_of_tied_maxima_and_tolerates_as_asked():
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 4, 4] = True
    heatmap = np.zeros((1, 9, 9), np.float32)
    heatmap[0, 4, [4, 5, 6, 8]] = 1
    assert loc.pointing_game(heatmap, mask)[0] == 0.25
    assert loc.pointing_game(heatmap, mask, tolerance_bins=1)[0] == 0.5
    assert loc.pointing_game(heatmap, mask, tolerance_bins=2)[0] == 0.75
    assert xaibench.load("metric", "pointing_game:tolerance_bins=2")(heatmap, mask)[0] == 0.75


def test_an_empty_mask_is_nan_with_a_reason_and_not_a_hit(clips):
    heatmap, mask = clips
    mask = mask.copy()
    mask[1] = False
    for name, metric in PURE.items():
        scores = metric(heatmap, mask)
        assert math.isnan(scores[1]), name
        assert np.isfinite(np.delete(scores, 1)).all(), name
        assert [bool(reason) for reason in loc.undefined_reason(name, heatmap, mask)] == [False, True, False, False]
    assert "empty" in loc.undefined_reason("dice", heatmap[1], mask[1])


def test_a_full_mask_leaves_only_what_needs_one_class(clips):
    heatmap, _ = clips
    full = np.ones(heatmap.shape, bool)
    assert np.isnan(loc.generalized_dice(heatmap, full)).all()
    assert np.isnan(loc.auroc(heatmap, full)).all()
    assert (loc.dice(heatmap, full) == 1).all()
    assert (loc.average_precision(heatmap, full) == 1).all()
    assert "full" in loc.undefined_reason("auroc", heatmap[0], full[0])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scores_do_not_depend_on_the_scale(clips, scale):
    heatmap, mask = clips
    for name, metric in PURE.items():
        np.testing.assert_allclose(metric(heatmap * np.float32(scale), mask), metric(heatmap, mask), rtol=1e-5, err_msg=name)


def test_scores_do_not_depend_on_neighbours_or_order_in_the_batch(clips):
    heatmap, mask = clips
    order = [2, 0, 3, 1]
    loud = heatmap.copy()
    loud[1:] *= 1e7
    for name, metric in PURE.items():
        together = metric(heatmap, mask)
        np.testing.assert_array_equal(metric(heatmap[order], mask[order]), together[order], err_msg=name)
        assert metric(loud, mask)[0] == together[0] == metric(heatmap[:1], mask[:1])[0], name


def test_inputs_are_never_written_to(clips):
    heatmap, mask = clips
    valid = np.ones_like(mask)
    for array in (heatmap, mask, valid):
        array.flags.writeable = False
    for metric in PURE.values():
        metric(heatmap, mask, valid)
    loc.score(heatmap[0], mask[0], valid=valid[0], magnitude=abs(heatmap[0]), difference=abs(heatmap[0]))
    tensor = torch.from_numpy(heatmap.copy())
    before = tensor.clone()
    loc.relevance_mass(tensor, torch.from_numpy(mask.copy()))
    assert torch.equal(tensor, before)


def test_invalid_cells_change_nothing(clips, rng):
    heatmap, mask = clips
    valid = np.zeros_like(mask)
    valid[:, :, :12] = True
    noisy, marked = heatmap.copy(), mask.copy()
    noisy[:, :, 12:] = 100 * rng.random(noisy[:, :, 12:].shape)
    marked[:, :, 12:] = True
    for name, metric in PURE.items():
        expected = metric(heatmap[:, :, :12].copy(), mask[:, :, :12].copy())
        tolerance = 0.1 if name in ("generalized_dice", "dice", "iou", "relevance_rank") else 1e-12  # the cut may fall between ties
        np.testing.assert_allclose(metric(noisy, marked, valid), expected, atol=tolerance, err_msg=name)


def test_torch_and_numpy_give_equal_scores_in_their_own_container(clips):
    heatmap, mask = clips
    for metric in PURE.values():
        tensor = metric(torch.from_numpy(heatmap), torch.from_numpy(mask))
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == torch.float64
        np.testing.assert_array_equal(tensor.numpy(), metric(heatmap, mask))
    half = torch.from_numpy(heatmap).to(torch.bfloat16)
    assert torch.equal(loc.auroc(half, torch.from_numpy(mask)), loc.auroc(half.float(), torch.from_numpy(mask)))


def test_float64_maps_keep_their_order_beyond_float32():
    mask = np.array([[[True, False, False]]])
    heatmap = 1.0 + np.array([[[3e-12, 2e-12, 1e-12]]])
    assert loc.auroc(heatmap, mask)[0] == loc.dice(heatmap, mask)[0] == 1


def test_polarity_is_explicit(clips):
    heatmap, _ = clips
    assert loc.apply_polarity(heatmap, "signed") is heatmap
    assert (loc.apply_polarity(heatmap, "magnitude") == abs(heatmap)).all()
    assert (loc.apply_polarity(torch.from_numpy(heatmap), "positive").numpy() == np.maximum(heatmap, 0)).all()
    with pytest.raises(ValueError, match="polarity must be signed, positive or magnitude, got 'abs'"):
        loc.apply_polarity(heatmap, "abs")


@pytest.mark.parametrize(
    ("heatmap", "mask", "error", "message"),
    [
        (
            np.ones((1, 3, 4)),
            np.ones((1, 4, 3), bool),
            ValueError,
            r"mask must have heatmap's shape \(1, 3, 4\), got .* transpose the last two",
        ),
        (np.ones((1, 3, 4)), np.ones((1, 3, 5), bool), ValueError, "same STFT grid"),
        (np.ones((1, 3, 4)), np.ones((1, 3, 4)), TypeError, "mask must be boolean, got float64; compare it with a threshold"),
        (np.ones((3, 4)), np.ones((3, 4), bool), ValueError, r"heatmap must have the axes \(B, F, N\)"),
        (np.full((1, 3, 4), np.nan), np.ones((1, 3, 4), bool), ValueError, "heatmap must be finite, got 12 NaN or infinite cells"),
        (np.full((1, 3, 4), np.inf, np.float32), np.ones((1, 3, 4), bool), ValueError, "heatmap must be finite"),
        (np.ones((1, 3, 4), complex), np.ones((1, 3, 4), bool), TypeError, "heatmap must be a torch tensor or numpy array of real"),
        ([[[1.0]]], np.ones((1, 1, 1), bool), TypeError, "got list"),
    ],
)
def test_bad_input_is_refused_at_the_door(heatmap, mask, error, message):
    for metric in PURE.values():
        with pytest.raises(error, match=message):
            metric(heatmap, mask)


def test_score_refuses_predictions_and_negative_magnitudes(clips):
    heatmap, mask = clips
    with pytest.raises(TypeError, match="heatmap must be real-valued, got bool"):
        loc.score(mask[0], mask[0])
    with pytest.raises(ValueError, match="magnitude must be linear and not negative"):
        loc.score(heatmap[0], mask[0], magnitude=heatmap[0])
    with pytest.raises(ValueError, match="tolerance_bins must be at least 0"):
        loc.pointing_game(heatmap, mask, tolerance_bins=-1)


def test_false_alarm_area_needs_no_mask(rng):
    heatmap = rng.random((2, 10, 10))
    valid = np.zeros(heatmap.shape, bool)
    valid[0, :5] = True
    shares = loc.false_alarm_area(heatmap, valid, threshold=0.25)
    assert shares[0] == (heatmap[0, :5] > 0.25).mean()
    assert math.isnan(shares[1])
    assert loc.false_alarm_area(heatmap > 0.25)[1] == (heatmap[1] > 0.25).mean()


# The whole set -------------------------------------------------------------------------------------


def test_score_returns_what_the_public_functions_return(clips, rng):
    heatmap, mask = clips
    magnitude, difference = rng.random(mask.shape), rng.random(mask.shape)
    valid = rng.random(mask.shape) < 0.8
    scores = loc.score(heatmap[1], mask[1], valid=valid[1], magnitude=magnitude[1], difference=difference[1])
    expected = {name: metric(heatmap, mask, valid)[1] for name, metric in PURE.items()}
    expected["stratified_auc"] = loc.stratified_auc(heatmap, mask, magnitude, valid)[1]
    expected["spearman"] = loc.spearman(heatmap, difference, valid)[1]
    expected["generalized_dice_corrected"] = loc.generalized_dice(heatmap, mask, valid, chance_corrected=True)[1]
    expected["tied_cells"] = loc.tied_cells(heatmap, mask, valid)[1]
    for axis in ("time", "frequency"):
        for name in ("auroc", "average_precision"):
            expected[f"{axis}_{name}"] = xaibench.load("metric", f"{axis}_{name}")(heatmap, mask, valid)[1]
    assert scores == pytest.approx(expected, abs=1e-12)
    assert {name for name in scores if info(name).name == name} == set(scores)


def test_oracle_noise_and_random_maps_are_ordered(rng):
    mask = rng.random((30, 40, 30)) < 0.05
    noise = rng.normal(size=mask.shape)
    for name, metric in PURE.items():
        oracle, noisy, random = (metric(mask * weight + noise, mask).mean() for weight in (100, 1.5, 0))
        assert oracle > noisy > random, name
        chance = {"generalized_dice": 0.095, "auroc": 0.5, "iou": 0.05 / 1.95}.get(name, 0.05)
        assert random == pytest.approx(chance, abs=0.15 if name == "pointing_game" else 0.02), name


VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-38, -1e-38, 1e-45, 3e38, -3e38, 0.5])


@st.composite
def degenerate_clips(draw):
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    cells = shape[0] * shape[1]
    columns = [draw(st.lists(kind, min_size=cells, max_size=cells)) for kind in (VALUES, st.booleans(), st.booleans(), VALUES)]
    heatmap, mask, valid, field = (np.array(column).reshape(shape) for column in columns)
    return heatmap.astype(np.float32), mask, valid, field.astype(np.float32)


def slow_average_precision(relevance, truth):
    """Mean, over masked cells, of the precision among the cells that are at least as relevant."""
    return np.mean([truth[relevance >= value].mean() for value in relevance[truth]])


def slow_auroc(relevance, truth):
    return np.mean([0.5 * (a == b) + (a > b) for a in relevance[truth] for b in relevance[~truth]])


@settings(max_examples=100, deadline=None)
@given(degenerate_clips())
def test_every_degenerate_clip_gets_a_score_in_range_or_nan_with_a_reason(clip):
    heatmap, mask, valid, field = clip
    target = Target.of(mask, valid=valid, magnitude=abs(field), difference=field)
    scores = target.score(heatmap)
    for name, value in scores.items():
        record = info(name)
        assert math.isnan(value) == bool(target.why(name)), name
        assert math.isnan(value) or record.low - 1e-12 <= value <= record.high + 1e-12, name
    truth, relevance = mask[valid], heatmap[valid]
    if truth.any():
        assert scores["average_precision"] == pytest.approx(slow_average_precision(relevance, truth))
    if truth.any() and not truth.all():
        assert scores["auroc"] == pytest.approx(slow_auroc(relevance, truth))


@pytest.mark.gpu
def test_tensors_of_the_accelerator_stay_there(clips):
    heatmap, mask = (torch.from_numpy(x).cuda() for x in clips)
    for metric in PURE.values():
        scores = metric(heatmap, mask)
        assert scores.device == heatmap.device
        assert torch.equal(scores.cpu(), metric(heatmap.cpu(), mask.cpu()))
