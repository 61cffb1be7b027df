"""Checkpoints of Wav2Vec2-AASIST and of its front end, each with its own names for the same tensors.

==================================== =================================================== ==========================================
what                                 how it is recognized                                what it holds
==================================== =================================================== ==========================================
this package's ``.safetensors``      ``config`` in its metadata                          everything, with the sizes
SSL_Anti-spoofing ``.pth``           keys ``ssl_model.model.*``                          everything, of the published sizes
Hugging Face folder or file          keys ``feature_projection.*``                       front end; a folder also brings the sizes
plain fairseq state dict             keys ``post_extract_proj.*``                        front end
==================================== =================================================== ==========================================

Pre-training heads (quantizer, projections, mask embedding) are known and dropped. A raw fairseq ``.pt`` holds training objects beside its
tensors and is refused by the safe loader: ``fairseq_file.py`` converts it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xaibench.errors import WeightsError
from xaibench.tasks.detectors.wav2vec2 import Wav2Vec2Config
from xaibench.tasks.detectors.weights import read_checkpoint, read_safetensors, resolve
from xaibench.types import Weights

Rules = Sequence[tuple[str, str]]

FAIRSEQ: Rules = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"^(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"^(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
)
"""From fairseq's names to those of ``wav2vec2.py``, which are Hugging Face's."""
HUGGING_FACE: Rules = ((r"^wav2vec2\.", ""),)
WEIGHT_NORM: Rules = (
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
)
"""torch's newer names of a weight-normalized kernel's norm and direction."""
DROPPED = re.compile(r"^(wav2vec2\.)?(mask_emb|masked_spec_embed|quantizer\..*|project_q\..*|project_hid\..*|final_proj\..*|lm_head\..*)$")
"""Heads of pre-training and of speech recognition."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under the names of ``Wav2Vec2AASIST``."""

    tensors: Weights
    front_alone: bool
    config: dict[str, Any] | None = None
    """Sizes as nested JSON values: of everything, or ``{"front": ...}`` for a front end; None if the file does not tell."""


def read_weights(weights: str | Path, family: str) -> Checkpoint:
    """Read a checkpoint in any of the known namings.

    Args:
        weights: Shipped name, file or Hugging Face folder.
        family: Registered name of the detector, for shipped names and messages.

    Raises:
        WeightsError: If there is none, or it is damaged, unsafe, or of a naming that is not known.
    """
    folder = Path(weights).expanduser()
    if str(weights) and folder.is_dir():
        return _hugging_face_folder(folder)
    path = resolve(weights, family)
    if path.suffix != ".safetensors":
        return translate(read_checkpoint(path), path.name)
    tensors, metadata = read_safetensors(path)
    return own(tensors, metadata, path.name) if "config" in metadata else translate(tensors, path.name)


def own(tensors: Weights, metadata: dict[str, str], source: str) -> Checkpoint:
    """Return this package's own file with its sizes.

    Raises:
        WeightsError: If the sizes are no JSON object.
    """
    try:
        config = dict(json.loads(metadata["config"]))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"weights must store a readable configuration, got {source}: {error}; train them again") from error
    return Checkpoint(tensors, front_alone=False, config=config)


def translate(tensors: Weights, source: str) -> Checkpoint:
    """Give a foreign state dict the names of ``Wav2Vec2AASIST``.

    Raises:
        WeightsError: If neither its naming is known nor it holds the own names, or if two keys are one tensor.
    """
    plain = {key.removeprefix("module."): value for key, value in tensors.items()}  # saved from DataParallel
    if any(key.startswith("ssl_model.model.") for key in plain):
        front = {key.removeprefix("ssl_model.model."): value for key, value in plain.items() if key.startswith("ssl_model.model.")}
        rest = {key: value for key, value in plain.items() if not key.startswith("ssl_model.model.")}
        return Checkpoint({**_front(front, FAIRSEQ, source), **rest}, front_alone=False)
    if "post_extract_proj.weight" in plain:
        return Checkpoint(_front(plain, FAIRSEQ, source), front_alone=True)
    if any(key.removeprefix("wav2vec2.") == "feature_projection.projection.weight" for key in plain):
        return Checkpoint(_front(plain, HUGGING_FACE, source), front_alone=True)
    if "front.feature_projection.projection.weight" in plain:
        return Checkpoint(plain, front_alone=False)
    found = ", ".join(sorted(plain)[:5])
    raise WeightsError(
        f"weights must be named as SSL_Anti-spoofing, fairseq, Hugging Face or this package name them, got {source} with {found}, ...; "
        "see docs/detectors.md"
    )


def _front(tensors: Weights, rules: Rules, source: str) -> Weights:
    """Rename the tensors of a front end and drop the heads of its pre-training."""
    renamed: Weights = {}
    for key, value in tensors.items():
        if DROPPED.match(key):
            continue
        name = key
        for pattern, replacement in (*rules, *WEIGHT_NORM):
            name = re.sub(pattern, replacement, name)
        if f"front.{name}" in renamed:
            raise WeightsError(f"weights must hold each tensor once, got {key} and another for {name} in {source}; save the model again")
        renamed[f"front.{name}"] = value
    return renamed


def _hugging_face_folder(folder: Path) -> Checkpoint:
    """Read ``config.json`` and the tensors beside it.

    Raises:
        WeightsError: If a file is missing or the architecture is another one.
    """
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if not files or not (folder / "config.json").is_file():
        raise WeightsError(
            f"weights must be a folder with config.json and model.safetensors or pytorch_model.bin, got {folder.name}; download the model"
        )
    tensors = read_safetensors(files[0])[0] if files[0].suffix == ".safetensors" else read_checkpoint(files[0])
    checkpoint = translate(tensors, files[0].name)
    if not checkpoint.front_alone:
        raise WeightsError(f"weights in a folder must be a Hugging Face front end, got {files[0].name} of another naming; give the file")
    return Checkpoint(checkpoint.tensors, front_alone=True, config={"front": front_sizes(folder / "config.json")})


def front_sizes(path: Path) -> dict[str, Any]:
    """Read the sizes from Hugging Face's ``config.json``.

    Raises:
        WeightsError: If it cannot be read, or describes an encoder in another form than XLS-R's.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        form = (given["model_type"], given["feat_extract_norm"], given["do_stable_layer_norm"], given["conv_bias"], given["hidden_act"])
        sizes = Wav2Vec2Config(
            tuple(zip(given["conv_dim"], given["conv_kernel"], given["conv_stride"], strict=True)),
            width=given["hidden_size"],
            depth=given["num_hidden_layers"],
            heads=given["num_attention_heads"],
            hidden=given["intermediate_size"],
            position_kernel=given["num_conv_pos_embeddings"],
            position_groups=given["num_conv_pos_embedding_groups"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise WeightsError(f"config.json must describe a wav2vec 2.0 model, got {path.parent.name}: {reason}; fetch it again") from error
    if form != ("wav2vec2", "layer", True, True, "gelu"):
        raise WeightsError(
            "config.json must describe a wav2vec2 with layer normalization in its convolutions (biased) and before each block, as XLS-R, "
            f"got {form}; use the hf detector for other models"
        )
    return asdict(sizes)
