"""WORLD analysis and synthesis through pyworld (Morise et al. 2016, doi:10.1587/transinf.2015EDP7457)."""

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from xaibench.errors import MissingExtraError
from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder
from xaibench.types import SAMPLE_RATE


@VOCODERS.register("world")
@dataclass(frozen=True)
class World(Vocoder):
    """F0 (DIO and StoneMask), spectral envelope (CheapTrick) and aperiodicity (D4C); pulses and noise at synthesis."""

    title: ClassVar[str] = "WORLD"
    kind: ClassVar[str] = "source-filter"
    reference: ClassVar[str] = "Morise et al. 2016"
    lag_samples: ClassVar[int] = 24

    frame_ms: float = 5.0

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Analyze and synthesize; WORLD's own noise is a fixed sequence, so one sample-wise dither from ``rng`` tells recordings apart.

        Raises:
            MissingExtraError: If pyworld is not installed.
        """
        pyworld = _pyworld()
        dithered = samples + 1e-6 * rng.standard_normal(samples.size)
        raw_f0, times = pyworld.dio(dithered, SAMPLE_RATE, frame_period=self.frame_ms)
        f0 = pyworld.stonemask(dithered, raw_f0, times, SAMPLE_RATE)
        envelope = pyworld.cheaptrick(dithered, f0, times, SAMPLE_RATE)
        aperiodicity = pyworld.d4c(dithered, f0, times, SAMPLE_RATE)
        copied: Samples = pyworld.synthesize(f0, envelope, aperiodicity, SAMPLE_RATE, self.frame_ms)
        return copied


def _pyworld() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pyworld imports pkg_resources, which announces its own end
            import pyworld
    except ImportError as error:
        raise MissingExtraError("vocoder 'world' needs pyworld, which is not installed; run `pip install 'xaibench[vocode]'`") from error
    module: ModuleType = pyworld
    return module
