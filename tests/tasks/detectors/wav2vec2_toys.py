"""A front end of a few thousand parameters, and its tensors under fairseq's published names."""

import torch
from torch import Tensor

from xaibench.tasks.detectors.wav2vec2 import Wav2Vec2Config
from xaibench.tasks.detectors.wav2vec2_aasist import Wav2Vec2AASISTConfig

FRONT = Wav2Vec2Config(((8, 10, 5), (8, 3, 2), (8, 2, 2)), width=12, depth=3, heads=3, hidden=20, position_kernel=6, position_groups=2)
TOY = Wav2Vec2AASISTConfig(front=FRONT, n_bands=9, channels=(1, 4, 4, 6), graph_features=(6, 4))


def fairseq_state(config: Wav2Vec2Config = FRONT, seed: int = 0) -> dict[str, Tensor]:
    """Return random tensors as fairseq's ``Wav2Vec2Model`` names and shapes them, pre-training heads included."""
    generator = torch.Generator().manual_seed(seed)
    width, hidden, channels = config.width, config.hidden, config.convolutions[-1][0]
    shapes: dict[str, tuple[int, ...]] = {"mask_emb": (width,), "quantizer.vars": (1, 4, 2), "quantizer.weight_proj.weight": (4, channels)}
    shapes |= {f"{head}.{part}": (4, 4)[: 2 - (part == "bias")] for head in ("project_q", "final_proj") for part in ("weight", "bias")}
    shapes |= {"layer_norm.weight": (channels,), "layer_norm.bias": (channels,)}
    shapes |= {"post_extract_proj.weight": (width, channels), "post_extract_proj.bias": (width,)}
    shapes |= {"encoder.pos_conv.0.bias": (width,), "encoder.pos_conv.0.weight_g": (1, 1, config.position_kernel)}
    shapes |= {"encoder.pos_conv.0.weight_v": (width, width // config.position_groups, config.position_kernel)}
    entering = 1
    for i, (out, kernel, _) in enumerate(config.convolutions):
        home = f"feature_extractor.conv_layers.{i}"
        shapes |= {f"{home}.0.weight": (out, entering, kernel), f"{home}.0.bias": (out,)}
        shapes |= {f"{home}.2.1.weight": (out,), f"{home}.2.1.bias": (out,)}
        entering = out
    for i in range(config.depth):
        home = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= {f"{home}.self_attn.{part}.weight": (width, width), f"{home}.self_attn.{part}.bias": (width,)}
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{home}.{part}.weight": (width,), f"{home}.{part}.bias": (width,)}
        shapes |= {f"{home}.fc1.weight": (hidden, width), f"{home}.fc1.bias": (hidden,)}
        shapes |= {f"{home}.fc2.weight": (width, hidden), f"{home}.fc2.bias": (width,)}
    shapes |= {"encoder.layer_norm.weight": (width,), "encoder.layer_norm.bias": (width,)}
    return {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
