"""Make the golden scores: every explainer and metric on a few embedded clips, small enough for each pull request.

    python .ci/golden/golden.py run FOLDER      measure; `xaibench gate FOLDER` then judges the run
    python .ci/golden/golden.py freeze          write golden.json again: the only way in which that file changes

A place of the golden file may move by a tolerance without being called changed: eight times the largest difference between this
processor's instruction sets (torch without vector instructions, with AVX2, with AVX-512), each tried on all clips, and at least 1e-4 of the
value. Elsewhere other roundings add up in another order, and a rank among 128 000 cells turns a rounding into a step.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FACTOR = 8.0
LEAST = 1e-4
INSTRUCTIONS = (
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
)
CLIPS = 2
CHEAPER = {
    "addsegdiff": "addsegdiff:samples=1",
    "addsegdiff_random": "addsegdiff_random:samples=1",
    "captum": "captum:DeepLift",
    "gradient_shap": "gradient_shap:n_samples=4",
    "integrated_gradients": "integrated_gradients:n_steps=8",
    "kernel_shap": "kernel_shap:bands=4,segments=4,budget=64",
    "lime": "lime:bands=4,segments=4,budget=64",
    "occlusion": "occlusion:bands=8,segments=8",
    "partition_shap": "partition_shap:bands=4,segments=4,budget=64",
    "rise": "rise:n_masks=32",
    "specsegdiff": "specsegdiff:samples=1",
}
"""Options that make a method fast enough; one that is not named runs with its defaults."""


def measure(folder: Path) -> None:
    """Run every registered explainer on the golden clips under the golden protocol."""
    from dataclasses import replace

    from xaibench.benchmark.run import run
    from xaibench.benchmark.suite import EVERY_GAP, SUITES, Budget, Causal, Curves
    from xaibench.errors import XaibenchError
    from xaibench.registry import EXPLAINERS

    curves = Curves(clips=1, steps=4, occluders=("twin_complex", "zero"))
    steady = -1.0  # two pairs of orders agree on little; the gate asks whether their values change, not whether they are right
    causal = Causal(1, 2, ("twin_tiles",), least_split_half=steady)
    budget = Budget(clips=CLIPS, curves=curves, slow_curves=curves, causal=causal)
    suite = replace(SUITES["xaibench-v1"], name="golden", budgets={"quick": budget}, gap_gate=EVERY_GAP, n_draws=100, min_clips=2)
    own = [CHEAPER.get(name, name) for name in EXPLAINERS.names() if name not in suite.controls and usable(CHEAPER.get(name, name))]
    try:
        run(own, ["minivoc"], suite=suite, out=folder, jobs=len(os.sched_getaffinity(0)), fresh=True, causal=True, timeout_s=300)
    except XaibenchError as error:  # an explainer that fails everywhere is the gate's to tell
        sys.stderr.write(f"{error}\n")


def usable(spec: str) -> bool:
    """Tell whether an explainer can be made ready here; one without weights for this corpus is left out, and vanishes if it had a score."""
    from xaibench.errors import XaibenchError
    from xaibench.registry import EXPLAINERS

    try:
        EXPLAINERS.load(spec).bind("minivoc").state_hash()
    except XaibenchError as error:
        sys.stderr.write(f"left out: {spec}: {error}\n")
        return False
    return True


def freeze() -> None:
    """Write the golden file from a run under each set of instructions."""
    from dataclasses import replace

    from xaibench.benchmark.measured import freeze as write
    from xaibench.benchmark.measured import read_measured, with_tolerances

    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(i) for i in range(len(INSTRUCTIONS) + 1)]
        for folder, settings in zip(folders, ({}, *INSTRUCTIONS), strict=True):
            subprocess.run([sys.executable, __file__, "run", str(folder)], check=True, env={**os.environ, **settings})
        mine, *others = map(read_measured, folders)
        # both polarities of a map hold the same numbers or nearly so: one of them keeps the file small
        mine = replace(mine, series={place: found for place, found in mine.series.items() if place.polarity == "declared"})
        write(mine, HERE / "golden.json", with_tolerances(mine, others, FACTOR, LEAST))


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"] and len(sys.argv) == 3:
        measure(Path(sys.argv[2]))
    elif sys.argv[1:] == ["freeze"]:
        freeze()
    else:
        sys.exit(f"command must be `run FOLDER` or `freeze`, got {' '.join(sys.argv[1:]) or 'nothing'}; see the first lines of this file")
