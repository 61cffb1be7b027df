"""Residual-in-residual dense blocks, the encoder of SegDiff's image (Wang et al. 2018, arXiv:1809.00219, section 3.1)."""

import torch
from torch import Tensor, nn

LEAK = 0.2
RESIDUAL_SCALE = 0.2


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size, but for its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it (Wang et al. 2018, figure 4)."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        widths = [growth] * 4 + [features]
        self.convs = nn.ModuleList(conv3x3(features + i * growth, width) for i, width in enumerate(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat([seen, nn.functional.leaky_relu(conv(seen), LEAK)], dim=1)
        out: Tensor = x + RESIDUAL_SCALE * self.convs[-1](seen)
        return out


class RRDB(nn.Module):
    """Three dense blocks under a common residual."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(features, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: Tensor = x + RESIDUAL_SCALE * self.blocks(x)
        return out
