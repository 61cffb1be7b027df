"""Every naming round-trips tensor by tensor; what does not fit is refused key by key; nothing is unpickled."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from wav2vec2_toys import FRONT, TOY, fairseq_state

from xaibench.benchmark.check import example_clips
from xaibench.errors import WeightsError
from xaibench.tasks.detectors.wav2vec2_aasist import Wav2Vec2AASIST
from xaibench.tasks.detectors.weights import write_safetensors


def published(detector: Wav2Vec2AASIST) -> dict[str, Tensor]:
    """Return a state dict as SSL_Anti-spoofing saves it: fairseq's front end under ``ssl_model.model``, the back end beside it."""
    back_end = {key: value for key, value in detector.state_dict().items() if not key.startswith("front.")}
    return {f"ssl_model.model.{key}": value for key, value in fairseq_state().items()} | back_end


def save(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def load(path: Path, **options) -> Wav2Vec2AASIST:
    return Wav2Vec2AASIST(path, config=TOY, **options)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_ssl_anti_spoofing_naming_loads_every_tensor(tmp_path: Path, prefix: str):
    source, state = Wav2Vec2AASIST("random", seed=5, config=TOY), fairseq_state()
    path = save({prefix + key: value for key, value in published(source).items()}, tmp_path / "model.pth")
    loaded = load(path).state_dict()
    for key, value in source.state_dict().items():
        assert key.startswith("front.") or torch.equal(loaded[key], value)
    named = {
        "front.encoder.layers.2.attention.q_proj.weight": "encoder.layers.2.self_attn.q_proj.weight",
        "front.encoder.layers.0.layer_norm.bias": "encoder.layers.0.self_attn_layer_norm.bias",
        "front.encoder.layers.1.final_layer_norm.weight": "encoder.layers.1.final_layer_norm.weight",
        "front.encoder.layers.1.feed_forward.intermediate_dense.bias": "encoder.layers.1.fc1.bias",
        "front.encoder.layers.1.feed_forward.output_dense.weight": "encoder.layers.1.fc2.weight",
        "front.encoder.layer_norm.weight": "encoder.layer_norm.weight",
        "front.encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv.0.weight_g",
        "front.feature_projection.layer_norm.weight": "layer_norm.weight",
        "front.feature_projection.projection.weight": "post_extract_proj.weight",
        "front.feature_extractor.conv_layers.1.conv.weight": "feature_extractor.conv_layers.1.0.weight",
        "front.feature_extractor.conv_layers.0.layer_norm.weight": "feature_extractor.conv_layers.0.2.1.weight",
    }
    for own, theirs in named.items():
        assert torch.equal(loaded[own], state[theirs]), own
    used = [value for key, value in state.items() if not key.startswith(("mask_emb", "quantizer", "project_q", "final_proj"))]
    assert sum(key.startswith("front.") for key in loaded) == len(used)


def test_torchs_newer_names_of_weight_norm_are_the_same_tensors(tmp_path: Path):
    state = published(Wav2Vec2AASIST("random", config=TOY))
    older = load(save(state, tmp_path / "older.pth")).fingerprint()
    home = "ssl_model.model.encoder.pos_conv.0"
    for new, old in (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")):
        state[f"{home}.{new}"] = state.pop(f"{home}.{old}")
    assert load(save(state, tmp_path / "newer.pth")).fingerprint() == older


def test_missing_and_unknown_keys_are_all_listed(tmp_path: Path):
    state = published(Wav2Vec2AASIST("random", config=TOY))
    del state["ssl_model.model.encoder.layers.1.fc1.weight"], state["LL.bias"]
    state |= {"ssl_model.model.adapter.weight": torch.zeros(1), "second_head.weight": torch.zeros(1)}
    expected = (
        r"2 missing keys: LL\.bias, front\.encoder\.layers\.1\.feed_forward\.intermediate_dense\.weight; "
        r"2 unknown keys: front\.adapter\.weight, second_head\.weight"
    )
    with pytest.raises(WeightsError, match=expected):
        load(save(state, tmp_path / "other.pth"))


def test_a_checkpoint_of_another_size_is_refused_with_its_shapes(tmp_path: Path):
    path = save(published(Wav2Vec2AASIST("random", config=TOY)), tmp_path / "toy.pth")
    with pytest.raises(
        WeightsError, match=r"3 wrong shapes: LL\.bias \(9,\) for \(12,\), LL\.weight .*, pos_S \(1, 3, 6\) for \(1, 4, 6\);"
    ):
        Wav2Vec2AASIST(path, config=replace(TOY, n_bands=12))


def test_a_front_end_alone_needs_to_be_asked_for(tmp_path: Path):
    path = save(fairseq_state(), tmp_path / "xlsr.pth")
    with pytest.raises(WeightsError, match=r"must hold the back end too, got a front end alone .*xlsr\.pth'; add back_end=random"):
        load(path)
    one, other = load(path, back_end="random", seed=1), load(path, back_end="random", seed=2)
    assert torch.equal(one.front.encoder.layers[0].attention.q_proj.weight, other.front.encoder.layers[0].attention.q_proj.weight)
    assert not torch.equal(one.LL.weight, other.LL.weight)
    assert one.fingerprint() == load(path, back_end="random", seed=1).fingerprint()
    whole = load(save(published(one), tmp_path / "whole.pth"))
    torch.testing.assert_close(one(example_clips(2400)), whole(example_clips(2400)), rtol=0, atol=0)


def test_own_files_bring_their_sizes_and_lose_nothing(tmp_path: Path):
    detector = Wav2Vec2AASIST("random", seed=7, config=TOY)
    metadata = {"config": json.dumps(asdict(detector.config))}
    write_safetensors(tmp_path / "own.safetensors", detector.state_dict(), metadata)
    again = Wav2Vec2AASIST(tmp_path / "own.safetensors")
    assert again.config == TOY
    assert again.fingerprint() == detector.fingerprint()
    halves = {key: value.half() if value.is_floating_point() else value for key, value in detector.state_dict().items()}
    write_safetensors(tmp_path / "half.safetensors", halves, metadata)
    small = Wav2Vec2AASIST(tmp_path / "half.safetensors")
    assert {p.dtype for p in small.parameters()} == {torch.float32}
    torch.testing.assert_close(small(example_clips(2400)), detector(example_clips(2400)), rtol=0, atol=1e-2)


@pytest.mark.parametrize("config", ['{"depth": 3}', '{"front": {"deep": 3}}', "3", '{"front": 3}'])
def test_sizes_that_make_no_sense_are_refused(tmp_path: Path, config: str):
    detector = Wav2Vec2AASIST("random", config=TOY)
    write_safetensors(tmp_path / "bad.safetensors", detector.state_dict(), {"config": config})
    with pytest.raises(WeightsError, match=r"weights must store a readable configuration, got .*bad\.safetensors"):
        Wav2Vec2AASIST(tmp_path / "bad.safetensors")


def test_other_namings_code_and_nothing_are_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"must be named as SSL_Anti-spoofing, .* got other\.pth with conv\.weight"):
        load(save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth"))
    torch.save(Wav2Vec2AASIST("random", config=TOY), tmp_path / "pickled.pth")
    with pytest.raises(WeightsError, match=r"must be a checkpoint of plain tensors, got pickled\.pth"):
        load(tmp_path / "pickled.pth")
    with pytest.raises(WeightsError, match=r"weights of wav2vec2_aasist must be a file or a shipped name \(none\), got ''"):
        Wav2Vec2AASIST()
    twice = fairseq_state() | {"encoder.layers.0.attention.q_proj.weight": torch.zeros(12, 12)}
    with pytest.raises(WeightsError, match=r"must hold each tensor once, got encoder\.layers\.0\.attention\.q_proj\.weight"):
        load(save(twice, tmp_path / "twice.pth"), back_end="random")


def hugging_face(folder: Path, **options) -> torch.nn.Module:
    """Save a random encoder of the toy sizes as transformers does, pre-training heads included, and return it."""
    transformers = pytest.importorskip("transformers", reason="pip install 'xaibench[hf]' to run this test")
    config = transformers.Wav2Vec2Config(
        conv_dim=[c[0] for c in FRONT.convolutions],
        conv_kernel=[c[1] for c in FRONT.convolutions],
        conv_stride=[c[2] for c in FRONT.convolutions],
        num_feat_extract_layers=len(FRONT.convolutions),
        hidden_size=FRONT.width,
        num_hidden_layers=FRONT.depth,
        num_attention_heads=FRONT.heads,
        intermediate_size=FRONT.hidden,
        num_conv_pos_embeddings=FRONT.position_kernel,
        num_conv_pos_embedding_groups=FRONT.position_groups,
        codevector_dim=4,
        proj_codevector_dim=4,
        **{"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, **options},
    )
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForPreTraining(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def test_a_hugging_face_folder_gives_the_front_end_that_transformers_computes(tmp_path: Path):
    model, clips = hugging_face(tmp_path), example_clips(2400)
    detector = Wav2Vec2AASIST(tmp_path, back_end="random")
    assert detector.config.front == FRONT
    assert detector.config.n_bands == 128
    with torch.no_grad():
        out = model.wav2vec2(clips, output_hidden_states=True)
        torch.testing.assert_close(detector.front(clips), out.last_hidden_state, rtol=1e-4, atol=1e-5)
        for k, state in enumerate(detector.hidden_states(clips)[:-1]):
            torch.testing.assert_close(state, out.hidden_states[k + 1], rtol=1e-4, atol=1e-5)  # their first entry is before the blocks
    file = Wav2Vec2AASIST(tmp_path / "model.safetensors", back_end="random", config=detector.config)
    assert file.fingerprint() == detector.fingerprint()


def test_a_hugging_face_model_of_another_form_is_refused(tmp_path: Path):
    hugging_face(tmp_path, feat_extract_norm="group", conv_bias=False)
    with pytest.raises(WeightsError, match=r"as XLS-R, got \('wav2vec2', 'group', True, False, 'gelu'\); use the hf detector"):
        Wav2Vec2AASIST(tmp_path, back_end="random")
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(WeightsError, match=r"must describe a wav2vec 2\.0 model, got .*KeyError 'feat_extract_norm'"):
        Wav2Vec2AASIST(tmp_path, back_end="random")
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"must be a folder with config\.json and model\.safetensors"):
        Wav2Vec2AASIST(tmp_path, back_end="random")
