"""The confidence metrics as curves: how AI, AD, AG, Fid-In and FF grow with the share of cells that is kept or removed.

A single area budget can be chosen to please, and a larger share pleases by itself: the lines of the controls show how much.
"""

from xaibench.benchmark.metrics.info import AT_AREA
from xaibench.leaderboard.curves import Lines, Plot, draw
from xaibench.leaderboard.rows import Board

TITLES = {
    "average_increase": "Average increase, %: clips whose kept cells score more spoof",
    "average_drop": "Average drop, %: confidence lost when only these cells are kept",
    "average_gain": "Average gain, %: confidence won when only these cells are kept",
    "fidelity_in": "Fidelity: share of clips whose kept cells get the same decision",
    "faithfulness_of_spectra": "Faithfulness of spectra: confidence lost without these cells",
}


def area_plots(board: Board, recipe: str, first: float | None) -> list[Plot]:
    """Draw each confidence metric over the area under the board's first occluder; none where fewer than two areas were measured.

    Args:
        board: The board.
        recipe: Whose ranking gives the colours.
        first: Area of the columns without a suffix, the suite's first budget; ``None`` where it is not known.
    """
    if not board.occluders:
        return []
    plots = []
    for metric, title in TITLES.items():
        areas = {name: float(at["percent"]) / 100 for name in board.metrics if (at := AT_AREA.match(name)) and at["metric"] == metric}
        areas |= {} if first is None else {metric: first}
        lines, clips = _lines(board, dict(sorted(areas.items(), key=lambda item: item[1])))
        if len(areas) > 1 and lines:
            plots.append(draw(lines, board, recipe, occluder=board.occluders[0], title=title, clips=clips, upto=max(areas.values())))
    return plots


def _lines(board: Board, areas: dict[str, float]) -> tuple[Lines, int]:
    lines: Lines = {}
    clips = 0
    for row in board.rows:
        scores = [(area, row.score(name, occluder=board.occluders[0])) for name, area in areas.items()]
        points = [(area, score.mean) for area, score in scores if score and score.mean is not None]
        if points:
            lines[row.explainer] = ([x for x, _ in points], [y for _, y in points])
            clips = max([clips, *(score.n for _, score in scores if score)])
    return lines, clips
