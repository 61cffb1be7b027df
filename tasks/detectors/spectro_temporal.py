"""What AASIST and Wav2Vec2-AASIST share: residual blocks on a map of bands and times, and an answer read from its two graphs.

Jung et al. 2022, arXiv:2110.01200, sections 2 and 3; Tak et al. 2022, arXiv:2202.12233. Attribute names are the keys of the published
checkpoints, whose classes are 0 = spoof, 1 = bona fide. As in the published forward passes, the first batch normalization of each residual
block is loaded but takes no part: its result is never used.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from xaibench.tasks.detectors.graph_attention import GraphAttention, GraphPool, HeterogeneousGraphAttention
from xaibench.types import Detector


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut (arXiv:2110.01200, section 2.1).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        first: The first block has no leading normalization in the checkpoints.
        pool: Time steps that are pooled into one maximum; 1 for none.
    """

    def __init__(self, in_channels: int, out_channels: int, first: bool, pool: int = 3) -> None:
        super().__init__()
        if not first:
            self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, (2, 3), padding=(1, 1))
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.selu = nn.SELU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, (2, 3), padding=(0, 1))
        self.conv_downsample = nn.Conv2d(in_channels, out_channels, (1, 3), padding=(0, 1)) if in_channels != out_channels else None
        self.pool = nn.MaxPool2d((1, pool)) if pool > 1 else None

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, out_channels, F', N' // pool)`` of features ``(B, in_channels, F', N')``."""
        shortcut = features if self.conv_downsample is None else self.conv_downsample(features)
        added: Tensor = self.conv2(self.selu(self.bn2(self.conv1(features)))) + shortcut
        return added if self.pool is None else self.pool(added)


def residual_encoder(channels: tuple[int, ...], pool: int) -> nn.Sequential:
    """Return one residual block for each step from one number of channels to the next, numbered as in the checkpoints."""
    sizes = pairwise(channels)
    return nn.Sequential(*(nn.Sequential(ResidualBlock(a, b, i == 0, pool)) for i, (a, b) in enumerate(sizes)))


class GraphDetector(Detector):
    """A detector that reads its answer from a spectral and a temporal graph through two parallel stacks of heterogeneous attention."""

    cpu_batch = 1  # .46 s per clip; in batches of 4, .56 s

    def build_graphs(
        self,
        n_bands: int,
        features: int,
        graph_features: tuple[int, int],
        pool_ratios: tuple[float, float, float],
        temperatures: tuple[float, float, float],
    ) -> None:
        """Make the graph layers.

        Args:
            n_bands: Nodes of the spectral graph, which have learned positions.
            features: Features of a node as it enters.
            graph_features: Features after the first and after the later graph layers.
            pool_ratios: Kept share of the spectral graph, of the temporal graph, of both graphs of the heterogeneous layers.
            temperatures: Of the spectral, temporal and heterogeneous attention.
        """
        wide, narrow = graph_features
        spectral, temporal, both = pool_ratios
        hot = temperatures[2]
        self.pos_S = nn.Parameter(torch.randn(1, n_bands, features))
        self.master1 = nn.Parameter(torch.randn(1, 1, wide))
        self.master2 = nn.Parameter(torch.randn(1, 1, wide))
        self.GAT_layer_S = GraphAttention(features, wide, temperatures[0])
        self.GAT_layer_T = GraphAttention(features, wide, temperatures[1])
        self.HtrgGAT_layer_ST11 = HeterogeneousGraphAttention(wide, narrow, hot)
        self.HtrgGAT_layer_ST12 = HeterogeneousGraphAttention(narrow, narrow, hot)
        self.HtrgGAT_layer_ST21 = HeterogeneousGraphAttention(wide, narrow, hot)
        self.HtrgGAT_layer_ST22 = HeterogeneousGraphAttention(narrow, narrow, hot)
        self.pool_S = GraphPool(spectral, wide)
        self.pool_T = GraphPool(temporal, wide)
        self.pool_hS1 = GraphPool(both, narrow)
        self.pool_hT1 = GraphPool(both, narrow)
        self.pool_hS2 = GraphPool(both, narrow)
        self.pool_hT2 = GraphPool(both, narrow)
        self.drop_way = nn.Dropout(0.2)
        self.drop = nn.Dropout(0.5)
        self.out_layer = nn.Linear(5 * narrow, 2)

    def classify_nodes(self, spectral: Tensor, temporal: Tensor) -> Tensor:
        """Return the two logits ``(B, 2)``, spoof first, of nodes ``(B, n_bands, features)`` and ``(B, N', features)``."""
        spectral = self.pool_S(self.GAT_layer_S(spectral + self.pos_S))
        temporal = self.pool_T(self.GAT_layer_T(temporal))
        first = self._branch(temporal, spectral, self.master1, "1")
        second = self._branch(temporal, spectral, self.master2, "2")
        times, bands, master = (torch.maximum(self.drop_way(a), self.drop_way(b)) for a, b in zip(first, second, strict=True))
        readout = [times.abs().amax(dim=1), times.mean(dim=1), bands.abs().amax(dim=1), bands.mean(dim=1), master[:, 0]]
        logits: Tensor = self.out_layer(self.drop(torch.cat(readout, dim=1)))
        return logits

    def _branch(self, temporal: Tensor, spectral: Tensor, master: Tensor, branch: str) -> tuple[Tensor, Tensor, Tensor]:
        """Run one of the two stacks of heterogeneous layers; the second layer adds to the first."""
        master = master.expand(len(temporal), -1, -1)
        times, bands, master = self.get_submodule(f"HtrgGAT_layer_ST{branch}1")(temporal, spectral, master)
        times, bands = self.get_submodule(f"pool_hT{branch}")(times), self.get_submodule(f"pool_hS{branch}")(bands)
        more_times, more_bands, more_master = self.get_submodule(f"HtrgGAT_layer_ST{branch}2")(times, bands, master)
        return times + more_times, bands + more_bands, master + more_master
