"""DeepSHAP: each multiplier against its definition, additivity on whole networks, and what captum leaves out."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xaibench.benchmark.check import check_explainer
from xaibench.errors import NotApplicableError
from xaibench.explainers.rescale import Rescale
from xaibench.registry import EXPLAINERS
from xaibench.tasks.detectors.graph_attention import GraphAttention, GraphPool, HeterogeneousGraphAttention
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.spectrogram import STFTConfig, log_magnitude
from xaibench.types import Detector

GRID = STFTConfig(128, 32)
SAMPLES = 2048


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rescaled(func, clip: Tensor, references: Tensor, tolerance: float = 1e-12) -> Tensor:
    """Return the multipliers of the sum of a function's outputs."""
    tape: list = []
    with torch.no_grad(), Rescale(tape, replay=False):
        func(clip)
    points = references.clone().requires_grad_(True)
    with Rescale(tape, replay=True):
        out = func(points)
    assert torch.allclose(out, func(references), atol=tolerance)
    return torch.autograd.grad(out.sum(), points)[0]


WEIGHT, FILTER = draw(6, 6, seed=9), draw(3, 6, 3, seed=8)
FUNCTIONS = {
    "relu": torch.relu,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "selu": functional.selu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "abs": torch.abs,
    "power": lambda x: x**3,
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "log of exp": lambda x: (x.exp() + 0.1).log(),
    "sqrt of square": lambda x: (x.square() + 0.1).sqrt(),
    "in place": lambda x: functional.relu(x * 1, inplace=True),
    "softmax": lambda x: x.softmax(1) * WEIGHT,
    "log_softmax": lambda x: functional.log_softmax(x, dim=2) * WEIGHT,
    "logsumexp": lambda x: x.logsumexp(1),
    "layer_norm": lambda x: functional.layer_norm(x, (6,), WEIGHT[0], WEIGHT[1]),
    "group_norm": lambda x: functional.group_norm(x, 2, WEIGHT[0], WEIGHT[1]),
    "max_pool1d": lambda x: functional.max_pool1d(x, 2),
    "max_pool2d": lambda x: functional.max_pool2d(x, 3, stride=2, padding=1),
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d(2),
    "amax": lambda x: x.amax(dim=(1, 2)),
    "amin": lambda x: x.amin(dim=1, keepdim=True),
    "max along": lambda x: x.max(2).values,
    "maximum": lambda x: torch.maximum(x, x.flip(2) * 0.5),
    "minimum": lambda x: torch.min(x, 0.3 * x.flip(1)),
    "product": lambda x: x * x.transpose(1, 2),
    "outer product": lambda x: x[:, :, None] * x[:, None],
    "matmul": lambda x: x @ x.transpose(1, 2) @ WEIGHT,
    "einsum": lambda x: torch.einsum("bij,bjk->bik", x, x.roll(1, 1)),
    "quotient": lambda x: x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt(),
    "reciprocal": lambda x: 1 / (x.square() + 1),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x @ WEIGHT, x.roll(1, 2), is_causal=True),
    "glu": lambda x: functional.glu(x, dim=2),
    "magnitude": lambda x: torch.complex(x, x.roll(1, 2)).abs(),
    "top k": lambda x: x.topk(3, dim=1).values.sum(1),
    "graph pool": lambda x: (x * x.sum(2, keepdim=True)).gather(1, x.sum(2, keepdim=True).topk(3, dim=1).indices.expand(-1, -1, 6)).sum(1),
    "convolution": lambda x: functional.conv1d(x, FILTER, padding=1),
    "folded batch": lambda x: functional.gelu(x.flatten(0, 1)).view(x.shape),
    "straight selection": lambda x: torch.where(torch.ones(6, dtype=torch.bool), x, -x)[:, torch.tensor([0, 2])],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_multipliers_account_for_every_change_of_output(name):
    clip, references = draw(1, 6, 6), draw(3, 6, 6, seed=1)
    func = FUNCTIONS[name]
    shares = rescaled(func, clip, references) * (clip - references)
    total = func(clip).sum() * 3 - func(references).sum()
    assert torch.allclose(shares.sum(), total, rtol=1e-4, atol=1e-4)
    for row in range(3):
        one = rescaled(func, clip, references[row : row + 1]) * (clip - references[row : row + 1])
        assert torch.allclose(one, shares[row : row + 1], rtol=1e-9, atol=1e-9)  # a batch of references is its singles
        assert torch.allclose(one.sum(), (func(clip) - func(references[row : row + 1])).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"top k", "graph pool", "straight selection", "amax", "max_pool2d"}))
