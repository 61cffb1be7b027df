"""Where a small network starts from: a table of how often a cell of this bin and level is masked."""

import torch
from torch import Tensor, nn


class Table(nn.Module):
    """Log-odds that a cell of this bin and level is masked, counted on training examples.

    Args:
        masks: Channels of the mask.
        bins: Bins F.
        levels: Steps between the floor and the maximum; 1 for a table by bin alone.
        channel: Channel of the image that holds the level.
        embedding: Width of the time embedding, from which the table's gain is learned.
    """

    def __init__(self, masks: int, bins: int, levels: int, channel: int, embedding: int) -> None:
        super().__init__()
        self.channel = channel
        self.register_buffer("log_odds", torch.zeros(masks, bins, levels))
        self.gain = nn.Linear(embedding, masks)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)
        self.log_odds: Tensor

    def rows(self, image: Tensor) -> Tensor:
        """Return each cell's place among the table's bins x levels, (B, F, N) int64."""
        levels = self.log_odds.shape[2]
        if levels == 1:  # a table by bin alone needs no level
            return torch.arange(image.shape[2], device=image.device)[None, :, None].expand(len(image), -1, image.shape[3])
        level = ((image[:, self.channel] + 1) / 2 * levels).long().clamp(0, levels - 1)
        return level + levels * torch.arange(image.shape[2], device=image.device)[None, :, None]

    def forward(self, image: Tensor) -> Tensor:
        """Look up images (B, C', F, N): log-odds (B, C, F, N)."""
        flat = self.log_odds.flatten(1)
        out: Tensor = flat[:, self.rows(image)].transpose(0, 1)
        return out
