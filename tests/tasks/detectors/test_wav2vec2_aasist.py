"""Wav2Vec2-AASIST: the published shapes and counts, the back end re-derived, class order, and layers that rules can follow."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from wav2vec2_toys import TOY

from xaibench.benchmark.check import check_detector, check_explainer, example_clips
from xaibench.explainers.lrp_rules import RelevanceRules, RuleSettings
from xaibench.registry import DETECTORS, EXPLAINERS, TASKS
from xaibench.tasks.detectors.quality import score_pairs
from xaibench.tasks.detectors.wav2vec2_aasist import TINY, Wav2Vec2AASIST
from xaibench.tasks.detectors.weights import SHIPPED
from xaibench.tasks.spectrogram import STFTConfig


def toy(seed: int = 0) -> Wav2Vec2AASIST:
    """Return an untrained detector with normalizations that do something."""
    detector = Wav2Vec2AASIST("random", seed=seed, config=TOY)
    generator = torch.Generator().manual_seed(seed)
    for module in detector.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return detector


def test_counts_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        detector = Wav2Vec2AASIST("random")
        clips = torch.zeros(2, 64_600)
        features = detector.first_pool(detector.LL(detector.front(clips)).transpose(1, 2)[:, None])
        encoded, states = detector.encode(clips), detector.hidden_states(clips)
        logits = detector.classify(encoded)
    total, front = (sum(p.numel() for p in m.parameters()) for m in (detector, detector.front))
    assert total - front == 447_242
    assert total == 315_884_938
    assert features.shape == (2, 1, 42, 67)
    assert encoded.shape == (2, 64, 42, 67)
    assert states.shape == (24, 2, 201, 1024)
    assert detector.pos_S.shape == (1, 42, 64)
    assert logits.shape == (2, 2)
    assert [pool.proj.in_features for pool in (detector.pool_S, detector.pool_hS1)] == [64, 32]
    assert [int(42 * detector.pool_S.ratio), int(67 * detector.pool_T.ratio), int(33 * detector.pool_hT1.ratio)] == [21, 33, 16]
    assert [layer.temperature for layer in (detector.GAT_layer_S, detector.GAT_layer_T, detector.HtrgGAT_layer_ST22)] == [2, 2, 100]


def test_the_back_end_follows_its_definition():
    detector, clips = toy(), example_clips(2400)
    conv = functional.conv2d
    with torch.no_grad():
        x = detector.front(clips) @ detector.LL.weight.T + detector.LL.bias
        x = functional.max_pool2d(x.transpose(1, 2)[:, None], 3)
        x = functional.selu((x - detector.first_bn.running_mean) / (detector.first_bn.running_var + 1e-5).sqrt())
        for (block,) in detector.encoder:
            inner = functional.selu(block.bn2(conv(x, block.conv1.weight, block.conv1.bias, padding=(1, 1))))
            inner = conv(inner, block.conv2.weight, block.conv2.bias, padding=(0, 1))
            x = inner + (x if block.conv_downsample is None else block.conv_downsample(x))
        torch.testing.assert_close(detector.encode(clips), x, rtol=1e-4, atol=1e-5)
        x = functional.selu(detector.first_bn1(x))
        first, act, norm, last = detector.attention
        weights = last(norm(act(first(x)))).exp()
        spectral = (x * weights).sum(3) / weights.sum(3)  # (B, C, F')
        temporal = (x * weights).sum(2) / weights.sum(2)
        expected = detector.classify_nodes(spectral.transpose(1, 2), temporal.transpose(1, 2))
        torch.testing.assert_close(detector.classify(detector.encode(clips)), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(detector(clips), expected[:, 0] - expected[:, 1], rtol=1e-4, atol=1e-5)


def test_class_0_is_spoof_and_training_noise_is_gone_in_eval():
    detector, clips = toy(), example_clips(2400)
    with torch.no_grad():
        before = detector(clips)
        detector.out_layer.bias[0] += 2
        torch.testing.assert_close(detector(clips), before + 2)
        assert not torch.equal(detector.train()(clips), detector(clips))
        detector.eval()
        detector.load_state_dict(toy().state_dict())
        assert torch.equal(detector(clips), before)


def test_hidden_states_are_the_blocks_before_the_final_normalization():
    detector, clips = toy(), example_clips(2400)
    with torch.no_grad():
        states = detector.hidden_states(clips)
        assert states.shape == (3, 2, TOY.front.frames(2400), 12)
        torch.testing.assert_close(detector.front.encoder.layer_norm(states[-1]), detector.front(clips))
        torch.testing.assert_close(detector.front.encoder.layers[2](states[1]), states[2])


@pytest.mark.parametrize("config", [TOY, TINY], ids=["toy", "tiny"])
def test_the_contract(config):
    assert not check_detector(Wav2Vec2AASIST("random", config=config), samples=example_clips(8_000))


@pytest.mark.parametrize("gates", ["cp", "uniform"])
def test_relevance_rules_hear_every_step_and_leave_the_answer(gates):
    detector, clips = toy(), example_clips(2400)
    point = clips.clone().requires_grad_(True)
    with RelevanceRules(RuleSettings(gates=gates)):
        inside = detector(point)
    torch.testing.assert_close(inside, detector(clips), rtol=0, atol=1e-6)
    (slope,) = torch.autograd.grad(inside.sum(), point)
    assert slope.isfinite().all()
    assert slope.any()


def test_relevance_is_conserved_without_biases():
    detector, clips = bias_free().double(), example_clips(2400).double() * 3
    point = clips.clone().requires_grad_(True)
    with RelevanceRules(RuleSettings(epsilon=1e-12)):
        logits = detector(point)
    relevance = (point * torch.autograd.grad(logits.sum(), point)[0]).sum(1)
    assert (logits.abs() > 1e-3).all()
    torch.testing.assert_close(relevance, logits, rtol=1e-4, atol=0)


def bias_free() -> Wav2Vec2AASIST:
    """Return a detector in which nothing is added that does not come from the waveform."""
    detector = Wav2Vec2AASIST("random", config=TOY)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name.endswith("bias") or name in ("pos_S", "master1", "master2"):
                parameter.zero_()
    return detector


def test_attn_lrp_keeps_its_contract_on_it():
    detector = toy()
    detector.input_samples = 2400
    explainer = EXPLAINERS.load("attn_lrp", stft=STFTConfig(128, 32))
    assert not check_explainer(explainer, detector, samples=example_clips(2400))


def test_the_tiny_front_end_starts_as_a_filter_bank_that_tells_bands_apart():
    detector, samples = Wav2Vec2AASIST("random", config=TINY), 4_800
    times = torch.arange(samples) / 16_000
    tones = torch.stack([0.1 * torch.sin(2 * torch.pi * hertz * times) for hertz in (600.0, 1_000.0, 3_000.0, 6_000.0)])
    loud = detector.front.feature_extractor.conv_layers[0](tones[:, None]).mean(dim=2)  # (4, channels)
    centers = torch.argmax(loud.unflatten(1, (-1, TINY.filter_bands)).sum(1), dim=1)
    mel = 2595 * torch.log10(1 + torch.tensor([600.0, 1_000.0, 3_000.0, 6_000.0]) / 700)
    low, high = (2595 * torch.log10(1 + torch.tensor(hertz) / 700) for hertz in (100.0, 7_600.0))
    expected = (mel - low) / (high - low) * (TINY.filter_bands - 1)
    assert (centers - expected).abs().max() <= 1
    with torch.no_grad():
        heard = detector.front.feature_extractor(tones)[:, 5:-5].mean(dim=1)
    apart = torch.cdist(heard, heard) + 99 * torch.eye(4)
    assert apart.min() > 1
    assert not any(module.p for module in detector.modules() if isinstance(module, torch.nn.Dropout))
    assert TINY.front.frames(64_600) == 201
    with pytest.raises(ValueError, match="filter_bands must be a divisor of 96, the channels of the first convolution, got 7"):
        Wav2Vec2AASIST("random", config=replace(TINY, filter_bands=7))


def test_the_shipped_tiny_weights_tell_twins_apart_as_their_card_says():
    card = json.loads((SHIPPED / "wav2vec2_aasist_tiny-minivoc.json").read_text())
    file = SHIPPED / "wav2vec2_aasist_tiny-minivoc.safetensors"
    assert file.stat().st_size < 3_000_000
    assert hashlib.sha256(file.read_bytes()).hexdigest() == card["sha256"]
    detector, task = DETECTORS.load("wav2vec2_aasist_tiny"), TASKS.load("minivoc")
    assert detector.fingerprint() == card["fingerprint"]
    clips = [task.load(pair) for pair in task.pairs("test")[:24]]
    figures = score_pairs(detector, clips)
    right = sum(score.spoof > score.bonafide for score in figures) / len(figures)
    assert right > card["quality"]["test"]["all"]["pair_accuracy"] - 0.15
    for part in ("seen", "unseen"):  # more is heard than level and tilt
        assert card["quality"]["test"][part]["auc"] > card["average_spectrum_control"]["test"][part]["auc"]
