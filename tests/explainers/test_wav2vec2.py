"""AttnLRP and DeepSHAP on Wav2Vec2-AASIST: forward pass, conservation without biases, additivity, and captum's silent fallback."""

import pytest
import torch
from torch import Tensor, nn

from xaibench.benchmark.check import check_explainer, example_clips
from xaibench.explainers.lrp_rules import RelevanceRules, RuleSettings
from xaibench.registry import EXPLAINERS
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN
from xaibench.tasks.detectors.wav2vec2_aasist import TINY, Wav2Vec2AASIST

SAMPLES = 16_000


def tiny(seed: int = 0) -> Wav2Vec2AASIST:
    detector = Wav2Vec2AASIST("random", seed=seed, config=TINY)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in detector.modules():  # as after training: statistics are not those of a fresh net
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
    return detector


def bias_free() -> Wav2Vec2AASIST:
    """Return a detector that adds nothing of its own: no biases, no offsets, no learned nodes."""
    detector = tiny()
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name.endswith("bias") or name in ("pos_S", "master1", "master2"):
                parameter.zero_()
        for name, buffer in detector.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
    return detector


@pytest.mark.parametrize("gates", ["cp", "uniform"])
def test_the_forward_pass_is_unchanged(gates):
    detector, clip = tiny(), example_clips(SAMPLES).requires_grad_(True)
    with RelevanceRules(RuleSettings(gates=gates)):
        inside = detector(clip)
    assert torch.allclose(inside, detector(clip), rtol=0, atol=1e-6)


def test_relevance_is_conserved_without_biases():
    """A tiny epsilon of the norms aside, whose share is measured in double precision."""
    detector, clip = bias_free().double(), example_clips(SAMPLES).double()
    for module in detector.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12
    heard = clip.clone().requires_grad_(True)
    with RelevanceRules(RuleSettings(epsilon=1e-12)):
        logits = detector(heard)
    total = (heard.detach() * torch.autograd.grad(logits.sum(), heard)[0]).sum(1)
    assert (logits.abs() > 1e-3).all()
    assert ((total - logits).abs() < 1e-4 * logits.abs()).all(), (total, logits)


def error_percent(name: str, detector, clip: Tensor, references: Tensor) -> float:
    explainer = EXPLAINERS.load(name)
    return explainer.diagnostics(explainer.explain(clip, detector, references=references), clip, detector, references)[
        "completeness_error_percent"
    ]


@pytest.mark.parametrize("make", [tiny, lambda: SpectrogramCNN("minivoc")], ids=["wav2vec2_aasist", "spectrogram_cnn"])
def test_our_maps_add_up_and_captums_do_not(make):
    detector, clips = make(), example_clips(SAMPLES, 4)
    ours = error_percent("deep_shap", detector, clips[:1], clips[1:])
    assert ours < 1
    theirs = error_percent("deep_shap_captum", detector, clips[:1], clips[1:])
    assert theirs > 5 * max(ours, 1)


@pytest.mark.parametrize("name", ["attn_lrp", "attn_lrp:gates=uniform", "deep_shap", "gradient_shap:n_samples=3", "gatr"])
def test_the_contract(name):
    assert not check_explainer(EXPLAINERS.load(name), tiny(), samples=example_clips(SAMPLES))
