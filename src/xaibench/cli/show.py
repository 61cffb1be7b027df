"""`xaibench list` and `xaibench info`: what there is, without importing it unless asked."""

import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from xaibench.errors import UnknownNameError, XaibenchError
from xaibench.registry import REGISTRIES, Registry


def list_plugins(
    kind: Annotated[str, typer.Argument(help="explainers, detectors, tasks, vocoders or metrics; all if omitted")] = "",
    check: Annotated[bool, typer.Option("--check", help="also import each one and say what is broken")] = False,
) -> None:
    """List the names of everything that can be plugged in."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("kind", "name", *(["state"] if check else []), box=None, pad_edge=False)
    for plural, registry in REGISTRIES.items():
        if kind in ("", plural, registry.kind):
            for name in registry.names():
                table.add_row(*map(Text, (registry.kind, name, *([_state(registry, name)] if check else []))))
    if not table.row_count:
        raise UnknownNameError(f"kind must be one of {', '.join(REGISTRIES)}, got {kind!r}; use for example `xaibench list explainers`")
    Console().print(table)


def _state(registry: Registry, name: str) -> str:
    try:
        registry.get(name)
    except XaibenchError as error:
        return f"failed to load: {error}"
    return "ok"


def info(
    kind: Annotated[str, typer.Argument(help="explainer, detector, task, vocoder or metric")],
    name: Annotated[str, typer.Argument(help="its name, see `xaibench list`")],
    masks: Annotated[bool, typer.Option("--masks", help="of a task: measure its ground truth and write a page with pictures")] = False,
    data: Annotated[str, typer.Option(help="with --masks: folder of the task's corpus")] = "",
    recipe: Annotated[str, typer.Option(help="with --masks: mask recipe")] = "sym-floor60-v1",
    limit: Annotated[int, typer.Option(min=1, help="with --masks: clips, taken utterance by utterance")] = 48,
    out: Annotated[Path, typer.Option(help="with --masks: folder for masks.html and masks.json")] = Path("masks"),
) -> None:
    """Explain one plugin: what it is, where it comes from, its options with their defaults."""
    if masks:
        _masks(kind, name, data, recipe, limit, out)
        return
    from rich.console import Console
    from rich.markup import escape

    registry = REGISTRIES.get(kind) or REGISTRIES.get(f"{kind}s")
    if registry is None:
        raise UnknownNameError(
            f"kind must be one of {', '.join(REGISTRIES)}, got {kind!r}; use for example `xaibench info explainer energy`"
        )
    target = registry.get(name)
    console = Console(highlight=False)
    console.print(f"[bold]{escape(name)}[/]  ({registry.kind})\n{escape(inspect.getdoc(target) or '')}\n")
    for label, value in _facts(target):
        console.print(f"[dim]{label:12}[/] {escape(value)}")
    options = _options(target)
    if options.row_count:
        console.print(options)
    if registry.kind == "metric":
        console.print(_audit(name))


def _masks(kind: str, name: str, data: str, recipe: str, limit: int, out: Path) -> None:
    from xaibench.benchmark.mask_quality import mask_quality
    from xaibench.cli.progress import bar
    from xaibench.leaderboard.mask_page import build_mask_page, mask_text
    from xaibench.registry import TASKS

    if kind.removesuffix("s") != "task":
        raise UnknownNameError(f"--masks must be asked of a task, got {kind}; use for example `xaibench info task minivoc --masks`")
    task = TASKS.load(name, **({"data": data} if data else {}))
    with bar("masks") as advance:
        quality = mask_quality(task, recipe, limit, progress=advance)
    typer.echo(mask_text(quality))
    typer.echo(f"\npage: {build_mask_page(quality, out).resolve().as_uri()}")


def _facts(target: Any) -> list[tuple[str, str]]:
    """Return what a class declares about itself, in words."""
    known = (
        "title",
        "reference",
        "version",
        "licence",
        "polarity",
        "needs",
        "deterministic",
        "control",
        "oracle",
        "kind",
        "truth",
        "recipes",
        "default_detector",
        "homes",
    )
    facts = []
    for key in known:
        value = getattr(target, key, None)
        if value not in (None, "", False, frozenset()) and not callable(value):
            text = ", ".join(sorted(map(str, value))) if isinstance(value, frozenset | tuple) else str(value)
            facts.append((key, text))
    return facts


def _options(target: Any) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("option", "type", "default", title="options", title_justify="left", box=None, pad_edge=False)
    if is_dataclass(target):
        for option in fields(target):
            if option.init and option.metadata.get("config", True):
                kind = option.type if isinstance(option.type, str) else getattr(option.type, "__name__", str(option.type))
                table.add_row(*map(Text, (option.name, kind, str(option.default))))
    return table


def _audit(name: str) -> Any:
    """Return what the audit found of a metric as a table; a sentence for metrics that are no map against a truth."""
    from rich.table import Table
    from rich.text import Text

    from xaibench.benchmark.audit.run import shipped

    known = shipped()
    findings = [f for f in known["findings"] if f["metric"] == name]
    if not findings:
        return "\nIts checks stand in the tests; the audit covers metrics that compare a map with a truth."
    table = Table("audit", "expected", "got", "", box=None, pad_edge=False, title_justify="left")
    for f in findings:
        table.add_row(*map(Text, (f["check"], f["expected"], f["got"], f["remark"] or ("ok" if f["passed"] else "FAILED"))))
    if name in known["deviations"]:
        table.caption = f"Elsewhere: {known['deviations'][name]}."
    return table
