"""The encoder is XLS-R: sizes and shapes as published, and equal to torchaudio's with the same weights under fairseq's names."""

import torch
from torchaudio.models import wav2vec2_model, wav2vec2_xlsr_300m
from torchaudio.models.wav2vec2.utils.import_fairseq import _convert_state_dict
from wav2vec2_toys import FRONT, fairseq_state

from xaibench.benchmark.check import example_clips
from xaibench.tasks.detectors.wav2vec2 import Attention, Wav2Vec2, Wav2Vec2Config, WeightNormConvolution
from xaibench.tasks.detectors.wav2vec2_checkpoints import translate


def ours(state: dict[str, torch.Tensor]) -> Wav2Vec2:
    front = Wav2Vec2(FRONT).eval()
    front.load_state_dict({key.removeprefix("front."): value for key, value in translate(state, "toy").tensors.items()})
    return front


def theirs(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Return torchaudio's encoder of the toy sizes, filled through torchaudio's own map of fairseq's names."""
    model = wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[list(c) for c in FRONT.convolutions],
        extractor_conv_bias=True,
        encoder_embed_dim=FRONT.width,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=FRONT.position_kernel,
        encoder_pos_conv_groups=FRONT.position_groups,
        encoder_num_layers=FRONT.depth,
        encoder_num_heads=FRONT.heads,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=FRONT.hidden,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=True,
        encoder_layer_drop=0.1,
        aux_num_out=None,
    )
    model.load_state_dict(_convert_state_dict(state))
    return model.eval()


def test_xlsr_300m_has_the_published_size_and_shape():
    with torch.device("meta"):
        front, reference = Wav2Vec2(Wav2Vec2Config()), wav2vec2_xlsr_300m()
        features = front(torch.zeros(2, 64_600))
    count = sum(p.numel() for p in front.parameters())
    assert count == sum(p.numel() for p in reference.parameters()) == 315_437_696
    assert sum(p.numel() for p in front.feature_extractor.parameters()) == 4_210_176
    assert features.shape == (2, 201, 1024)
    assert Wav2Vec2Config().frames(64_600) == 201


def test_features_and_blocks_equal_torchaudios():
    state, clips = fairseq_state(), example_clips(800) * 3
    front, reference = ours(state), theirs(state)
    with torch.no_grad():
        torch.testing.assert_close(front(clips), reference(clips)[0], rtol=1e-4, atol=1e-5)
        blocks, _ = reference.extract_features(clips)
        for mine, other in zip(front.hidden_states(clips), blocks, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(front(clips), blocks[-1], atol=1e-2)  # the last block is before the final normalization
    assert Wav2Vec2Config.frames(FRONT, 800) == blocks[0].shape[1]


def test_gradients_by_the_waveform_equal_torchaudios():
    state = fairseq_state(seed=1)
    slopes = []
    for front in (ours(state), lambda x: theirs(state)(x)[0]):
        clips = example_clips(800).requires_grad_(True)
        (front(clips) * torch.linspace(-1, 1, FRONT.width)).square().sum().backward()
        slopes.append(clips.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-4 * slopes[1].abs().max().item())


def test_the_level_of_the_audio_is_heard():
    front, clips = ours(fairseq_state()), example_clips(800)
    with torch.no_grad():
        assert not torch.allclose(front(clips), front(0.1 * clips), atol=1e-2)
        assert not torch.allclose(front(clips), front(clips + 0.1), atol=1e-2)


def test_the_positional_kernel_has_the_learned_norm_at_each_tap():
    torch.manual_seed(0)
    layer = WeightNormConvolution(FRONT)
    with torch.no_grad():
        layer.weight_g.uniform_(1, 2)
        impulse = torch.zeros(1, FRONT.width, 13)
        impulse[0, 0, 6] = 1
        response = (layer(impulse) - layer.bias[:, None])[0]
        direction = layer.weight_v / layer.weight_v.pow(2).sum((0, 1), keepdim=True).sqrt()
    expected = (direction * layer.weight_g)[: FRONT.width // 2, 0].flip(-1)  # the first group alone hears the first channel
    torch.testing.assert_close(response[: FRONT.width // 2, 4:10], expected)
    assert not response[FRONT.width // 2 :].any()


def test_attention_head_by_head():
    torch.manual_seed(0)
    layer, hidden = Attention(FRONT), torch.randn(1, 5, FRONT.width)
    size = FRONT.width // FRONT.heads
    query, key, value = (p(hidden)[0].split(size, dim=1) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    heads = [(q @ k.T / size**0.5).softmax(1) @ v for q, k, v in zip(query, key, value, strict=True)]
    torch.testing.assert_close(layer(hidden)[0], layer.out_proj(torch.cat(heads, dim=1)))
