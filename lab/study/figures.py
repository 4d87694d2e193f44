"""Figures of a study, drawn from its records."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lab.plotting import COLORS, CONTROL_COLOR, drawing
from lab.study.networks import Setting
from lab.study.results import StudyResult
from lab.study.runs import RADIUS


def named(setting: Setting, factors: Sequence[str]) -> str:
    """The setting's values of these factors."""
    return ", ".join(str(getattr(setting, factor)) for factor in factors)


@drawing()
def ranking_figure(result: StudyResult, quantity: str = "moved") -> Figure:
    """Each setting's mean and interval, the best on top; a hollow mark is the accuracy of digits that stay in place."""
    ranking = result.ranking(quantity)[::-1]
    figure = Figure(figsize=(6.4, 0.8 + 0.26 * len(ranking)), layout="constrained")
    axes = figure.add_subplot()
    for y, (setting, found) in enumerate(ranking):
        axes.plot([found.low, found.high], [y, y], color=COLORS[0], linewidth=3)
        axes.plot(found.mean, y, "o", color=COLORS[0], label=f"{quantity}, 95 % interval" if y == 0 else None)
        own = result.interval("accuracy", **asdict(setting)).mean
        axes.plot(own, y, "o", color=CONTROL_COLOR, fillstyle="none", label="in place" if y == 0 else None)
    names = [named(setting, list(result.study.factors)) for setting, _ in ranking]
    axes.set_yticks(range(len(ranking)), names, fontsize=8, parse_math=False)
    axes.set(xlim=(0, 1.02), xlabel="share of test digits classified right")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8)
    return figure


@drawing()
def maps_figure(result: StudyResult, rows: Sequence[dict[str, Any]], columns: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy at every shift up to ±8 px: one map for each row and column of settings, mean over their runs.

    Args:
        result: of the study.
        rows: factors and their values, of each row of maps.
        columns: likewise.
    """
    figure = Figure(figsize=(0.9 + 1.35 * len(columns), 0.7 + 1.3 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    edge, drawn = RADIUS + 0.5, None
    for line, row in zip(grid, rows, strict=True):
        line[0].set_ylabel("\n".join(map(str, row.values())), fontsize=8)
        for axes, column in zip(line, columns, strict=True):
            values = result.map_of("accuracy", **row, **column).numpy()
            drawn = axes.imshow(values, "cividis", Normalize(0, 1), extent=(-edge, edge, edge, -edge))
            axes.set(xticks=[-8, 0, 8], yticks=[-8, 0, 8])
            axes.tick_params(labelsize=7)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title("\n".join(map(str, column.values())), fontsize=8)
    if drawn is not None:
        figure.colorbar(drawn, ax=grid, shrink=0.7, label="accuracy")
    return figure


def figures(result: StudyResult) -> dict[str, Figure]:
    """All that `lab study` draws: the ranking, and a map for each setting."""
    settings = [setting for setting, _ in result.ranking("moved")]
    factors = list(result.study.factors)
    rows = [{factor: getattr(setting, factor) for factor in factors} for setting in settings]
    return {"ranking": ranking_figure(result), "maps": _list_of_maps(result, rows)}


@drawing()
def _list_of_maps(result: StudyResult, settings: Sequence[dict[str, Any]]) -> Figure:
    """The maps of all settings in rows of six, the best first."""
    columns = 6
    lines = -(-len(settings) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.8 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes in grid:
        axes.set_axis_off()
    edge = RADIUS + 0.5
    for axes, values in zip(figure.axes, settings, strict=False):
        found = result.map_of("accuracy", **values).numpy()
        axes.imshow(found, "cividis", Normalize(0, 1), extent=(-edge, edge, edge, -edge))
        axes.set_title(", ".join(map(str, values.values())), fontsize=7, wrap=True)
    return figure
