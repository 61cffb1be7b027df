"""What explainers tell of their own error stands beside their scores, off the bill, and cannot pass for a metric."""

from dataclasses import dataclass, field

import pytest
from toys import Toy, toy_run

from xaibench.benchmark.units import Explanation
from xaibench.errors import NothingMeasuredError
from xaibench.registry import EXPLAINERS


@dataclass(frozen=True)
class Telling(Toy):
    """Tells a number under a name, and one that is not finite."""

    told: str = field(default="generalized_dice", metadata={"config": False})

    def diagnostics(self, heatmap, waveform, detector, references=None):
        assert heatmap.shape[0] == waveform.shape[0] == 1
        return {self.told: float(detector.spoof_logit(waveform)), "broken": float("nan")}


def test_numbers_are_recorded_off_the_bill(tmp_path):
    results = toy_run(tmp_path / "run", Telling(), faithfulness=False)
    frame = results.frame[results.frame.explainer == "toy_explainer"]
    told = frame[frame.metric == "diagnostic:generalized_dice"]
    assert len(told) > 0
    assert told.value.notna().all()
    assert set(frame[frame.metric == "diagnostic:broken"].why) == {"not finite"}
    plain = toy_run(tmp_path / "plain", Toy(), faithfulness=False).frame
    for metric in ("forwards", "backwards", "generalized_dice"):
        bill = frame[frame.metric == metric].value.tolist()
        assert bill == plain[(plain.explainer == "toy_explainer") & (plain.metric == metric)].value.tolist()
    assert any(row.metric == "diagnostic:generalized_dice" and row.mean is not None for row in results.summary.rows)


def test_a_name_that_is_none_fails_the_explanation(tmp_path):
    with pytest.raises(NothingMeasuredError, match="names of diagnostics must be lower-case identifiers, got 'a b'"):
        toy_run(tmp_path / "run", Telling(told="a b"), faithfulness=False)


def test_records_written_before_are_read():
    assert not Explanation.model_fields["diagnostics"].is_required()


@pytest.mark.parametrize(("name", "metric"), [("deep_shap", "completeness_error_percent"), ("attn_lrp", "conservation_residual")])
def test_attributions_tell_what_they_miss(tmp_path, name, metric):
    results = toy_run(tmp_path / "run", EXPLAINERS.load(name), faithfulness=False, limit=2)
    rows = results.frame[(results.frame.explainer == name) & (results.frame.metric == f"diagnostic:{metric}")]
    assert rows.value.notna().all()
    assert len(rows) == 2
    if name == "deep_shap":
        assert (rows.value < 1).all()
