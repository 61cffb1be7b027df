"""What a SegDiff network sees of a clip: its spectrogram in decibels under the clip's maximum, as an image.

The Nyquist bin is dropped and frames are padded, so that bins and frames are multiples of what the network's levels need (513 x 253 becomes
512 x 256). Level is relative to the clip's loudest cell, hence the image does not change with gain.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xaibench.tasks.masks import smooth
from xaibench.tasks.recipes import RECIPES
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude

Channel = Literal["level", "smooth", "frequency"]


@dataclass(frozen=True)
class FrontEnd:
    """Channels of the conditioning image.

    ``level`` is the log-magnitude, ``smooth`` the same after the Gaussian of the mask recipes, ``frequency`` a ramp over the bins.
    """

    channels: tuple[Channel, ...] = ("level", "smooth", "frequency")
    floor_db: float = 80.0
    """Decibels under the clip's maximum at which levels are clipped."""
    frame_multiple: int = 32

    def image(self, waveform: Tensor, stft: STFTConfig = DEFAULT_STFT) -> Tensor:
        """Return images in [-1, 1], (B, C, F - 1, N padded), of clips (B, T)."""
        cells = magnitude(waveform, stft)
        planes = {"level": self._decibels(cells)}
        if "smooth" in self.channels:
            planes["smooth"] = self._decibels(smooth(cells, *RECIPES["sym-floor60-v1"].kernels()))
        bins = cells.shape[1] - 1
        ramp = torch.linspace(-1, 1, bins, device=cells.device)[None, :, None].expand(len(cells), -1, cells.shape[2])
        stacked = [ramp if name == "frequency" else planes[name][:, :bins] for name in self.channels]
        image = torch.stack(stacked, dim=1) if stacked else cells.new_zeros(len(cells), 0, bins, cells.shape[2])
        return self.pad(image, -1.0)

    def pad(self, image: Tensor, value: float) -> Tensor:
        """Pad (..., N) to the next multiple of ``frame_multiple`` frames."""
        return torch.nn.functional.pad(image, (0, -image.shape[-1] % self.frame_multiple), value=value)

    @staticmethod
    def restore(image: Tensor, stft: STFTConfig, samples: int) -> Tensor:
        """Cut (B, F - 1, N padded) to the grid (B, F, N) of clips of ``samples``; the Nyquist bin repeats the one below it."""
        cut = image[..., : stft.frames(samples)]
        return torch.cat([cut, cut[:, -1:]], dim=1)

    def _decibels(self, cells: Tensor) -> Tensor:
        loudest = cells.amax(dim=(1, 2), keepdim=True).clamp(min=1e-10)
        decibels = 20 * torch.log10((cells / loudest).clamp(min=1e-10))
        return decibels.clamp(-self.floor_db, 0) * (2 / self.floor_db) + 1
