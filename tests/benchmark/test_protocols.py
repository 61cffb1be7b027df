"""Protocols: what each leg trains and tests on, what degradations do to a pair, and that a loop of runs ends in one table."""

import csv
import io

import numpy as np
import pytest
import torch

from xaibench.benchmark import protocols
from xaibench.benchmark.metrics.localization import generalized_dice
from xaibench.benchmark.protocols import PROTOCOLS, legs, run_protocol
from xaibench.benchmark.suite import Suite, select_pairs
from xaibench.errors import DataError, UnknownNameError
from xaibench.explainers.controls import priors
from xaibench.registry import EXPLAINERS
from xaibench.tasks import degradation
from xaibench.tasks.corpora.minivoc import Minivoc
from xaibench.tasks.corpora.public_pairs import PublicPairs
from xaibench.tasks.degradation import CONDITIONS, DegradedTask, degrade
from xaibench.tasks.legs import LegTask
from xaibench.tasks.masks import truth
from xaibench.types import Clip

SUITE = Suite("small", controls=("random", "frequency_prior", "oracle_mask"), n_draws=100)


def test_leaving_each_vocoder_out_covers_every_family_once_and_trains_on_none_of_it():
    task = PublicPairs(include_unnamed=True)
    everything = [p for split in ("train", "dev", "test") for p in task.pairs(split)]
    found = legs("unseen-vocoder", [task])
    assert len(found) == len({p.family for p in everything}) >= 20
    for leg in found:
        test, train = leg.task.pairs("test"), leg.task.pairs("train")
        assert len({p.family for p in test}) == 1
        assert test[0].family not in {p.family for p in train}
        assert not {p.utterance for p in test} & {p.utterance for p in train}
        assert bool(leg.note) == (not [p for p in task.pairs("test") if p.family == test[0].family])
        assert leg.task.name not in ("public_pairs", "minivoc")


def test_folds_of_speakers_test_every_pair_once_and_share_nobody():
    task = PublicPairs()
    everything = {p.id for split in ("train", "dev", "test") for p in task.pairs(split)}
    found = legs("unseen-speaker", [task])
    assert len(found) == 5
    tested = [p.id for leg in found for p in leg.task.pairs("test")]
    assert len(tested) == len(set(tested)) == len(everything)
    for leg in found:
        test, train = leg.task.pairs("test"), leg.task.pairs("train")
        assert not {p.speaker for p in test} & {p.speaker for p in train}
        assert not {p.utterance for p in test} & {p.utterance for p in train}


def test_seen_and_the_matrix_of_corpora():
    pairs, mini = PublicPairs(), Minivoc()
    (seen,) = legs("seen", [pairs])
    assert {p.seen_vocoder for p in seen.task.pairs("test")} == {True}
    matrix = legs("cross-corpus", [pairs, mini])
    assert [leg.name for leg in matrix] == [f"{a}-to-{b}" for a in ("public_pairs", "minivoc") for b in ("public_pairs", "minivoc")]
    assert [leg.task.name for leg in matrix] == ["public_pairs", "public_pairs", "minivoc", "minivoc"]
    assert {p.id for p in matrix[1].task.pairs("test")} == {p.id for p in mini.pairs("test")}
    assert len({leg.task.fingerprint() for leg in matrix}) == 4
    with pytest.raises(DataError, match=r"tasks must be two or more for cross-corpus, got 1"):
        legs("cross-corpus", [mini])
    with pytest.raises(UnknownNameError, match=r"protocol must be one of seen, .* got 'other'"):
        legs("other", [mini])


@pytest.fixture(scope="module")
def clip():
    task = Minivoc()
    return task.load(next(p for p in task.pairs("test") if p.vocoder == "lpc"))


@pytest.mark.parametrize("condition", sorted(CONDITIONS))
def test_twins_stay_twins_and_the_clean_mask_is_carried_along(clip, condition):
    same = degrade(Clip(clip.pair, clip.spoof, clip.spoof, clip.valid_samples), condition)
    torch.testing.assert_close(same.bonafide, same.spoof, atol=1e-6, rtol=0)
    changed = degrade(clip, condition)
    assert torch.equal(changed.planted, truth(clip).mask)
    assert torch.equal(truth(changed, "clean-pair-v1").mask, truth(clip).mask)
    again = truth(changed).mask
    assert int(again.sum()) == int(truth(clip).mask.sum())
    assert not torch.equal(again, truth(clip).mask)
    assert torch.equal(degrade(clip, condition).spoof, changed.spoof)


@pytest.mark.parametrize(("condition", "snr"), [("noise20", 20), ("noise10", 10)])
def test_noise_has_the_stated_snr_on_the_recording_and_is_the_same_on_both(clip, condition, snr):
    size = clip.valid_samples
    real = clip.bonafide[:size].double().numpy()
    noise = [CONDITIONS[condition](w, np.random.default_rng(3), real) - w for w in (real, clip.spoof[:size].double().numpy())]
    assert 10 * np.log10(np.square(real).mean() / np.square(noise[0]).mean()) == pytest.approx(snr, abs=1e-6)
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-12)


