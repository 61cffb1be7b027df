"""Layers that several vocoders share: a stack of gated dilated convolutions (van den Oord et al. 2016, arXiv:1609.03499), not causal."""

from torch import Tensor, nn


class GatedStack(nn.Module):
    """Residual blocks of dilation 1, 2, 4, ... with a condition added before the gate.

    Args:
        channels: Width.
        layers: Blocks; dilations double and begin again at 1 after ``cycle`` of them.
        conditions: Channels of the condition.
        cycle: Blocks until the dilation is 1 again.
    """

    def __init__(self, channels: int, layers: int, conditions: int, cycle: int = 10) -> None:
        super().__init__()
        dilations = [2 ** (i % cycle) for i in range(layers)]
        self.dilated = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 3, padding=d, dilation=d) for d in dilations)
        self.given = nn.ModuleList(nn.Conv1d(conditions, 2 * channels, 1) for _ in dilations)
        self.out = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 1) for _ in dilations)
        self.reach = sum(dilations)
        """Samples on each side that an output depends on."""

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """Return the sum of the blocks' skips, ``(B, C, T)``, of ``(B, C, T)``."""
        total = hidden.new_zeros(hidden.shape)
        for dilated, given, out in zip(self.dilated, self.given, self.out, strict=True):
            gate, value = (dilated(hidden) + given(condition)).chunk(2, dim=1)
            residual, skip = out(gate.sigmoid() * value.tanh()).chunk(2, dim=1)
            hidden = (hidden + residual) * 0.5**0.5
            total = total + skip
        mixed: Tensor = total / len(self.dilated) ** 0.5
        return mixed