def test_multipliers_become_the_slope_where_clip_and_reference_meet(name):
    point = draw(1, 6, 6, seed=3)
    x = point.clone().requires_grad_(True)
    slope = torch.autograd.grad(FUNCTIONS[name](x).sum(), x)[0]
    assert torch.allclose(rescaled(FUNCTIONS[name], point * (1 + 1e-7), point), slope, rtol=1e-4, atol=1e-4)


def test_secant_product_and_maximum_are_those_of_the_papers():
    clip, reference = torch.tensor([[2.0, -1.0]]), torch.tensor([[-1.0, 3.0]])
    assert torch.allclose(rescaled(torch.relu, clip, reference), torch.tensor([[2 / 3, 3 / 4]]))
    mean = (clip + reference) / 2
    assert torch.allclose(rescaled(lambda x: x[:, 0] * x[:, 1], clip, reference), mean.flip(1))
    # the reference's maximum fell from 3 to the clip's 2: it takes all of that, over its own change of -4
    assert torch.allclose(rescaled(lambda x: x.amax(1), clip, reference), torch.tensor([[0.0, 0.25]]))


def test_shares_equal_those_of_shap_where_it_knows_every_module():
    """An independent implementation: shap.DeepExplainer over modules whose rule it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what shap's imports say of matplotlib
        shap = pytest.importorskip("shap", reason="shap is an extra: pip install 'xaibench[shap]'")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 5), nn.Sigmoid(), nn.Linear(5, 1)).eval()
    clip, references = 2 * draw(1, 6).float(), 2 * draw(4, 6, seed=1).float()
    theirs = torch.as_tensor(shap.DeepExplainer(net, references).shap_values(clip, check_additivity=False)).reshape(6)
    ours = (rescaled(net, clip, references, tolerance=1e-6) * (clip - references)).mean(0)
    assert torch.allclose(ours, theirs.float(), rtol=1e-4, atol=1e-5)


def test_softmax_of_shifted_scores_is_given_nothing():
    reference = draw(1, 5)
    shares = rescaled(lambda x: x.softmax(1) * WEIGHT[0, :5], reference + 40, reference) * 40
    assert abs(shares.sum()) < 1e-12
    far = rescaled(lambda x: x.softmax(1) * WEIGHT[0, :5], 500 * reference.flip(1), reference)
    assert far.isfinite().all()


@pytest.mark.parametrize("func", [lambda x: x.sort(1).values, lambda x: torch.fmod(x, 0.7), lambda x: torch.where(x > 0, x * x, x)])
def test_an_operation_without_a_rule_is_refused_by_name(func):
    with pytest.raises(NotApplicableError, match=r"detector must use operations with a rescale rule, got (sort|fmod|where)"):
        rescaled(func, draw(1, 6, 6), draw(2, 6, 6, seed=1))


class Ranked(Detector):
    """Weighs frames by the rank of their level, which the rule for selections cannot follow."""

    name = "ranked"
    input_samples = SAMPLES

    def forward(self, waveform: Tensor) -> Tensor:
        return log_magnitude(waveform, GRID).mean(1).topk(4, dim=1).values @ torch.tensor([4.0, 1.0, 0.0, -2.0])


def test_a_detector_that_reads_the_order_of_a_selection_keeps_its_order():
    explainer, clip, references = EXPLAINERS.load("deep_shap", stft=GRID), clips(1), clips(2, seed=1)
    heatmap = explainer.explain(clip, Ranked(), references=references)
    assert explainer.diagnostics(heatmap, clip, Ranked(), references)["completeness_error_percent"] < 1


def test_an_operation_in_place_is_refused():
    with pytest.raises(NotApplicableError, match="detector must not work in place, got mul_"):
        rescaled(lambda x: (x * 1).mul_(x), draw(1, 6), draw(1, 6, seed=1))


class Graphs(Detector):
    """AASIST in small: gain normalization, convolution, SELU, both graph attentions, pooling by score, maxima."""

    name = "graphs"
    input_samples = SAMPLES

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv1d(1, 8, 65, stride=16)
            self.act = activation
            self.attention, self.pool = GraphAttention(8, 8, 2.0), GraphPool(0.5, 8)
            self.both, self.readout = HeterogeneousGraphAttention(8, 4, 100.0), nn.Linear(4, 1)
            self.master = nn.Parameter(torch.randn(1, 1, 8))
        self.eval()

    def forward(self, waveform: Tensor) -> Tensor:
        bands = self.act(self.conv(3 * (waveform / (waveform.square().mean(-1, keepdim=True) + 1e-8).sqrt())[:, None]))
        times = self.pool(self.attention(functional.max_pool1d(bands.abs(), 6).transpose(1, 2)))
        rows, columns, master = self.both(times, times.flip(2), self.master.expand(len(times), -1, -1))
        return self.readout(torch.maximum(rows.amax(1), columns.mean(1)) + master[:, 0])[:, 0]


def clips(count: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(count, SAMPLES, generator=torch.Generator().manual_seed(seed)).cumsum(1).sin()


def cnn() -> SpectrogramCNN:
    detector = SpectrogramCNN("random", config=SpectrogramCNNConfig((4, 6, 8, 8), 128, 32))
    detector.input_samples = SAMPLES
    return detector


@pytest.mark.parametrize("detector", [Graphs(nn.SELU()), Graphs(nn.GELU()), cnn()], ids=["selu", "gelu", "cnn"])
def test_maps_add_up_to_one_percent_of_the_change_of_log_odds(detector):
    explainer = EXPLAINERS.load("deep_shap", stft=GRID, chunk_size=7)
    clip, references = clips(2), clips(20, seed=1)
    heatmap = explainer.explain(clip, detector, references=references)
    with torch.no_grad():
        change = detector(clip) - detector(references).mean()
    residual = explainer.completeness_residual(heatmap, clip, detector, references)
    assert (residual.abs() < 0.01 * change.abs()).all(), (residual, change)
    one = EXPLAINERS.load("deep_shap", stft=GRID, chunk_size=20).explain(clip[:1], detector, references=references)
    assert torch.allclose(one[0], heatmap[0], atol=1e-4 * float(one.abs().max()))


@pytest.mark.parametrize("name", ["deep_shap", "deep_shap_captum"])
def test_the_contract(name):
    assert not check_explainer(EXPLAINERS.load(name, stft=GRID), cnn(), samples=clips(2))


class Pointwise(Detector):
    """One non-linearity as a module between two linear maps of the log-spectrogram's row means."""

    name = "pointwise"
    input_samples = SAMPLES

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first, self.act, self.last = nn.Linear(GRID.bins, 16), activation, nn.Linear(16, 1)
        self.eval()

    def forward(self, waveform: Tensor) -> Tensor:
        return self.last(self.act(self.first(log_magnitude(waveform, GRID).mean(2))))[:, 0]