def test_the_telephone_cuts_the_band_and_a_room_adds_a_tail():
    sound = np.random.default_rng(0).standard_normal(16000) * 0.1
    spectrum = np.abs(np.fft.rfft(CONDITIONS["telephone"](sound, np.random.default_rng(0), sound))) ** 2
    assert spectrum[5000:].mean() < 0.02 * spectrum[1000:3000].mean()
    click = np.zeros(16000)
    click[100] = 1.0
    tail = CONDITIONS["reverb"](click, np.random.default_rng(0), click)
    power = [np.square(tail[at : at + 800]).sum() for at in (140, 4100)]
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(60 * 3960 / 16000 / 0.5, abs=4)


def test_an_unknown_condition_is_refused(clip):
    with pytest.raises(UnknownNameError, match=r"condition must be one of telephone, .* got 'rain'"):
        degrade(clip, "rain")


@pytest.fixture
def small():
    """Four test pairs of minivoc, trained on four others of other speakers and vocoders."""
    task = Minivoc()
    pairs = task.pairs("test")
    test = pairs[:4]
    train = [p for p in pairs if p.speaker not in {t.speaker for t in test}][:6]
    return LegTask(leg="small", trained="tiny", train=tuple((task, p) for p in train), test=tuple((task, p) for p in test))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_degraded_leg_keeps_pairs_and_speakers_and_carries_the_clean_mask(small):
    clean, *others = legs("degraded", [small])
    assert [leg.name for leg in others] == [f"tiny-{name}" for name in CONDITIONS]
    pair = clean.task.pairs("test")[0]
    noisy = next(leg.task for leg in others if leg.name == "tiny-noise10")
    assert [p.id for p in noisy.pairs("test")] == [p.id for p in clean.task.pairs("test")]
    clip = noisy.load(noisy.complete(pair))
    assert torch.equal(truth(clip, "clean-pair-v1").mask, truth(small.load(pair)).mask)
    assert noisy.recipes == (small.recipes[0], "clean-pair-v1")


@pytest.mark.slow
def test_degraded_runs_end_in_one_table_with_both_truths(small, tmp_path, monkeypatch):
    monkeypatch.setattr(protocols, "CONDITIONS", ("noise10",))
    monkeypatch.setattr(degradation, "CONDITIONS", {"noise10": CONDITIONS["noise10"]})
    seen = []
    table = run_protocol(
        "degraded",
        ["saliency"],
        [small],
        out=tmp_path,
        limit=2,
        suite=SUITE,
        jobs=1,
        faithfulness=False,
        progress=lambda *a: seen.append(a),
    )
    rows = rows_of(table)
    assert {r["leg"] for r in rows} == {"tiny-clean", "tiny-noise10"}
    noisy = {
        (r["explainer"], r["recipe"]): float(r["mean"]) for r in rows if r["leg"].endswith("noise10") and r["metric"] == "generalized_dice"
    }
    assert {recipe for _, recipe in noisy} == {"sym-floor60-v1", "clean-pair-v1"}
    assert noisy["oracle_mask", "sym-floor60-v1"] == pytest.approx(1)
    assert noisy["oracle_mask", "clean-pair-v1"] == pytest.approx(1)
    assert ("frequency_prior", "clean-pair-v1") in noisy
    assert seen == [(0, 2), (1, 2)]
    assert isinstance(DegradedTask(condition="noise10", base=small).pairs("test"), list)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_ends_in_a_table_on_real_pairs(protocol, shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr(priors, "FIT_PAIRS", 12)
    tasks = [PublicPairs(data=str(shared_data)), *([Minivoc()] if protocol == "cross-corpus" else [])]
    planned = legs(protocol, tasks)
    table = run_protocol(protocol, [], tasks, out=tmp_path, limit=2, suite=SUITE, jobs=1, faithfulness=False)
    found = {}
    for row in rows_of(table):
        if row["metric"] == "generalized_dice":
            found.setdefault((row["leg"], row["recipe"]), {})[row["explainer"]] = float(row["mean"])
    assert {leg for leg, _ in found} == {leg.name for leg in planned}
    assert len(planned) == {"seen": 1, "unseen-vocoder": 19, "unseen-speaker": 5, "cross-corpus": 4, "degraded": 7}[protocol]
    for scores in found.values():
        assert scores["oracle_mask"] == pytest.approx(1)
        assert scores["random"] == pytest.approx(0.095, abs=0.02)
        assert 0.047 <= scores["frequency_prior"] < 0.8
    task, again = planned[0].task, []
    for pair in select_pairs(task.pairs("test"), 2):  # the table that stands in the first leg is fitted on that leg's training pairs
        clip = task.load(task.complete(pair))
        known = truth(clip)
        table = EXPLAINERS.load("frequency_prior").bind(task.name).prepare(task, clip.pair)
        again.append(float(generalized_dice(table.explain(clip.spoof[None], None), known.mask[None], known.valid[None])))
    assert found[planned[0].name, "sym-floor60-v1"]["frequency_prior"] == pytest.approx(np.mean(again), abs=1e-6)


@pytest.mark.slow
def test_a_network_is_trained_on_each_leg_where_steps_are_given(small, tmp_path):
    table = run_protocol("seen", ["one_shot"], [small], out=tmp_path, limit=2, suite=SUITE, jobs=1, faithfulness=False, fit_steps=3)
    rows = [r for r in rows_of(table) if r["explainer"].startswith("one_shot") and r["metric"] == "generalized_dice"]
    assert rows
    assert all("safetensors" in r["explainer"] for r in rows)
    assert list((tmp_path / "fitted").rglob("one_shot-*.safetensors"))
