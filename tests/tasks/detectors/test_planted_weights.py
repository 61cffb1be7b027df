"""Detectors of planted truth: small files that are what their cards say, and hear the default kinds on unseen voices."""

import hashlib
import json

import pytest

from xaibench.benchmark.planted import recovered
from xaibench.registry import DETECTORS, TASKS
from xaibench.tasks.corpora.planted import DEFAULT
from xaibench.tasks.detectors.weights import SHIPPED
from xaibench.tasks.planted_checks import causal_evidence

FAMILIES = ("spectrogram_cnn", "waveform_cnn")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_the_card(family):
    path = SHIPPED / f"{family}-planted.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 1_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]
    assert DETECTORS.load(family, weights="planted").fingerprint() == card["fingerprint"]
    of_kind = {name: figures["eer"] for name, figures in card["quality"]["test"].items() if name.startswith("vocoder:")}
    mean = {kind: (of_kind[f"vocoder:{kind}_subtle"] + of_kind[f"vocoder:{kind}_coarse"]) / 2 for kind in DEFAULT}
    assert max(mean.values()) < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_decoys_are_not_heard_and_every_quarter_is(family):
    task = TASKS.load("planted:kind=tones")
    found = causal_evidence(task, "tones", DETECTORS.load(family, weights="planted").requires_grad_(False), clips=8)
    assert found.eer == 0
    assert max(found.decoys.values()) < 0.05
    assert min(found.quarters) > 0.10
    assert found.moved_place > 0.9
    assert found.moved_clip > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tones", "clicks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_causal_truth_recovers_the_planted_tiles(family, kind):
    task = TASKS.load(f"planted:kind={kind}")
    assert recovered(task.load(task.pairs("test")[0]), DETECTORS.load(family, weights="planted").requires_grad_(False)) > 0.9
