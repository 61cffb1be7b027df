"""Rich display in notebooks: one heatmap over its clip, with the truth, to look at and to listen to.

Everything stands in the cell's own output as ``data:`` addresses; nothing is loaded from anywhere.
"""

import base64
from dataclasses import dataclass
from html import escape

from torch import Tensor

from xaibench.leaderboard import pictures
from xaibench.leaderboard.ogg import opus_bytes
from xaibench.leaderboard.sound import split
from xaibench.tasks.masks import top_cells
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude
from xaibench.types import SAMPLE_RATE

_STYLE = "position:absolute;inset:0;width:100%;height:100%;image-rendering:auto"


@dataclass(frozen=True)
class HeatmapView:
    """A heatmap as a notebook shows it: the last expression of a cell is enough.

    Args:
        waveform: The explained clip, (T,) in [-1, 1], 16 kHz.
        heatmap: (F, N) on the grid of ``stft``, larger for more evidence of spoof.
        truth: (F, N) bool, outlined where given.
        title: Shown above the picture; any text.
        share: Share of the cells that can be heard alone, 0 to 1.
        stft: The grid.

    Raises:
        ValueError: If the heatmap does not lie on the grid.
    """

    waveform: Tensor
    heatmap: Tensor
    truth: Tensor | None = None
    title: str = ""
    share: float = 0.05
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse maps of another grid."""
        grid = (self.stft.bins, self.stft.frames(self.waveform.shape[-1]))
        if tuple(self.heatmap.shape) != grid:
            raise ValueError(f"heatmap must have shape {grid}, got {tuple(self.heatmap.shape)}; pass one map, heatmap[0], and its grid")
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share}; use 0.05")

    def _repr_html_(self) -> str:
        level = magnitude(self.waveform[None], self.stft)[0]
        valid = self.heatmap.isfinite()
        chosen = top_cells(self.heatmap[None], max(1, int(self.share * self.heatmap.numel())), valid[None])[0][0]
        only, rest = split(self.waveform, chosen, self.stft)
        outline = "" if self.truth is None else _image(pictures.outline_png(self.truth.numpy()), "Outline of the truth")
        pair = "".join(
            f'<div style="position:relative;flex:1;min-width:18rem;aspect-ratio:2;background:#0d0d10">{picture}{outline}</div>'
            for picture in (
                _image(pictures.spectrogram_png(level.numpy()), "Spectrogram"),
                _image(pictures.heatmap_png(self.heatmap.float().numpy(), valid.numpy()), "Heatmap by rank"),
            )
        )
        heard = {"The clip": self.waveform, f"Its strongest {100 * self.share:g} %": only.waveform, "Everything else": rest.waveform}
        sounds = "".join(map(_player, heard, heard.values()))
        heading = f"<b>{escape(self.title)}</b> " if self.title else ""
        length = f"<small>{self.waveform.shape[-1] / SAMPLE_RATE:.2f} s, 0 to 8 kHz</small>"
        return f'<div>{heading}{length}<div style="display:flex;gap:1rem;flex-wrap:wrap">{pair}</div>{sounds}</div>'


def _player(label: str, waveform: Tensor) -> str:
    address = _address("audio/ogg", opus_bytes(waveform))
    return f'<label style="margin-right:1rem">{label}<br><audio controls src="{address}"></audio></label>'


def _image(content: bytes, label: str) -> str:
    return f'<img style="{_STYLE}" alt="{label}" src="{_address("image/png", content)}">'


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
