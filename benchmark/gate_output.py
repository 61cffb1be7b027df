"""A gate's verdicts for machines: JUnit, annotations of GitHub, and a Markdown summary that fits its limits."""

from collections.abc import Iterator
from xml.etree import ElementTree

from xaibench.benchmark.gate import Gate, Verdict
from xaibench.benchmark.units import clean

MARKDOWN_BYTES = 65_000
"""GitHub refuses a comment of more than 65 536 bytes."""
ANNOTATIONS = 10
"""GitHub shows ten annotations per step and kind, and drops the rest."""


def junit(gate: Gate) -> bytes:
    """Return JUnit XML: a suite for each explainer on a task, a case for each metric."""
    root = ElementTree.Element("testsuites", name="xaibench gate", tests=str(len(gate.verdicts)))
    root.set("failures", str(sum(verdict.failed for verdict in gate.verdicts)))
    suites: dict[str, list[Verdict]] = {}
    for verdict in gate.verdicts:
        suites.setdefault(f"{verdict.place.task}.{verdict.place.detector}.{verdict.place.explainer}", []).append(verdict)
    for name, members in sorted(suites.items()):
        suite = ElementTree.SubElement(root, "testsuite", name=_plain(name), tests=str(len(members)))
        suite.set("failures", str(sum(verdict.failed for verdict in members)))
        suite.set("skipped", str(sum(verdict.answer in ("few", "new") for verdict in members)))
        for verdict in sorted(members, key=lambda v: (v.place, v.answer)):
            place = verdict.place
            parts = (place.metric, place.recipe, place.occluder, place.polarity)
            case = ElementTree.SubElement(suite, "testcase", classname=_plain(name), name=_plain(" ".join(filter(None, parts))))
            if verdict.failed:
                ElementTree.SubElement(case, "failure", type=verdict.answer, message=_plain(verdict.text))
            elif verdict.answer in ("few", "new"):
                ElementTree.SubElement(case, "skipped", message=_plain(verdict.text))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def annotations(gate: Gate) -> Iterator[str]:
    """Yield commands of GitHub's log that mark a step: an error for each failing place, a warning for each advice."""
    failed = [verdict for verdict in gate.verdicts if verdict.failed]
    for verdict in failed[: ANNOTATIONS - 1] if len(failed) > ANNOTATIONS else failed:
        yield f"::error title={_property(f'xaibench: {verdict.answer}')}::{_data(f'{verdict.place}: {verdict.text}')}"
    if len(failed) > ANNOTATIONS:
        yield f"::error title=xaibench::{len(failed) - ANNOTATIONS + 1} more places failed; see the summary"
    for text in gate.advice[:ANNOTATIONS]:
        yield f"::warning title=xaibench%3A slower::{_data(text)}"


def markdown(gate: Gate, limit: int = MARKDOWN_BYTES) -> str:
    """Return a summary in Markdown of at most ``limit`` bytes; what does not fit is counted."""
    lines = [f"### xaibench gate: {headline(gate)}", "", f"baseline `{_code(gate.baseline)}`, run `{_code(gate.run)}`", ""]
    rows = [_row(verdict) for verdict in gate.verdicts if verdict.answer not in ("held", "few", "new")]
    if rows:
        lines += ["| | explainer | metric | where | what |", "|---|---|---|---|---|"]
    tail = [f"- {_cell(text)} (advice only)" for text in gate.advice]
    tail += [f"- new, without a baseline: {', '.join(f'`{_code(name)}`' for name in new)}"] if (new := _new(gate)) else []
    kept, room = [], limit - _size([*lines, *tail]) - 200
    for row in rows:
        room -= _size([row])
        if room < 0:
            break
        kept.append(row)
    if len(kept) < len(rows):
        kept.append(f"\n{len(rows) - len(kept)} more rows do not fit; see the JUnit file")
    text = "\n".join([*lines, *kept, "", *tail]).rstrip() + "\n"
    return text.encode()[:limit].decode(errors="ignore")


def headline(gate: Gate) -> str:
    """Say in one line how the gate ended."""
    words = {"worse": "worse", "missing": "vanished", "unmeasured": "not measured"}
    failed = [f"{count} {word}" for answer, word in words.items() if (count := gate.count(answer))]  # type: ignore[arg-type]
    held = gate.count("held") + gate.count("better")
    told = f"{held} held" + (f", {better} of them better" if (better := gate.count("better")) else "")
    told += f", {few} on too few clips to judge" if (few := gate.count("few")) else ""
    told += f", {len(new)} new" if (new := _new(gate)) else ""
    return f"failed: {', '.join(failed)}; {told}" if failed else told if held else "failed: nothing was compared"


def _new(gate: Gate) -> list[str]:
    known = {verdict.place.explainer for verdict in gate.verdicts if verdict.answer != "new"}
    return sorted({v.place.explainer if v.place.explainer not in known else v.place.metric for v in gate.verdicts if v.answer == "new"})


def _row(verdict: Verdict) -> str:
    place = verdict.place
    where = ", ".join(filter(None, (place.task, place.detector, place.recipe, place.occluder, place.polarity)))
    mark = "❌" if verdict.failed else "✅"
    return f"| {mark} {verdict.answer} | {_cell(place.explainer)} | {_cell(place.metric)} | {_cell(where)} | {_cell(verdict.text)} |"


def _size(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _plain(text: str) -> str:
    return clean(text)


def _cell(text: str) -> str:
    """Take from a plugin's words what could end a cell or draw markup."""
    return clean(text).translate({ord(c): f"\\{c}" for c in "\\|<>[]*_`#@!"})


def _code(text: str) -> str:
    return clean(text).replace("`", "'")


def _data(text: str) -> str:
    return clean(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
