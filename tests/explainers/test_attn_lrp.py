"""AttnLRP: each rule against its definition, conservation, zennit's rules, and that nothing is touched."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xaibench.benchmark.check import check_explainer, example_clips
from xaibench.explainers.lrp_rules import RelevanceRules, RuleSettings, stabilize
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.tasks.detectors.aasist import AASIST
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.spectrogram import STFTConfig
from xaibench.types import Detector

GRID = STFTConfig(128, 32)
SAMPLES = 2048


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relevance(func, x: Tensor, given: Tensor | None = None, **settings) -> Tensor:
    """Return relevance of the input for relevance ``given`` at the output (default: the output itself)."""
    x = x.clone().requires_grad_(True)
    with RelevanceRules(RuleSettings(**{"epsilon": 1e-12, **settings})):
        out = func(x)
    assert torch.allclose(out, func(x), atol=1e-12)
    slope = None if given is None else given / out.detach()
    return x.detach() * torch.autograd.grad(out, x, torch.ones_like(out) if slope is None else slope)[0]


def test_the_stabilizer_keeps_the_sign():
    values = torch.tensor([2.0, 0.0, -1e-9, -2.0], dtype=torch.float64)
    assert torch.equal(stabilize(values, 1e-6), values + torch.tensor([1e-6, 1e-6, -1e-6, -1e-6], dtype=torch.float64))
    small = relevance(lambda x: x + 0.25 * x.sigmoid(), torch.tensor([-1e-9], dtype=torch.float64), epsilon=1e-12)
    assert small.isfinite().all()


FUNCTIONS = [
    torch.relu,
    functional.gelu,
    functional.selu,
    torch.tanh,
    torch.sigmoid,
    torch.abs,
    torch.exp,
    lambda x: (x.square() + 2).log(),
]


@pytest.mark.parametrize("func", FUNCTIONS)
def test_functions_of_each_number_hand_relevance_through(func):
    x, given = draw(3, 5), draw(3, 5, seed=1)
    alive = func(x) != 0
    share = x.square() / (x.square() + 2) if func is FUNCTIONS[-1] else 1  # the constant under the logarithm keeps the rest
    expected = torch.where(alive, given * share, 0)
    assert torch.allclose(relevance(func, x, torch.where(alive, given, 0)).nan_to_num(), expected, atol=1e-9)


def slow_gamma(x: Tensor, weight: Tensor, bias: Tensor, given: Tensor, gamma: float) -> Tensor:
    """Distribute relevance contribution by contribution, as the rule is defined."""
    out = torch.zeros_like(x)
    for b in range(len(x)):
        for j in range(len(weight)):
            parts = [float(x[b, i] * weight[j, i]) for i in range(x.shape[1])] + [float(bias[j])]
            sign = 1 if sum(parts) >= 0 else -1
            favored = [p * (1 + gamma) if p * sign > 0 else p for p in parts]
            for i in range(x.shape[1]):
                out[b, i] += given[b, j] * favored[i] / sum(favored)
    return out


@pytest.mark.parametrize("gamma", [0.0, 0.1, 10.0])
def test_gamma_rule_contribution_by_contribution(gamma):
    x, weight, bias, given = draw(4, 7), draw(5, 7, seed=1), draw(5, seed=2), draw(4, 5, seed=3)
    expected = slow_gamma(x, weight, bias, given, gamma)
    ours = relevance(lambda v: functional.linear(v, weight, bias), x, given, gamma_linear=gamma)
    assert torch.allclose(ours, expected, atol=1e-9)
    pointwise = relevance(lambda v: functional.conv1d(v[..., None], weight[..., None], bias)[..., 0], x, given, gamma_conv=gamma)
    assert torch.allclose(pointwise, expected, atol=1e-9)


def test_products_share_equally_and_gates_pass_everything_to_values():
    a, given = draw(2, 3, 3), draw(2, 3, 3, seed=1)
    half = relevance(lambda x: x @ x.transpose(1, 2), a, gates="uniform")
    assert torch.allclose(half.sum(), (a @ a.transpose(1, 2)).sum())
    slow = torch.zeros_like(a)
    for b, i, k, j in torch.cartesian_prod(torch.arange(2), *[torch.arange(3)] * 3).tolist():
        part = a[b, i, j] * a[b, k, j] / 2
        slow[b, i, j] += part
        slow[b, k, j] += part
    assert torch.allclose(half, slow, atol=1e-9)
    assert torch.allclose(relevance(lambda x: x * x.sin(), a, given).sum(), given.sum(), atol=1e-9)
    weights = a.softmax(-1)
    through_values = relevance(lambda x: x.softmax(-1).transpose(1, 2) @ x, a, gates="cp")
    assert torch.allclose(through_values, a * (weights @ torch.ones_like(a)), atol=1e-9)
    gated = relevance(lambda x: x * (2 * x).sigmoid(), a, given, gates="cp")
    assert torch.allclose(gated, given, atol=1e-9)


def test_uniform_attention_gives_query_and_key_a_quarter_and_values_half():
    q, k, v = (draw(1, 4, 6, seed=s) for s in range(3))
    sizes = []
    for part in range(3):
        inputs = [t.clone().requires_grad_(i == part) for i, t in enumerate((q, k, v))]
        plain = torch.autograd.grad(functional.scaled_dot_product_attention(*inputs).sum(), inputs[part])[0]
        together = [t.clone().requires_grad_(True) for t in (q, k, v)]
        with RelevanceRules(RuleSettings(gates="uniform")):
            out = functional.scaled_dot_product_attention(*together)
        ratio = torch.autograd.grad(out.sum(), together[part])[0] / plain
        sizes.append(ratio)
    for ratio, expected in zip(sizes, (0.25, 0.25, 0.5), strict=True):
        assert torch.allclose(ratio, torch.full_like(ratio, expected))


def test_softmax_follows_the_taylor_rule():
    x, given = draw(3, 5), draw(3, 5, seed=1)
    s = x.softmax(1)
    expected = x * (given - s * given.sum(1, keepdim=True))
    assert torch.allclose(relevance(lambda v: v.softmax(1), x, given), expected, atol=1e-9)


def test_stored_statistics_are_a_linear_map_with_its_plain_slope():
    x = draw(2, 3, 4, 5).to(memory_format=torch.channels_last)
    mean, spread, scale, shift = (draw(3, seed=s) for s in range(4))
    for given in ({}, {"weight": scale, "bias": shift, "eps": 0.3}):
        ours = relevance(lambda v, given=given: functional.batch_norm(v, mean, spread.square(), **given), x)
        weight = given.get("weight", torch.ones(3)) / (spread.square() + given.get("eps", 1e-5)).sqrt()
        assert torch.allclose(ours, x * weight[:, None, None], atol=1e-12)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: functional.layer_norm(x, (6,), draw(6, seed=5)),
        lambda x: functional.group_norm(x[..., None], 3, draw(6, seed=5))[..., 0],
        lambda x: functional.rms_norm(x, (6,), draw(6, seed=5)),
        lambda x: x / (x.square().mean(1, keepdim=True) + 1e-3).sqrt(),
        lambda x: x.reshape(-1, 3).amax(1),
        lambda x: x.topk(2, dim=1).values,
        lambda x: functional.max_pool1d(x, 2),
        lambda x: torch.maximum(x[:, :3], x[:, 3:]),
    ],
)
def test_normalizations_and_winners_conserve_relevance(func):
    x = draw(4, 6)
    assert torch.allclose(relevance(func, x).sum(), func(x).sum(), atol=1e-9)


class Stack(Detector):
    """A bias-free net with everything in it: convolutions, GELU, attention, LayerNorm, gates, maxima."""

    name = "stack"
    input_samples = SAMPLES

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv1d(1, 8, 64, stride=32, bias=False)
            self.qkv, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)
            self.norm = nn.LayerNorm(8, bias=False)
            self.gate, self.readout = nn.Linear(8, 1, bias=False), nn.Linear(8, 1, bias=False)
        self.eval()

    def forward(self, waveform: Tensor) -> Tensor:
        hidden = functional.gelu(self.conv(10 * waveform[:, None])).transpose(1, 2)
        query, key, value = self.qkv(hidden).chunk(3, dim=2)
        hidden = self.norm(hidden + self.out(functional.scaled_dot_product_attention(query, key, value)))
        hidden = functional.selu(hidden * self.gate(hidden).sigmoid())
        return self.readout(hidden.amax(1) + hidden.mean(1))[:, 0]


def clips(count: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(count, SAMPLES, generator=torch.Generator().manual_seed(seed)).cumsum(1).sin()


def cnn() -> SpectrogramCNN:
    detector = SpectrogramCNN("random", config=SpectrogramCNNConfig((4, 6, 8, 8), 128, 32))
    detector.input_samples = SAMPLES
    return detector


def test_relevance_is_conserved_without_biases():
    detector, clip = Stack(), clips(3)
    heatmap = EXPLAINERS.load("attn_lrp", stft=GRID, epsilon=1e-9).explain(clip, detector)
    logit = detector(clip).detach()
    assert ((heatmap.sum((1, 2)) - logit).abs() < 1e-4 * logit.abs().clamp(min=0.01)).all(), (heatmap.sum((1, 2)), logit)


@pytest.mark.parametrize("detector", [Stack(), cnn()], ids=["stack", "cnn"])
@pytest.mark.parametrize("gates", ["cp", "uniform"])
def test_the_forward_pass_is_unchanged(detector, gates):
    clip = clips(2).requires_grad_(True)
    with RelevanceRules(RuleSettings(gates=gates)):
        inside = detector(clip)
    assert torch.allclose(inside, detector(clip), rtol=0, atol=1e-6)
    assert not torch.equal(torch.autograd.grad(inside.sum(), clip)[0], torch.autograd.grad(detector(clip).sum(), clip)[0])


def test_heatmap_is_input_times_modified_gradient_of_the_waveform():
    detector, clip = Stack(), clips(1)
    heatmap = EXPLAINERS.load("attn_lrp", stft=GRID).explain(clip, detector)
    waveform = RawWrapper(detector, GRID, SAMPLES).waveform(*RawWrapper(detector, GRID, SAMPLES).split(clip)).requires_grad_(True)
    with RelevanceRules(RuleSettings()):
        logit = detector(waveform)
    by_sample = waveform * torch.autograd.grad(logit.sum(), waveform)[0]
    assert torch.allclose(heatmap.sum(), by_sample.sum(), rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 10.0])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_and_linear_layers_equal_zennit(gamma, bias):
    pytest.importorskip("zennit", reason="zennit is a test extra: pip install zennit")
    from zennit.core import Composite
    from zennit.rules import Epsilon, Gamma

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 5, stride=2, bias=bias), nn.Conv1d(4, 3, 3, padding=1, bias=bias), nn.Flatten(), nn.Linear(27, 2, bias)
    )
    net.double().eval()
    x = draw(3, 2, 21)
    rule = Gamma(gamma, stabilizer=1e-9) if gamma else Epsilon(1e-9)
    composite = Composite(lambda _context, _name, module: rule.copy() if isinstance(module, (nn.Conv1d, nn.Linear)) else None)
    theirs = x.clone().requires_grad_(True)
    with composite.context(net) as watched:
        out = watched(theirs)
        (expected,) = torch.autograd.grad(out, theirs, out.detach())
    ours = relevance(net, x, epsilon=1e-9, gamma_conv=gamma, gamma_linear=gamma)
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-8)


def test_settings_change_the_map_and_nonsense_is_refused():
    maps = [EXPLAINERS.load(f"attn_lrp:{option}", stft=GRID).explain(clips(1), Stack()) for option in ("", "gamma_conv=0", "gates=uniform")]
    assert not torch.allclose(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])
    with pytest.raises(ValueError, match="gates must be one of uniform, cp, got 'both'"):
        EXPLAINERS.load("attn_lrp:gates=both")
    with pytest.raises(ValueError, match="gamma_conv and gamma_linear must be at least 0"):
        EXPLAINERS.load("attn_lrp:gamma_conv=-1")


@pytest.mark.parametrize("detector", [cnn(), Stack()], ids=["cnn", "stack"])
def test_the_contract(detector):
    assert not check_explainer(EXPLAINERS.load("attn_lrp", stft=GRID), detector, samples=clips(2))


def test_aasist_is_explained():
    detector = AASIST("random")
    heatmap = EXPLAINERS.load("attn_lrp").explain(example_clips(8_000)[:1], detector)
    assert heatmap.shape == (1, 513, 32)
    assert heatmap.isfinite().all()
    assert heatmap.abs().max() > 0
