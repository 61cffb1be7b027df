"""The rules of a gate, read from TOML: which values may not get worse, by how much, and how sure one must be.

missing = "fail"              # a place or clip of the baseline that the run lacks: "fail" or "allow"
advise_seconds = 1.5          # remark explanations that take this many times longer; wall time never fails a gate

[[rule]]                      # the first rule that fits a place decides
metric = "generalized_dice"   # shell patterns, here and in explainer, task, detector, recipe, polarity and occluder
abs = 0.01                    # a loss up to abs + rel * |baseline| is tolerated
alpha = 0.05                  # and a larger one is a regression only if the paired cluster test finds it; leave out for no test
min_n = 5                     # fewer clips with values in both: nothing was measured
"""

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xaibench.benchmark.measured import Place
from xaibench.errors import RunError

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rule(BaseModel):
    """One rule; patterns choose the places, the rest says what is tolerated there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = "*"
    detector: str = "*"
    explainer: str = "*"
    recipe: str = "*"
    polarity: str = "declared"
    occluder: str = "*"
    metric: str
    direction: Literal["auto", "higher", "lower", "either"] = "auto"
    """Which change is good; ``auto`` asks the metric, ``either`` allows none."""
    by: Literal["mean", "clip"] = "mean"
    """What must stay within the tolerance: the mean over clusters, or every single clip."""
    abs: Share = 0.0
    rel: Share = 0.0
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    min_n: Annotated[int, Field(ge=1)] = 1
    missing: Literal["fail", "allow"] | None = None
    """Overrides the gate's ``missing``."""
    ignore: bool = False
    """Whether places under this rule are not looked at."""

    def fits(self, place: Place) -> bool:
        """Tell whether the rule speaks of a place."""
        return all(fnmatchcase(getattr(place, name), getattr(self, name)) for name in Place._fields)


class Rules(BaseModel):
    """All rules of a gate, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    missing: Literal["fail", "allow"] = "fail"
    advise_seconds: Annotated[float, Field(gt=1)] = 1.5
    rule: tuple[Rule, ...]

    def of(self, place: Place) -> Rule | None:
        """Return the first rule that fits, ``None`` where the place is not gated."""
        found = next((rule for rule in self.rule if rule.fits(place)), None)
        return None if found is None or found.ignore else found


DEFAULT = Rules(
    rule=(
        Rule(metric="generalized_dice", abs=0.01, alpha=0.05, min_n=5),
        Rule(metric="stratified_auc", abs=0.01, alpha=0.05, min_n=5),
        Rule(metric="srg", abs=0.05, alpha=0.05, min_n=5),
        Rule(metric="forwards"),
        Rule(metric="backwards"),
    )
)
"""What is gated where no file says otherwise: two localisation scores, one faithfulness score, and the counted cost."""


def read_rules(path: str | Path | None) -> Rules:
    """Read the rules of a TOML file, or the default ones.

    Raises:
        RunError: If the file cannot be read or breaks the format; the message names the first fault.
    """
    if path is None:
        return DEFAULT
    try:
        found: Mapping[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return Rules.model_validate(found)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise RunError(f"rules must follow the format, got {path}: {where}: {fault['msg']}; see docs/running.md") from error
    except (OSError, ValueError) as error:
        raise RunError(f"rules must be a TOML file, got {path}: {error}; see docs/running.md") from error
