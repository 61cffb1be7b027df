"""How close copies are to their recordings: log-mel distance, and STOI and PESQ where their packages are installed.

STOI: Taal et al. 2011 (doi:10.1109/TASL.2011.2114881) by pystoi. PESQ, wide band: ITU-T P.862.2 by pesq. Both need ``xaibench[vocoders]``.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xaibench.tasks.vocoders.neural.features import levelled, log_mel
from xaibench.types import SAMPLE_RATE

REMEDY = "pip install 'xaibench[vocoders]'"
NEPER_DB = 20 / math.log(10)


def log_mel_distance_db(recording: Tensor, copy: Tensor) -> float:
    """Return the mean absolute difference of 80 mel magnitudes in dB, both brought to one level and floored; 0 for equal ``(T,)``."""
    one, two = (log_mel(levelled(w)[None]) for w in (recording, copy))
    return float((one - two).abs().mean()) * 2 * NEPER_DB  # features are half the logarithm


def stoi(recording: Tensor, copy: Tensor) -> float:
    """Return short-time objective intelligibility, 1 for equal ``(T,)``; about 0.6 and more can be understood.

    Raises:
        ImportError: If pystoi is not installed.
    """
    from pystoi import stoi as measure

    return float(measure(recording.double().numpy(), copy.double().numpy(), SAMPLE_RATE))


def pesq(recording: Tensor, copy: Tensor) -> float:
    """Return wide-band PESQ in [1, 4.64], NaN where it finds no speech.

    Raises:
        ImportError: If pesq is not installed.
    """
    from pesq import NoUtterancesError
    from pesq import pesq as measure

    try:
        return float(measure(SAMPLE_RATE, recording.double().numpy(), copy.double().numpy(), "wb"))
    except NoUtterancesError:
        return math.nan


MEASURES: dict[str, Callable[[Tensor, Tensor], float]] = {"log_mel_db": log_mel_distance_db, "stoi": stoi, "pesq_wb": pesq}


def assess(twins: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return the mean of each measure over recordings and copies ``(T,)``; None, with the reason under ``missing``, where there is none."""
    scores: dict[str, Any] = {"recordings": len(twins)}
    missing: dict[str, str] = {}
    for name, measure in MEASURES.items():
        try:
            values = torch.tensor([measure(recording, copy) for recording, copy in twins], dtype=torch.double)
        except ImportError as error:
            scores[name], missing[name] = None, f"{error.name or error} is not installed; {REMEDY}"
            continue
        known = values[~values.isnan()]
        scores[name] = round(float(known.mean()), 4) if len(known) else None
        if not len(known):
            missing[name] = "undefined for all recordings"
    return scores | ({"missing": missing} if missing else {})
