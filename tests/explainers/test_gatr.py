"""GATR against its recursion token by token, its place in time, and the detectors that it refuses."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xaibench.benchmark.check import check_explainer, example_clips
from xaibench.errors import NotApplicableError
from xaibench.explainers.gatr import AttentionTap, relevancy_by_token, spread
from xaibench.registry import EXPLAINERS
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.detectors.wav2vec2_aasist import Wav2Vec2AASISTTiny
from xaibench.tasks.spectrogram import STFTConfig
from xaibench.types import Detector

GRID = STFTConfig(128, 32)
SAMPLES = 2048


class Attentive(Detector):
    """Two blocks of attention over frames of 64 samples; fused or by hand, the same function."""

    name = "attentive"
    input_samples = SAMPLES

    def __init__(self, fused: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.embed, self.readout = nn.Linear(64, 8), nn.Linear(8, 1)
            self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.fused = fused
        self.eval()

    def hidden_states(self, waveform: Tensor) -> Tensor:
        hidden = self.embed(4 * waveform.unflatten(1, (-1, 64)))
        states = []
        for layer in self.qkv:
            query, key, value = (p.unflatten(2, (2, 4)).transpose(1, 2) for p in layer(hidden).chunk(3, dim=2))
            if self.fused:
                mixed = functional.scaled_dot_product_attention(query, key, value)
            else:
                mixed = torch.softmax(query @ key.transpose(2, 3) * 4**-0.5, dim=-1) @ value
            hidden = hidden + mixed.transpose(1, 2).flatten(2)
            states.append(hidden)
        return torch.stack(states)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.readout(self.hidden_states(waveform)[-1].amax(1))[:, 0]


def clips(count: int = 2) -> Tensor:
    return 0.3 * torch.randn(count, SAMPLES, generator=torch.Generator().manual_seed(0))


def test_fused_attention_is_opened_and_equal():
    maps = [EXPLAINERS.load("gatr", stft=GRID).explain(clips(), Attentive(fused)) for fused in (True, False)]
    assert torch.allclose(*maps, rtol=1e-4, atol=1e-7)
    assert torch.equal(maps[0], maps[0][:, :1].expand_as(maps[0]))
    assert maps[0].min() >= 0
    assert maps[0].std() > 0


def test_relevancy_token_by_token():
    detector, clip = Attentive(fused=False), clips(1).requires_grad_(True)
    with AttentionTap() as tap:
        logit = detector(clip)
    assert torch.equal(logit, detector(clip))
    slopes = torch.autograd.grad(logit.sum(), tap.maps)
    maps = [a.detach() for a in tap.maps]
    ours = relevancy_by_token(maps, slopes)[0]
    n = ours.shape[0]
    total = [[float(i == j) for j in range(n)] for i in range(n)]
    for attended, slope in zip(maps, slopes, strict=True):
        step = [[sum(max(float(attended[0, h, i, j] * slope[0, h, i, j]), 0.0) for h in range(2)) / 2 for j in range(n)] for i in range(n)]
        total = [[total[i][j] + sum(step[i][k] * total[k][j] for k in range(n)) for j in range(n)] for i in range(n)]
    weights = [float(slopes[-1][0, :, i].abs().mean()) for i in range(n)]
    expected = [sum(w * total[i][j] for i, w in enumerate(weights)) / sum(weights) for j in range(n)]
    assert torch.allclose(ours, torch.tensor(expected), rtol=1e-4)


def test_tokens_keep_their_place_in_time():
    tokens = torch.zeros(1, 10)
    tokens[0, 3] = 1  # from 0.3 to 0.4 of the clip
    wide = spread(tokens, 101)[0]
    assert wide.argmax() == 35
    assert torch.allclose(spread(torch.arange(10.0)[None], 101)[0, 5:96], torch.linspace(0, 9, 91), atol=1e-4)


def test_the_contract_and_refusals():
    assert not check_explainer(EXPLAINERS.load("gatr", stft=GRID), Attentive(True), samples=clips())
    cnn = SpectrogramCNN("random", config=SpectrogramCNNConfig((4, 6, 8, 8), 128, 32))
    assert EXPLAINERS.load("gatr").applicable(cnn) == (
        False,
        "detector 'spectrogram_cnn' has no stack of transformer layers, so no attention to follow",
    )
    cnn.hidden_states = None  # a stack in name only
    with pytest.raises(NotApplicableError, match="detector must compute self-attention, got none"):
        EXPLAINERS.load("gatr", stft=GRID).explain(clips(), cnn)


def test_wav2vec2_aasist_is_explained():
    detector = Wav2Vec2AASISTTiny("random")
    heatmap = EXPLAINERS.load("gatr").explain(example_clips(16_000), detector)
    assert heatmap.shape == (2, 513, 63)
    assert heatmap.isfinite().all()
    assert heatmap.std() > 0
