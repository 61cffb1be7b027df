"""Keys name content: neither order nor place nor time changes them, and everything that changes a heatmap does."""

from dataclasses import dataclass, replace

import pytest
import torch
from toys import GRID, SUITE, Toy, ToyDetector, ToyTask

from xaibench.benchmark import plan as plan_module
from xaibench.benchmark.plan import machine_class, make_plan
from xaibench.benchmark.source import source_hash
from xaibench.benchmark.world import World, label_of, load_explainers
from xaibench.errors import PluginError
from xaibench.registry import EXPLAINERS


def plan(*explainers, task=None, detector=None, seed=0, suite=SUITE, limit=None):
    task = task or ToyTask()
    world = World(suite, {"toy": task}, {"d": detector or ToyDetector()}, {"toy": "d"}, load_explainers(explainers, suite), seed)
    return make_plan(world, suite.budgets["quick"], "quick", limit, ())


def keys(found):
    return {unit.key for group in found.units for unit in group}


def own(found):
    return [unit for group in found.units for unit in group if unit.explainer.startswith("toy_explainer")]


def test_order_and_place_change_nothing():
    one = plan(Toy(), "edge", task=ToyTask(data="/here"))
    two = plan("edge", Toy(), task=ToyTask(data="/there", reverse=True), suite=replace(SUITE, controls=SUITE.controls[::-1]))
    assert keys(one) == keys(two)
    assert [clip.ref for clip in one.clips] == [clip.ref for clip in two.clips]
    assert plan(Toy(), "edge").id == plan("edge", Toy()).id


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"detector": ToyDetector(slope=41.0)},
        {"task": ToyTask(utterances=5)},
        {"suite": SUITE, "explainer": Toy(fault="raises")},
    ],
    ids=["seed", "detector weights", "task content", "option"],
)
def test_what_changes_a_heatmap_changes_its_key(changed):
    options = dict(changed)
    explainer = options.pop("explainer", Toy())
    assert not keys(plan(explainer, **options)) & {unit.key for unit in own(plan(Toy()))}


def test_version_and_fitted_state_are_in_the_key():
    @dataclass(frozen=True)
    class Newer(Toy):
        version = "2"

    @dataclass(frozen=True)
    class Fitted(Toy):
        def state_hash(self):
            return "other weights"

    found = [{unit.key for unit in own(plan(e()))} for e in (Toy, Newer, Fitted)]
    assert not found[0] & found[1]
    assert not found[0] & found[2]


def test_devices_and_releases_of_torch_do_not_share_keys(monkeypatch):
    here = plan(Toy())
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", torch.__version__ + ".post1")
        assert keys(plan(Toy())) == keys(here)
        patched.setattr(torch, "__version__", "1.0.2+cpu")
        older = plan(Toy())
        patched.setattr(plan_module, "machine_class", lambda detector: {**machine_class(detector), "device": "cuda"})
        elsewhere = plan(Toy())
    assert machine_class(ToyDetector().to("meta"))["device"] == "meta"
    for other in (older, elsewhere):
        assert not keys(other) & keys(here)
        assert not {clip.key for clip in other.clips} & {clip.key for clip in here.clips}
        assert [unit.seed for unit in own(other)] == [unit.seed for unit in own(here)]


def test_draws_depend_on_the_question_and_not_on_code_or_weights():
    seeds = [unit.seed for unit in own(plan(Toy()))]
    assert len(set(seeds)) == len(seeds) == 12
    assert seeds == [unit.seed for unit in own(plan(Toy(), detector=ToyDetector(slope=1.0)))]
    assert not set(seeds) & {unit.seed for unit in own(plan(Toy(), seed=1))}


def test_an_explainer_that_knows_recipes_gets_one_unit_for_each():
    class TwoRecipes(ToyTask):
        recipes = ("sym-floor60-v1", "grinberg-rel-linear-v1")

    found = plan(Toy(), task=TwoRecipes())
    oracle = [u for u in found.units[0] if u.explainer == "oracle_mask"]
    assert [u.recipe for u in oracle] == list(TwoRecipes.recipes)
    assert [u.identity["explainer"]["config"]["recipe"] for u in oracle] == list(TwoRecipes.recipes)
    assert len({u.key for u in oracle}) == 2
    assert len({u.seed for u in oracle}) == 1
    assert [u.recipe for u in found.units[0] if u.explainer == "toy_explainer"] == [""]
    assert all(u.identity["explainer"]["config"]["stft"] == {"window_samples": 256, "hop_samples": 128} for u in oracle)
    assert GRID.content_hash() == oracle[0].identity["stft"]


def test_controls_come_first_and_cannot_be_removed():
    assert list(load_explainers([], SUITE)) == list(SUITE.controls)
    assert list(load_explainers(["random", Toy()], SUITE)) == [*SUITE.controls, "toy_explainer"]


def test_row_labels_hold_options_that_differ():
    assert label_of(Toy()) == "toy_explainer"
    assert label_of(Toy(fault="nan", stft=GRID)) == "toy_explainer:fault=nan"
    assert label_of(EXPLAINERS.load("oracle_mask", recipe="rel-log-v1")) == "oracle_mask"
    other = replace(Toy(), pause_s=1.0)
    with pytest.raises(PluginError, match="two different ones called 'toy_explainer'"):
        load_explainers([Toy(), other], SUITE)


def test_source_hash_follows_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_one.py").write_text("from xaibench.tasks.spectrogram import stft\n")
    (tmp_path / "plugin_two.py").write_text("from xaibench.tasks.masks import mask\n")
    one, two = source_hash("plugin_one"), source_hash("plugin_two")
    assert one != two
    assert source_hash("plugin_one") == one
    assert source_hash(Toy) == source_hash(ToyDetector)  # one module
    notebook = type("Cell", (), {"__module__": "__main__of_a_notebook"})
    assert source_hash(notebook) != source_hash(type("Other", (), {"__module__": "__main__of_a_notebook"}))


def test_limit_counts_clips():
    assert len(plan(limit=5).clips) == 5
    assert torch.is_tensor(ToyTask().load(plan(limit=1).clips[0].pair).spoof)
