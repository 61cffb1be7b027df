"""What a frozen detector hears of a clip, as maps for ADDSegDiff's encoder (Grinberg et al. 2025, arXiv:2506.03425, section 3).

The paper reads the transformer layers 0, 4, 9, 14, 19 and 23 of Wav2Vec2-AASIST. Here the same shares of the depth are read from any
detector: of its hidden states where it has such, (B, D, 1, N'), else of the outputs of its 2-D convolutions, (B, D, H, W).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xaibench.types import Detector

Maps = tuple[Tensor, ...]
PAPER_LAYERS = (0, 4, 9, 14, 19, 23)
PAPER_DEPTH = 24


def spread(depth: int) -> tuple[int, ...]:
    """Return the paper's layers for a stack of another depth: the same shares of it, each layer once.

    Example:
        >>> spread(24), spread(12), spread(4)
        ((0, 4, 9, 14, 19, 23), (0, 2, 4, 7, 9, 11), (0, 1, 2, 3))
    """
    shares = (layer / (PAPER_DEPTH - 1) for layer in PAPER_LAYERS)
    return tuple(dict.fromkeys(round(share * (depth - 1)) for share in shares))


def readable(detector: Detector) -> bool:
    """Tell whether a detector has layers to read: hidden states of its own, or 2-D convolutions."""
    overridden = type(detector).hidden_states is not Detector.hidden_states
    return overridden or any(isinstance(module, nn.Conv2d) for module in detector.modules())


@torch.no_grad()
def read(detector: Detector, waveform: Tensor) -> Maps:
    """Return the layers' maps for clips (B, T), each (B, D, H, W) float32; the detector is left as it was.

    Raises:
        ValueError: If the detector has neither hidden states nor 2-D convolutions.
    """
    try:
        states = detector.hidden_states(waveform)  # (L, B, N', D)
        return tuple(states[layer].float().transpose(1, 2)[:, :, None] for layer in spread(len(states)))
    except NotImplementedError:
        with _recorded(detector) as outputs:
            detector.spoof_logit(waveform)
    if not outputs:
        raise ValueError(f"detector must have hidden states or 2-D convolutions, got {detector.name!r} without; choose another explainer")
    return tuple(outputs[layer].float().contiguous() for layer in spread(len(outputs)))


@contextmanager
def _recorded(detector: Detector) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for m in detector.modules() if isinstance(m, nn.Conv2d)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def randomised(detector: Detector, seed: int = 0) -> Detector:
    """Return a copy with freshly drawn parameters: the same architecture that has learned nothing.

    Layers are reset as PyTorch initialises them, parameters outside of such layers become small Gaussian noise. The draw depends on the
    architecture and the seed alone.
    """
    blank = copy.deepcopy(detector)
    done: set[int] = set()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in blank.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                done |= {id(p) for p in module.parameters(recurse=False)}
        for parameter in blank.parameters():
            if id(parameter) not in done:
                parameter.copy_(0.02 * torch.randn(parameter.shape))
    return blank.eval()


_BLANKS: WeakKeyDictionary[Detector, Detector] = WeakKeyDictionary()


def blank_of(detector: Detector) -> Detector:
    """Return ``randomised(detector)``, made once per detector object; its values do not depend on what the detector learned."""
    if detector not in _BLANKS:
        _BLANKS[detector] = randomised(detector)
    return _BLANKS[detector].to(next(detector.parameters()).device)


class FeatureEncoder(nn.Module):
    """Maps of the layers to planes of an image: per layer a standardisation, then two layers with GELU between them, each of its own.

    A sequence (B, D, 1, N') becomes one plane whose rows are the outputs, ``bands`` of them; a map (B, D, H, W) becomes ``planes`` planes.
    All are resized to the grid.

    Args:
        shapes: (D, H) of each layer.
        hidden: Width between the two layers.
        bands: Rows of a sequence's plane.
        planes: Planes of a map.
    """

    def __init__(self, shapes: tuple[tuple[int, int], ...], hidden: int, bands: int, planes: int) -> None:
        super().__init__()
        self.shapes, self.bands, self.planes = shapes, bands, planes
        for i, (width, _) in enumerate(shapes):
            self.register_buffer(f"mean_{i}", torch.zeros(width))
            self.register_buffer(f"scale_{i}", torch.ones(width))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, hidden, 1), nn.GELU(), nn.Conv2d(hidden, bands if height == 1 else planes, 1))
            for width, height in shapes
        )

    @property
    def channels(self) -> int:
        """Count the planes of the image."""
        return sum(1 if height == 1 else self.planes for _, height in self.shapes)

    def standardise(self, samples: list[Maps]) -> None:
        """Take mean and spread of each channel over samples, so that equal training means equal inputs, whatever the detector's scale."""
        for i in range(len(self.shapes)):
            values = torch.cat([maps[i].transpose(0, 1).flatten(1) for maps in samples], dim=1).float()
            self.get_buffer(f"mean_{i}").copy_(values.mean(1))
            self.get_buffer(f"scale_{i}").copy_(1 / values.std(1).clamp(min=1e-5))

    def forward(self, maps: Maps, size: tuple[int, int], frames: int) -> Tensor:
        """Return (B, channels, F, N) of maps that span ``frames`` of the N frames; frames beyond them are zero.

        Raises:
            ValueError: If the maps are not those of the detector that the encoder was made for.
        """
        found = tuple((m.shape[1], m.shape[2]) for m in maps)
        if found != self.shapes:
            raise ValueError(f"features must have widths and heights {self.shapes}, got {found}; use the detector of the training")
        planes = []
        for i, (layer, values) in enumerate(zip(self.layers, maps, strict=True)):
            mean, scale = (self.get_buffer(f"{name}_{i}")[:, None, None] for name in ("mean", "scale"))
            plane = layer((values - mean) * scale)
            plane = plane.transpose(1, 2) if values.shape[2] == 1 else plane
            planes.append(nn.functional.interpolate(plane, size=(size[0], frames), mode="bilinear", align_corners=True))
        return nn.functional.pad(torch.cat(planes, dim=1), (0, size[1] - frames))
