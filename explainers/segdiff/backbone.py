"""A pretrained diffusion U-Net of diffusers as the denoiser: the paper's open question of whether such a prior helps.

``UNet2DModel`` is read from a local folder, its first convolution is replaced by one for masks to which G(I) is added once, as in SegDiff,
and its last by one for masks that starts at zero. Everything between keeps its pretrained weights and is trained on.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import MissingExtraError, WeightsError


def backbone_config(folder: Path) -> str:
    """Return the configuration of a ``UNet2DModel`` in a local folder as canonical JSON, for ``NetworkConfig.backbone``.

    Raises:
        WeightsError: If the folder holds no such model.
    """
    path = Path(folder) / "config.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"backbone must be a folder with a diffusers model, got {folder} ({error}); save one with save_pretrained"
        ) from error
    if known.get("_class_name") != "UNet2DModel":
        raise WeightsError(f"backbone must be a UNet2DModel, got {known.get('_class_name')!r} in {folder}; choose another folder")
    return json.dumps({k: v for k, v in known.items() if k != "_name_or_path"}, sort_keys=True)


class Backbone(nn.Module):
    """The denoiser in the place of ``network.UNet``.

    Args:
        inputs: Channels of the noisy mask.
        outputs: Channels of the answer.
        config: What ``backbone_config`` returned.
    """

    def __init__(self, inputs: int, outputs: int, config: str) -> None:
        super().__init__()
        known = json.loads(config)
        self.model: Any = _model_class().from_config(known)
        width = int(known["block_out_channels"][0])
        self.width = width
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        self.model.conv_in, self.model.conv_out = nn.Identity(), nn.Identity()

    def load(self, folder: Path) -> None:
        """Take the pretrained weights of everything between the first and the last convolution, from safetensors alone."""
        found = _model_class().from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        kept = {k: v for k, v in found.state_dict().items() if not k.startswith(("conv_in.", "conv_out."))}
        self.model.load_state_dict(kept)

    def embed(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the times themselves: the model embeds them by its own means."""
        return timesteps.to(dtype)

    def forward(self, x: Tensor, embedding: Tensor, condition: Tensor) -> tuple[Tensor, None]:
        """Return the raw prediction, (B, C', H, W); no planes are handed down."""
        hidden: Tensor = self.model(self.first(x) + condition, embedding).sample
        return self.last(hidden), None


def _model_class() -> Any:
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise MissingExtraError("a backbone needs diffusers, which is not installed; run `pip install 'xaibench[diffusion]'`") from error
    return UNet2DModel
