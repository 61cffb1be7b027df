"""OneShot: the network of SpecSegDiff trained as a plain segmenter, the ablation that the paper lacks.

Same spectrogram, same encoder, same U-Net, same pairs and recipes; the noisy mask is replaced by an empty one and the time step is fixed.
What SpecSegDiff scores beyond this row is what the diffusion adds.
"""

from dataclasses import dataclass

from xaibench.explainers.segdiff.spec import SegDiffExplainer
from xaibench.registry import EXPLAINERS


@EXPLAINERS.register("one_shot")
@dataclass(frozen=True)
class OneShot(SegDiffExplainer):
    """One evaluation of the network; deterministic, hence without an uncertainty of its own."""

    reference = "ablation of Grinberg et al. 2025: the same network without diffusion"
