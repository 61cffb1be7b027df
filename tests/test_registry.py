"""Plugins are found without being imported, refused with a suggestion, and configured from one string."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from xaibench.errors import MissingExtraError, PluginError, UnknownNameError
from xaibench.registry import EXPLAINERS, REGISTRIES, Registry, parse_spec
from xaibench.tasks.spectrogram import STFTConfig


def test_listing_finds_the_controls_and_imports_no_torch():
    code = "import sys, xaibench; names = xaibench.list('explainers'); assert 'energy' in names, names; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_every_listed_name_exists_and_loads_its_class(registry: Registry):
    assert registry.names(), f"no {registry.kind} was found"
    for name in registry.names():
        assert registry.get(name) is not None


def test_unknown_name_suggests_the_near_one():
    with pytest.raises(UnknownNameError, match=r"got 'enrgy'; did you mean.*energy"):
        EXPLAINERS.load("enrgy")


def test_unknown_option_suggests_the_near_one():
    with pytest.raises(UnknownNameError, match="got 'recipy'; did you mean recipe"):
        EXPLAINERS.load("frequency_prior:recipy=abs-log-v1")


def test_options_take_the_types_of_the_fields():
    loaded = EXPLAINERS.load("oracle_ig:n_steps=3,stft=640/320")
    assert loaded.n_steps == 3
    assert loaded.stft == STFTConfig(640, 320)
    with pytest.raises(UnknownNameError, match="oracle_ig:n_steps must be a int, got 'many'"):
        EXPLAINERS.load("oracle_ig:n_steps=many")
    for spec in ("oracle_ig:n_steps", "oracle_ig:stft=640/320,n_steps"):
        with pytest.raises(UnknownNameError, match="option must be written key=value, got 'n_steps'"):
            EXPLAINERS.load(spec)


def test_a_bare_first_option_goes_to_the_positional_field():
    assert parse_spec("captum:Saliency,x=1") == ("captum", {"": "Saliency", "x": "1"})
    assert EXPLAINERS.load("captum:Saliency") == EXPLAINERS.load("captum:method=Saliency")


def test_two_plugins_of_one_name_are_refused_by_name():
    registry = Registry("explainer", "xaibench.explainers")

    @dataclass
    class One:
        pass

    @dataclass
    class Two:
        pass

    registry.register("same")(One)
    with pytest.raises(PluginError, match="'same' is registered by both"):
        registry.register("same")(Two)
    with pytest.raises(ValueError, match="name must match"):
        registry.register("Not A Name")


def test_a_built_in_name_cannot_be_taken_over():
    registry = Registry("explainer", "xaibench.explainers")

    class Impostor:
        pass

    with pytest.raises(PluginError, match=r"'frequency_prior' is built in \(xaibench.explainers.controls.priors\), got another one"):
        registry.register("frequency_prior")(Impostor)


def test_a_third_party_that_takes_a_name_is_refused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch):
    points = [
        EntryPoint("saliency", "their:Saliency", "xaibench.explainers"),
        EntryPoint("BAD NAME [/x]", "their:Bad", "xaibench.explainers"),
        EntryPoint("quitter", "tests_no_such_module:Quit", "xaibench.explainers"),
    ]
    monkeypatch.setattr("xaibench.registry.entry_points", lambda group: points)
    registry = Registry("explainer", "xaibench.explainers")
    assert "quitter" in registry.names()
    assert "BAD NAME [/x]" not in registry.names()
    assert EXPLAINERS.get("saliency").__module__ == "xaibench.explainers.saliency"
    assert [s.partition(";")[2] for s in registry.refused()] == [" uninstall or rename the second", " rename it"]
    with pytest.raises(MissingExtraError, match="needs tests_no_such_module, which is not installed"):
        registry.get("quitter")


def test_a_plugin_that_exits_on_import_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "quitpkg").mkdir()
    (tmp_path / "quitpkg" / "__init__.py").write_text("")
    (tmp_path / "quitpkg" / "leave.py").write_text('import sys\nsys.exit(0)\n\n@X.register("leave")\nclass Leave: pass\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match="thing 'leave' failed to load: SystemExit"):
        Registry("thing", "quitpkg").get("leave")


def test_a_broken_plugin_is_one_sentence_and_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "brokenpkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bad.py").write_text('@X.register("bad")\nclass Bad: pass\n')
    (package / "good.py").write_text("import sys\nX = sys.modules['__test_registry__']\n\n@X.register('good')\nclass Good: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("thing", "brokenpkg")
    monkeypatch.setitem(sys.modules, "__test_registry__", registry)  # type: ignore[arg-type]
    assert registry.names() == ["bad", "good"]
    with pytest.raises(PluginError, match="thing 'bad' failed to load: NameError"):
        registry.get("bad")
    assert registry.get("good").name == "good"
