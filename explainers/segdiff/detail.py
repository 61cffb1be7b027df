"""Corrections at full resolution, for networks whose stem folds blocks of cells.

A block of 8 bins x 4 frames that has passed through a stem is described by a few channels, too few for the single bins between harmonics.
Three small convolutions on the full grid see the image, the noisy mask, the coarse answer and a few planes that the U-Net hands down, and
add what is missing. What depends on the image alone is computed once per clip.
"""

import torch
from torch import Tensor, nn

from xaibench.explainers.segdiff.rrdb import conv3x3


class Detail(nn.Module):
    """Refine logits on the full grid; starts as the identity.

    Args:
        image: Channels of the image.
        masks: Channels of the mask.
        width: Channels in between.
        planes: Planes that the U-Net hands down.
    """

    def __init__(self, image: int, masks: int, width: int, planes: int) -> None:
        super().__init__()
        self.see = nn.Sequential(conv3x3(image, width), nn.SiLU(), conv3x3(width, width))
        self.hear = conv3x3(2 * masks + planes, width)
        self.reach = nn.Conv2d(width, width, 3, padding=(2, 1), dilation=(2, 1))  # twice as far in frequency: between two harmonics
        self.last = conv3x3(width, masks)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, logits: Tensor, planes: Tensor, noisy: Tensor, seen: Tensor) -> Tensor:
        """Return the refined logits.

        Args:
            logits: The coarse answer, (B, R, F, N).
            planes: What the U-Net hands down, (B, P, F, N).
            noisy: The noisy mask, (B, R, F, N).
            seen: What ``see`` returned for the image, (B, width, F, N).
        """
        hidden = nn.functional.silu(self.hear(torch.cat([logits, planes, noisy], dim=1)) + seen)
        refined: Tensor = logits + self.last(nn.functional.silu(self.reach(hidden)))
        return refined
