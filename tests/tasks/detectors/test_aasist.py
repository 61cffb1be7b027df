"""AASIST: the published answers to the last digit that matters, layers re-derived node by node, and wrong checkpoints refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from xaibench.errors import WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.aasist import AASIST, AASISTL, band_pass_filters
from xaibench.tasks.detectors.graph_attention import GraphAttention, GraphPool, HeterogeneousGraphAttention

PUBLISHED = [("aasist", "AASIST.pth", 297_866, [5.4362, 5.7088]), ("aasist_l", "AASIST-L.pth", 85_306, [8.3601, 7.9815])]


def noise(samples: int = 64_600) -> Tensor:
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.mark.shared
@pytest.mark.parametrize(("name", "file", "parameters", "expected"), PUBLISHED)
def test_published_checkpoints_load_key_by_key_and_answer_as_pinned(shared_weights: Path, name, file, parameters, expected):
    detector = DETECTORS.load(name, weights=str(shared_weights / file))
    assert sum(p.numel() for p in detector.parameters()) == parameters
    with torch.no_grad():
        answers = detector(noise()[:1])
    torch.testing.assert_close(answers, torch.tensor(expected[:1]), rtol=0, atol=1e-3)


@pytest.mark.shared
def test_the_memory_layout_that_is_faster_gives_the_answers_of_the_default_one(shared_weights: Path):
    from xaibench.benchmark.bench_metrics import in_default_layout

    detector = DETECTORS.load("aasist", weights=str(shared_weights / "AASIST.pth"))
    plain = in_default_layout(detector)
    assert all(weight.is_contiguous() for weight in plain.parameters())
    assert not all(weight.is_contiguous() for weight in detector.parameters())
    with torch.inference_mode():
        answers = [one(noise()) for one in (detector, plain)]
        assert torch.equal(answers[0], detector(noise()))
    torch.testing.assert_close(*answers, rtol=0, atol=1e-3)


@pytest.mark.shared
def test_a_checkpoint_of_the_other_size_is_refused_with_its_shapes(shared_weights: Path):
    with pytest.raises(
        WeightsError, match=r"weights must fit AASIST key by key, got AASIST-L.pth with .*wrong shapes: .*pos_S \(1, 23, 24\)"
    ):
        AASIST(shared_weights / "AASIST-L.pth")


def test_missing_and_unknown_keys_are_all_listed(tmp_path: Path):
    state = AASISTL("random").state_dict()
    del state["master1"]
    state["encoder.9.weight"], state["ssl.bias"] = torch.zeros(1), torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"1 missing keys: master1; 2 unknown keys: encoder\.9\.weight, ssl\.bias"):
        AASISTL(tmp_path / "other.pth")


def test_a_checkpoint_that_holds_code_is_refused(tmp_path: Path):
    torch.save(AASISTL("random"), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"weights must be a checkpoint of plain tensors, got model\.pth"):
        AASISTL(tmp_path / "model.pth")


def test_missing_weights_say_where_to_get_them(monkeypatch):
    monkeypatch.delenv("XAIBENCH_WEIGHTS", raising=False)
    with pytest.raises(
        WeightsError, match=r"weights of aasist must be a checkpoint file, got none; fetch AASIST\.pth from github\.com/clovaai"
    ):
        DETECTORS.load("aasist")
    with pytest.raises(WeightsError, match=r"got 'no\.pth'"):
        DETECTORS.load("aasist", weights="no.pth")


def test_a_saved_state_loads_back_and_class_0_is_spoof(tmp_path: Path):
    detector = AASISTL("random", seed=3)
    torch.save(detector.state_dict(), tmp_path / "own.pth")
    again, clips = AASISTL(tmp_path / "own.pth"), noise(16_000)
    assert again.fingerprint() == detector.fingerprint()
    with torch.no_grad():
        before = again(clips)
        again.out_layer.bias[0] += 2.0
        torch.testing.assert_close(again(clips), before + 2.0)
        again.out_layer.bias[1] += 3.0
        torch.testing.assert_close(again(clips), before - 1.0)


def test_memory_layout_does_not_change_the_answer():
    detector, clips = AASISTL("random"), noise(16_000)
    with torch.no_grad():
        fast = detector(clips)
        features = detector.encode(clips)
        detector.to(memory_format=torch.contiguous_format)
        bands = detector.first_selu(detector.first_bn(detector.first_pool(detector.sinc(clips)[:, None].abs())))
        plain = detector.encoder(bands.contiguous())
        torch.testing.assert_close(features, plain, rtol=1e-3, atol=1e-4)
        spoof, bonafide = detector.classify(plain).unbind(1)
        torch.testing.assert_close(fast, spoof - bonafide, rtol=1e-3, atol=1e-4)


def test_all_filters_together_pass_everything_and_each_passes_its_own_band():
    filters = band_pass_filters(70, 129)
    impulse = torch.zeros(129)
    impulse[64] = 1.0
    torch.testing.assert_close(filters.sum(0), impulse, rtol=0, atol=1e-5)
    peaks_hz = torch.fft.rfft(filters, 4096).abs().argmax(1) * (16_000 / 4096)
    mel = 2595 * torch.log10(1 + peaks_hz / 700)
    resolved = slice(10, 69)  # lower bands are narrower than the window can tell apart; the last one is open at the top
    torch.testing.assert_close(mel[resolved], ((torch.arange(70) + 0.5) * 2840.023 / 70)[resolved], rtol=0, atol=60)


def test_graph_attention_equals_its_definition_node_by_node():
    torch.manual_seed(0)
    layer, nodes = GraphAttention(5, 3, temperature=2.0).eval(), torch.randn(2, 4, 5)
    layer.bn.running_mean.uniform_(-1, 1)
    board = torch.tensor(
        [[[(torch.tanh(layer.att_proj(x[u] * x[n])) @ layer.att_weight).item() / 2 for n in range(4)] for u in range(4)] for x in nodes]
    )
    weights = board.exp() / board.exp().sum(1, keepdim=True)
    mixed = torch.stack(
        [
            torch.stack([layer.proj_with_att(sum(w[u, n] * x[n] for n in range(4))) for u in range(4)])
            for w, x in zip(weights, nodes, strict=True)
        ]
    ) + layer.proj_without_att(nodes)
    norm = (mixed - layer.bn.running_mean) / (layer.bn.running_var + layer.bn.eps).sqrt()
    torch.testing.assert_close(layer(nodes), torch.nn.functional.selu(norm))


def test_heterogeneous_attention_scores_each_pair_of_graphs_with_its_own_vector():
    torch.manual_seed(0)
    layer = HeterogeneousGraphAttention(4, 3, temperature=5.0).eval()
    temporal, spectral, master = torch.randn(1, 3, 4), torch.randn(1, 2, 4), torch.randn(1, 1, 4)
    new_temporal, new_spectral, new_master = layer(temporal, spectral, master)
    x = torch.cat([layer.proj_type1(temporal), layer.proj_type2(spectral)], 1)[0]
    vectors = {(True, True): layer.att_weight11, (False, False): layer.att_weight22}
    board = torch.stack(
        [
            torch.stack(
                [(torch.tanh(layer.att_proj(x[u] * x[n])) @ vectors.get((u < 3, n < 3), layer.att_weight12))[0] / 5 for n in range(5)]
            )
            for u in range(5)
        ]
    )
    mixed = layer.proj_with_att(board.softmax(0) @ x) + layer.proj_without_att(x)
    expected = torch.nn.functional.selu(mixed / (1 + layer.bn.eps) ** 0.5)
    torch.testing.assert_close(torch.cat([new_temporal, new_spectral], 1)[0], expected)
    heard = torch.stack([(torch.tanh(layer.att_projM(x[n] * master[0, 0])) @ layer.att_weightM)[0] / 5 for n in range(5)]).softmax(0)
    torch.testing.assert_close(new_master[0, 0], layer.proj_with_attM(heard @ x) + layer.proj_without_attM(master[0, 0]))


@pytest.mark.parametrize(("ratio", "kept"), [(0.5, 2), (0.1, 1), (0.7, 3)])
def test_pooling_keeps_the_best_nodes_weighted_by_their_scores(ratio: float, kept: int):
    torch.manual_seed(0)
    pool, nodes = GraphPool(ratio, 3).eval(), torch.randn(1, 5, 3)
    scores = torch.sigmoid(pool.proj(nodes))[0, :, 0]
    best = scores.argsort(descending=True)[:kept]
    torch.testing.assert_close(pool(nodes)[0], nodes[0, best] * scores[best, None])
