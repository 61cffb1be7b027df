"""The wav2vec 2.0 encoder in the form of XLS-R: layer normalization in the convolutions and before each block.

Baevski et al. 2020, arXiv:2006.11477; Babu et al. 2022, arXiv:2111.09296. Attribute names are the keys of Hugging Face's ``Wav2Vec2Model``.
The published pre-training has no dropout, so there is none. The waveform is heard as it is: no normalization of its level.

Every non-linearity, softmax and normalization is a module of its own, used once and never in place, and attention is two plain matrix
products around a softmax, so that each step can be hooked as a module and heard as an operation (``explainers/operations.py``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes of the encoder; the default is XLS-R 300M."""

    convolutions: tuple[tuple[int, int, int], ...] = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)
    """Channels, kernel and stride of each convolution, in samples of the layer's input."""
    width: int = 1024
    depth: int = 24
    heads: int = 16
    hidden: int = 4096
    """Width inside the feed-forward part of a block."""
    position_kernel: int = 128
    position_groups: int = 16

    def frames(self, samples: int) -> int:
        """Return the number of frames N' for a clip of ``samples`` samples."""
        for _, kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1
        return samples


class ConvolutionLayer(nn.Module):
    """Convolution, normalization over channels, GELU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride)
        nn.init.kaiming_normal_(self.conv.weight)
        self.layer_norm = nn.LayerNorm(out_channels)
        self.activation = nn.GELU()

    def forward(self, signal: Tensor) -> Tensor:
        """Return ``(B, out_channels, T')`` of ``(B, in_channels, T)``."""
        normalized = self.layer_norm(self.conv(signal).transpose(1, 2)).transpose(1, 2)
        active: Tensor = self.activation(normalized)
        return active


class FeatureExtractor(nn.Module):
    """The stack of strided convolutions."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        layers, channels = [], 1
        for out_channels, kernel, stride in config.convolutions:
            layers.append(ConvolutionLayer(channels, out_channels, kernel, stride))
            channels = out_channels
        self.conv_layers = nn.ModuleList(layers)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return features ``(B, N', C)`` of a waveform ``(B, T)``."""
        signal = waveform[:, None]
        for layer in self.conv_layers:
            signal = layer(signal)
        return signal.transpose(1, 2)


class FeatureProjection(nn.Module):
    """Normalization and a linear map to the width of the blocks."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        channels = config.convolutions[-1][0]
        self.layer_norm = nn.LayerNorm(channels)
        self.projection = nn.Linear(channels, config.width)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, N', D)`` of features ``(B, N', C)``."""
        projected: Tensor = self.projection(self.layer_norm(features))
        return projected


class WeightNormConvolution(nn.Module):
    """A convolution over time whose kernel at each tap has a learned norm ``g`` and direction ``v`` (arXiv:1602.07868), as published."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.groups, self.padding = config.position_groups, config.position_kernel // 2
        self.weight_v = nn.Parameter(torch.empty(config.width, config.width // self.groups, config.position_kernel))
        nn.init.normal_(self.weight_v, std=(4 / (config.position_kernel * config.width)) ** 0.5)
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))  # (1, 1, K)
        self.bias = nn.Parameter(torch.zeros(config.width))

    def forward(self, signal: Tensor) -> Tensor:
        """Return ``(B, D, N' + 1)`` for even kernels, else ``(B, D, N')``, of ``(B, D, N')``."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        return nn.functional.conv1d(signal, weight, self.bias, padding=self.padding, groups=self.groups)


class PositionalConvolution(nn.Module):
    """Relative positions heard by a wide grouped convolution."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.conv = WeightNormConvolution(config)
        self.activation = nn.GELU()

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the positions' part ``(B, N', D)`` of ``(B, N', D)``; an even kernel's surplus frame is dropped."""
        heard = self.conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]
        active: Tensor = self.activation(heard).transpose(1, 2)
        return active


class Attention(nn.Module):
    """Self-attention with several heads."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``(B, N', D)`` of ``(B, N', D)``; ``softmax`` puts out the attention ``(B, heads, N', N')``."""
        split = (*hidden.shape[:2], self.heads, -1)
        query, key, value = (p(hidden).view(split).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))  # (B, heads, N', D')
        attention = self.softmax(query * query.shape[-1] ** -0.5 @ key.transpose(2, 3))
        mixed: Tensor = self.out_proj((attention @ value).transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """Two linear maps around a GELU."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.width, config.hidden)
        self.activation = nn.GELU()
        self.output_dense = nn.Linear(config.hidden, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``(..., D)`` of ``(..., D)``."""
        mapped: Tensor = self.output_dense(self.activation(self.intermediate_dense(hidden)))
        return mapped


class Block(nn.Module):
    """Attention and feed-forward part, each normalized at its entrance and added to what entered."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.final_layer_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the residual stream ``(B, N', D)`` after the block."""
        hidden = hidden + self.attention(self.layer_norm(hidden))
        after: Tensor = hidden + self.feed_forward(self.final_layer_norm(hidden))
        return after


class Encoder(nn.Module):
    """Positions and blocks; the normalization that follows the last block is applied by ``Wav2Vec2`` alone."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.pos_conv_embed = PositionalConvolution(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, hidden: Tensor) -> list[Tensor]:
        """Return the residual stream after each block, ``(B, N', D)`` each, not normalized."""
        hidden = hidden + self.pos_conv_embed(hidden)
        states = []
        for layer in self.layers:
            hidden = layer(hidden)
            states.append(hidden)
        return states


class Wav2Vec2(nn.Module):
    """Waveform in, one feature vector per 20 ms out.

    Args:
        config: Sizes.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)

    def hidden_states(self, waveform: Tensor) -> list[Tensor]:
        """Return the residual stream after each block, before the final normalization, ``(B, N', D)`` each."""
        states: list[Tensor] = self.encoder(self.feature_projection(self.feature_extractor(waveform)))
        return states

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the normalized features ``(B, N', D)`` of a waveform ``(B, T)``."""
        features: Tensor = self.encoder.layer_norm(self.hidden_states(waveform)[-1])
        return features
