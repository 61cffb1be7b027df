"""`xaibench check`: does an explainer or a detector keep the contract?"""

from typing import Annotated

import typer

from xaibench.errors import PluginError
from xaibench.registry import DETECTORS, EXPLAINERS


def check(
    name: Annotated[str, typer.Argument(help="explainer or detector, NAME or NAME:option=value,...")],
    detector: Annotated[str, typer.Option(help="detector to explain while checking")] = "spectrogram_cnn",
) -> None:
    """Test shape, finiteness, untouched state, repeatability, batch invariance and silence, and list every broken rule."""
    from xaibench.benchmark.check import check_detector, check_explainer

    plain = name.partition(":")[0]
    if plain in DETECTORS.names():
        findings = check_detector(DETECTORS.load(name))
    else:
        findings = check_explainer(EXPLAINERS.load(name), DETECTORS.load(detector))
    if findings:
        raise PluginError(f"{plain} breaks {len(findings)} rule(s) of the contract: " + "; ".join(map(str, findings)))
    typer.echo(f"{plain} keeps the contract")
