"""The graph layers of AASIST: attention within one graph, attention across two, and pooling (Jung et al. 2022, arXiv:2110.01200).

Attribute names are the keys of the published checkpoints, so that these load without translation. Every non-linearity is a module of its
own, used once and never in place, so that rules and hooks can be attached to each.
"""

import torch
from torch import Tensor, nn


def _vector(size: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(size, 1)))


def _normalize(norm: nn.Module, nodes: Tensor) -> Tensor:
    """Apply batch normalization to the features of all nodes, ``(B, K, D)``."""
    flat: Tensor = norm(nodes.flatten(0, 1))
    return flat.view(nodes.shape)


class GraphAttention(nn.Module):
    """Attention among the nodes of one graph (section 2.2).

    Args:
        in_features: Features of a node.
        out_features: Features of a node after the layer.
        temperature: Divides the attention scores before the softmax.
    """

    def __init__(self, in_features: int, out_features: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.att_proj = nn.Linear(in_features, out_features)
        self.att_weight = _vector(out_features)
        self.proj_with_att = nn.Linear(in_features, out_features)
        self.proj_without_att = nn.Linear(in_features, out_features)
        self.bn = nn.BatchNorm1d(out_features)
        self.input_drop = nn.Dropout(0.2)
        self.tanh = nn.Tanh()
        self.softmax = nn.Softmax(dim=1)
        self.act = nn.SELU()

    def forward(self, nodes: Tensor) -> Tensor:
        """Return the updated nodes ``(B, K, out_features)`` of nodes ``(B, K, in_features)``."""
        nodes = self.input_drop(nodes)
        pairs = self.tanh(self.att_proj(nodes[:, :, None] * nodes[:, None]))  # (B, K, K, out)
        attention = self.softmax((pairs @ self.att_weight)[..., 0] / self.temperature)  # (B, K, K)
        mixed = self.proj_with_att(attention @ nodes) + self.proj_without_att(nodes)
        updated: Tensor = self.act(_normalize(self.bn, mixed))
        return updated


class HeterogeneousGraphAttention(nn.Module):
    """Attention among the nodes of a temporal and a spectral graph, with a master node that hears both (section 3.2).

    Args:
        in_features: Features of a node.
        out_features: Features of a node after the layer.
        temperature: Divides the attention scores before the softmax.
    """

    def __init__(self, in_features: int, out_features: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.proj_type1 = nn.Linear(in_features, in_features)
        self.proj_type2 = nn.Linear(in_features, in_features)
        self.att_proj = nn.Linear(in_features, out_features)
        self.att_projM = nn.Linear(in_features, out_features)
        self.att_weight11 = _vector(out_features)
        self.att_weight22 = _vector(out_features)
        self.att_weight12 = _vector(out_features)
        self.att_weightM = _vector(out_features)
        self.proj_with_att = nn.Linear(in_features, out_features)
        self.proj_without_att = nn.Linear(in_features, out_features)
        self.proj_with_attM = nn.Linear(in_features, out_features)
        self.proj_without_attM = nn.Linear(in_features, out_features)
        self.bn = nn.BatchNorm1d(out_features)
        self.input_drop = nn.Dropout(0.2)
        self.tanh, self.tanh_master = nn.Tanh(), nn.Tanh()
        self.softmax, self.softmax_master = nn.Softmax(dim=1), nn.Softmax(dim=1)
        self.act = nn.SELU()

    def forward(self, temporal: Tensor, spectral: Tensor, master: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the updated temporal nodes, spectral nodes and master.

        Args:
            temporal: Nodes of the first graph, ``(B, K1, in_features)``.
            spectral: Nodes of the second graph, ``(B, K2, in_features)``.
            master: The master node, ``(B, 1, in_features)``.
        """
        first = temporal.shape[1]
        nodes = self.input_drop(torch.cat([self.proj_type1(temporal), self.proj_type2(spectral)], dim=1))
        mixed = self.proj_with_att(self._attention(nodes, first) @ nodes) + self.proj_without_att(nodes)
        updated = self.act(_normalize(self.bn, mixed))
        return updated[:, :first], updated[:, first:], self._master(nodes, master)

    def _attention(self, nodes: Tensor, first: int) -> Tensor:
        """Return the attention ``(B, K, K)``; each pair of graphs has its own score vector."""
        pairs = self.tanh(self.att_proj(nodes[:, :, None] * nodes[:, None]))  # (B, K, K, out)
        top = torch.cat([pairs[:, :first, :first] @ self.att_weight11, pairs[:, :first, first:] @ self.att_weight12], dim=2)
        bottom = torch.cat([pairs[:, first:, :first] @ self.att_weight12, pairs[:, first:, first:] @ self.att_weight22], dim=2)
        attention: Tensor = self.softmax(torch.cat([top, bottom], dim=1)[..., 0] / self.temperature)
        return attention

    def _master(self, nodes: Tensor, master: Tensor) -> Tensor:
        """Return the master node after it attended to all nodes, ``(B, 1, out_features)``."""
        scores = self.tanh_master(self.att_projM(nodes * master)) @ self.att_weightM  # (B, K, 1)
        attention = self.softmax_master(scores / self.temperature)
        updated: Tensor = self.proj_with_attM(attention.transpose(1, 2) @ nodes) + self.proj_without_attM(master)
        return updated


class GraphPool(nn.Module):
    """Keep the nodes with the highest learned scores, each weighted by its score (Gao & Ji 2019, arXiv:1905.05178, eq. 2).

    Args:
        ratio: Share of nodes to keep, rounded down, at least one.
        in_features: Features of a node.
    """

    def __init__(self, ratio: float, in_features: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.proj = nn.Linear(in_features, 1)
        self.drop = nn.Dropout(0.3)
        self.sigmoid = nn.Sigmoid()

    def forward(self, nodes: Tensor) -> Tensor:
        """Return the kept nodes ``(B, K', D)`` of nodes ``(B, K, D)``."""
        scores = self.sigmoid(self.proj(self.drop(nodes)))  # (B, K, 1)
        kept = max(int(nodes.shape[1] * self.ratio), 1)
        chosen = scores.topk(kept, dim=1).indices.expand(-1, -1, nodes.shape[2])
        pooled: Tensor = (nodes * scores).gather(1, chosen)
        return pooled
