"""The protocol is frozen, and clips are chosen by content."""

from dataclasses import replace

import pytest

from xaibench.benchmark.suite import SUITES, checked_suite, select_pairs, suite_by_name
from xaibench.errors import UnknownNameError
from xaibench.types import Pair

V1 = SUITES["xaibench-v1"]


def corpus(utterances=60, vocoders=("a", "b", "c", "d", "e"), speakers=12):
    return [Pair(f"u{u}-{v}", f"u{u}", f"s{u % speakers}", v, "", "", seen_vocoder=v < "d") for u in range(utterances) for v in vocoders]


def test_the_protocol_is_frozen():
    # whoever changes the protocol after its first release gives it a new name: boards of one suite must stay comparable
    assert V1.content_hash() == "7a70f6f301fdea6ac820e5f01c9457eafbb3e57c6b751d1ceb45fe0e712cbf9b"
    with pytest.raises(UnknownNameError, match="suite must be one of xaibench-v1"):
        suite_by_name("xaibench-v0")


def test_every_value_of_the_protocol_is_in_its_hash():
    assert replace(V1, gap_gate=1.9).content_hash() != V1.content_hash()
    slower = replace(V1.budgets["quick"], curves=replace(V1.budgets["quick"].curves, steps=9))
    assert replace(V1, budgets={**V1.budgets, "quick": slower}).content_hash() != V1.content_hash()


def test_another_protocol_cannot_go_by_a_frozen_name():
    assert checked_suite("xaibench-v1") is V1
    assert checked_suite(replace(V1)) == V1
    assert checked_suite(replace(V1, name="mine", gap_gate=0.0)).name == "mine"
    with pytest.raises(ValueError, match="suite must have a name of its own, got another protocol called 'xaibench-v1'"):
        checked_suite(replace(V1, gap_gate=0.0))


def test_the_quick_tier_is_what_the_page_says():
    quick = V1.budgets["quick"]
    assert (quick.clips, quick.curves.clips, quick.curves.steps, len(quick.curves.occluders)) == (48, 12, 10, 2)
    assert (quick.slow_curves.clips, quick.slow_curves.steps, len(quick.slow_curves.occluders)) == (8, 8, 1)
    assert (V1.gap_gate, V1.min_clips, V1.n_draws) == (2.0, 20, 10_000)
    assert {"oracle_mask", "oracle_ig", "random", "frequency_level_prior"} < set(V1.controls)


def test_48_clips_come_from_48_utterances_and_all_vocoders():
    chosen = select_pairs(corpus(), 48)
    assert len({p.utterance for p in chosen}) == 48
    assert len({p.speaker for p in chosen}) == 12
    counts = {v: sum(p.vocoder == v for p in chosen) for v in "abcde"}
    assert min(counts.values()) >= 5
    assert {p.seen_vocoder for p in chosen} == {True, False}


def test_choice_ignores_order_and_fewer_are_a_prefix():
    pairs = corpus()
    chosen = select_pairs(pairs, 48)
    assert select_pairs(pairs[::-1], 48) == chosen
    assert select_pairs(pairs, 7) == chosen[:7]
    assert sorted(p.id for p in select_pairs(pairs, None)) == sorted(p.id for p in pairs)
    assert len(select_pairs(corpus(utterances=40), 48)) == 48
