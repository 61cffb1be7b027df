"""The door of every metric: shapes, dtypes and finiteness are checked here, once, and tensors of any device become numpy arrays."""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Maps = TypeVar("Maps", Tensor, NDArray[Any])
Bools = NDArray[np.bool_]
Floats = NDArray[Any]


def as_numpy(array: Any, argument: str) -> NDArray[Any]:
    """Return a tensor or array as numpy without touching the caller's memory; bfloat16 becomes float32.

    Raises:
        TypeError: If it is neither a tensor nor an array of real numbers or booleans.
    """
    if isinstance(array, Tensor):
        array = array.detach()
        if array.dtype == torch.bfloat16:
            array = array.float()
        array = array.cpu().resolve_conj().numpy()
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "bfiu":
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{argument} must be a torch tensor or numpy array of real numbers, got {found}; convert it first")
    return array


def check_heatmap(heatmap: Any, argument: str = "heatmap", ndim: int = 3) -> NDArray[Any]:
    """Return relevance as float32 (float64 stays), or a bool prediction as bool.

    Raises:
        TypeError: If it is not an array of real numbers.
        ValueError: If the number of axes is wrong or a value is NaN or infinite.
    """
    array = as_numpy(heatmap, argument)
    axes = "(B, F, N)" if ndim == 3 else "(F, N)"
    if array.ndim != ndim:
        raise ValueError(f"{argument} must have the axes {axes}, got shape {array.shape}; add or drop the batch axis")
    if array.dtype == np.bool_:
        return array
    if array.dtype != np.float64:
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise ValueError(f"{argument} must be finite, got {bad} NaN or infinite cells; mend the explainer")
    return array


def check_mask(mask: Any, shape: tuple[int, ...], argument: str = "mask") -> Bools:
    """Return a bool array of the heatmap's shape.

    Raises:
        TypeError: If it is not boolean.
        ValueError: If its shape is not the heatmap's.
    """
    array = as_numpy(mask, argument)
    if array.dtype != np.bool_:
        raise TypeError(f"{argument} must be boolean, got {array.dtype}; compare it with a threshold first")
    check_shape(array, shape, argument)
    return array


def check_shape(array: NDArray[Any], shape: tuple[int, ...], argument: str) -> None:
    """Refuse an array whose shape is not the heatmap's, naming the likely mistake."""
    if array.shape == shape:
        return
    swapped = array.ndim >= 2 and (*array.shape[:-2], array.shape[-1], array.shape[-2]) == shape
    remedy = "transpose the last two axes" if swapped else "compute both on the same STFT grid"
    raise ValueError(f"{argument} must have heatmap's shape {shape}, got {array.shape}; {remedy}")


def check_field(values: Any, shape: tuple[int, ...], argument: str) -> Floats:
    """Return a finite real array of the heatmap's shape in its own precision (at least float32)."""
    array = check_heatmap(values, argument, ndim=len(shape))
    check_shape(array, shape, argument)
    return array.astype(np.float32) if array.dtype == np.bool_ else array


def like(values: NDArray[np.float64], template: Maps) -> Maps:
    """Return float64 values in the container and on the device of the heatmap."""
    return torch.from_numpy(values).to(template.device) if isinstance(template, Tensor) else values