def relative_residual(name: str, detector: Detector, clip: Tensor, references: Tensor) -> float:
    explainer = EXPLAINERS.load(name, stft=GRID)
    heatmap = explainer.explain(clip, detector, references=references)
    change = detector(clip) - detector(references).mean()
    return float((explainer.completeness_residual(heatmap, clip, detector, references) / change).abs().detach())


@pytest.mark.parametrize("activation", [nn.GELU, nn.SELU])
def test_captum_falls_back_to_the_gradient_without_a_word(activation):
    clip, references = clips(1), 0.05 * clips(4, seed=1)
    silent, known = Pointwise(activation()), Pointwise(nn.ReLU())
    assert relative_residual("deep_shap", silent, clip, references) < 1e-3
    assert relative_residual("deep_shap_captum", silent, clip, references) > 0.01
    assert relative_residual("deep_shap", known, clip, references) < 1e-3


def test_silent_references_and_silent_cells_keep_maps_additive():
    """Where a cell is silent on one side alone, the way between both is heard, not the slope at silence."""
    detector, clip, references = cnn(), clips(1), clips(3, seed=1)
    references[0] = 0
    references[1, 900:] = 0
    clip[:, :300] = 0
    explainer = EXPLAINERS.load("deep_shap", stft=GRID)
    told = explainer.diagnostics(explainer.explain(clip, detector, references=references), clip, detector, references)
    assert told["completeness_error_percent"] < 1
