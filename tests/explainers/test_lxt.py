"""AttnLRP against LXT, the authors' own library, on a small transformer and rule by rule.

LXT 2.1 supports no wav2vec 2.0, and importing ``lxt.efficient`` fails beside transformers 5.24, which lacks a module that it asks for.
Its rules and patches need neither: they are loaded here without the package's own ``__init__``. Its divisors are stabilized without a
sign (``input + 1e-10``), so that inputs are kept away from zero.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xaibench.explainers.lrp_rules import RelevanceRules, RuleSettings

SETTINGS = RuleSettings(gamma_conv=0, gamma_linear=0, epsilon=1e-12, gates="uniform")


@pytest.fixture(name="lxt")
def _lxt(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    spec = importlib.util.find_spec("lxt")
    if spec is None or spec.origin is None:
        pytest.skip("lxt is a test extra: pip install lxt")
    package = ModuleType("lxt.efficient")
    package.__path__ = [str(Path(spec.origin).parent / "efficient")]
    monkeypatch.setitem(sys.modules, "lxt.efficient", package)
    names = ("lxt.efficient.rules", "lxt.efficient.patches", "lxt.explicit.functional")
    rules, patches, explicit = (importlib.import_module(name) for name in names)
    for name in names[:2]:
        monkeypatch.delitem(sys.modules, name)
    return SimpleNamespace(rules=rules, patches=patches, explicit=explicit)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Block(nn.Module):
    """A pre-norm transformer block of two heads, GELU inside."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up_proj, self.down_proj = nn.Linear(width, 24), nn.Linear(24, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.act_fn = functional.gelu

    def attend(self, hidden: Tensor, attention, norm) -> Tensor:
        parts = (p.unflatten(2, (2, -1)).transpose(1, 2) for p in self.qkv(norm(self.before, hidden)).chunk(3, dim=2))
        return self.out(attention(*parts).transpose(1, 2).flatten(2))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attend(hidden, functional.scaled_dot_product_attention, lambda norm, x: norm(x))
        return hidden + self.down_proj(self.act_fn(self.up_proj(self.between(hidden))))

    def by_lxt(self, hidden: Tensor, patches: ModuleType) -> Tensor:
        fused = patches.wrap_attention_forward(lambda _module, q, k, v: functional.scaled_dot_product_attention(q, k, v))
        hidden = hidden + self.attend(hidden, lambda q, k, v: fused(None, q, k, v), patches.layer_norm_forward)
        return hidden + patches.mlp_forward(self, patches.layer_norm_forward(self.between, hidden))


def test_a_transformer_equals_lxts_patches(lxt: SimpleNamespace):
    torch.manual_seed(0)
    blocks, readout = nn.ModuleList(Block() for _ in range(3)).double(), draw(12, seed=7)
    maps = []
    for ours in (True, False):
        hidden = x = draw(2, 9, 12, seed=1).requires_grad_(True)
        if ours:
            with RelevanceRules(SETTINGS):
                for block in blocks:
                    hidden = block(hidden)
        else:
            for block in blocks:
                hidden = block.by_lxt(hidden, lxt.patches)
        maps.append(x.detach() * torch.autograd.grad((hidden.mean(1) @ readout).sum(), x)[0])
    assert maps[0].abs().max() > 0.01
    assert torch.allclose(*maps, rtol=1e-5, atol=1e-8)


def relevance(func, x: Tensor, given: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    with RelevanceRules(SETTINGS):
        out = func(x)
    return x.detach() * torch.autograd.grad(out, x, given / out.detach())[0]


WEIGHT, BIAS = draw(5, 6, seed=3), draw(5, seed=4)
RULES = {
    "linear": (lambda x: functional.linear(x, WEIGHT, BIAS), lambda f, x: f.linear_epsilon(x, WEIGHT, BIAS, 1e-12)),
    "softmax": (lambda x: x.softmax(-1), lambda f, x: f.softmax(x, -1)),
    "matmul": (lambda x: x @ x.transpose(1, 2), lambda f, x: f.matmul(x, x.transpose(1, 2), epsilon=1e-12)),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_equal_lxts_explicit_ones(lxt: SimpleNamespace, rule: str):
    ours, theirs = RULES[rule]
    x = draw(2, 4, 6, seed=1)
    given = draw(*ours(x).shape, seed=2)
    heard = x.clone().requires_grad_(True)
    expected = torch.autograd.grad(theirs(lxt.explicit, heard), heard, given)[0]
    assert torch.allclose(relevance(ours, x, given), expected, rtol=1e-6, atol=1e-9)
