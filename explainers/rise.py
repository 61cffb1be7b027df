"""RISE: average random masks, weighted by what the detector still says (Petsiuk et al. 2018, arXiv:1806.07421, eq. 6)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, inverse, stft
from xaibench.types import Detector, Explainer, Generators, clip_generators


@EXPLAINERS.register("rise")
@dataclass(frozen=True)
class RISE(Explainer):
    """Log-odds under smooth random masks on the magnitude, averaged cell by cell.

    The weights are centred on their mean over the masks: with finitely many masks the mean log-odds would otherwise draw the average mask
    into the picture, and log-odds, unlike probabilities, have no natural zero. ``n_masks`` forward passes per clip (256 by default).
    """

    reference = "Petsiuk et al. 2018, arXiv:1806.07421"
    polarity = "signed"
    needs = frozenset({"logits"})
    deterministic = False
    n_masks: int = 256
    bands: int = 8
    segments: int = 8
    keep: float = 0.5
    """Probability that a coarse cell is kept."""
    chunk_size: int = field(default=16, metadata={"result": False})
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse settings that draw no information."""
        if self.n_masks < 2 or min(self.bands, self.segments, self.chunk_size) < 1:
            got = f"{self.n_masks}, {self.bands}, {self.segments} and {self.chunk_size}"
            raise ValueError(f"n_masks must be at least 2; bands, segments and chunk_size at least 1, got {got}; use 256, 8, 8 and 16")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep must be between 0 and 1, got {self.keep}; use 0.5")

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the covariance of each cell's mask with the log-odds, over the mask's mean, (B, F, N)."""
        with torch.no_grad():
            return torch.stack(
                [self._one(clip, detector, g) for clip, g in zip(waveform, clip_generators(generator, len(waveform)), strict=True)]
            )

    def _one(self, clip: Tensor, detector: Detector, generator: torch.Generator) -> Tensor:
        spectrum = stft(clip[None], self.stft)
        bins, frames = spectrum.shape[1:]
        masks = torch.stack([self._mask(bins, frames, generator) for _ in range(self.n_masks)]).to(clip.device)
        chunks = (masks[first : first + self.chunk_size] for first in range(0, self.n_masks, self.chunk_size))
        heard = torch.cat([detector.spoof_logit(inverse(spectrum * part, len(clip), self.stft)) for part in chunks])
        return torch.einsum("m,mfn->fn", heard - heard.mean(), masks) / (self.keep * self.n_masks)

    def _mask(self, bins: int, frames: int, generator: torch.Generator) -> Tensor:
        """Draw a coarse binary grid, enlarge it bilinearly and shift it by less than a coarse cell, (F, N) in [0, 1]."""
        draw = torch.rand(self.bands + 1, self.segments + 1, generator=generator, device=generator.device)
        height, width = -(-bins // self.bands), -(-frames // self.segments)
        size = ((self.bands + 1) * height, (self.segments + 1) * width)
        smooth = nn.functional.interpolate((draw < self.keep).float()[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        down, right = (int(torch.randint(n, (1,), generator=generator, device=generator.device)) for n in (height, width))
        return smooth[down : down + bins, right : right + frames]
