"""Small multiples of heat maps with one scale of colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn.pictures import Theme

LEAST = 1e-3  # of colours' reach from a centre that is not 0: less may be rounding
MOST = 12  # maps in a picture; of more, so many, evenly spread


@dataclass(frozen=True)
class HeatMap:
    """values (rows, columns), NaN where there is nothing; xticks, yticks: names of columns and rows."""

    title: str
    values: np.ndarray
    xticks: Sequence[str] = ()
    yticks: Sequence[str] = ()


def spread(maps: Sequence[Any], most: int = MOST) -> list[Any]:
    """All of them, or `most` of them evenly spread from the first to the last."""
    if len(maps) <= most:
        return list(maps)
    return [maps[round(place)] for place in np.linspace(0, len(maps) - 1, most)]


def grid(count: int, columns: int = 4) -> tuple[int, int]:
    """Rows and columns for so many maps."""
    rows = math.ceil(count / columns)
    return rows, math.ceil(count / rows)


def draw_heat_maps(
    figure: Any,
    theme: Theme,
    maps: Sequence[HeatMap],
    columns: int,
    label: str,
    xlabel: str,
    ylabel: str,
    centre: float = 0.0,
) -> None:
    """`maps` in rows of `columns`, with one bar for their colours; NaN is a faint ground.

    label: what the colours stand for, with its unit; xlabel and ylabel: what columns and rows are. centre: what has no
    colour; other than 0, what is below has another one than what is above.
    """
    rows = math.ceil(len(maps) / columns)
    grid_of_axes = figure.subplots(rows, columns, squeeze=False)
    reach = max(np.nanmax(np.abs(heat_map.values - centre)) for heat_map in maps) or 1.0
    reach = max(reach, LEAST * abs(centre))
    scale = {"vmin": centre - reach if centre else 0, "vmax": centre + reach}
    scale["cmap"] = theme.diverging if centre else theme.sequential
    for axes, heat_map in zip(grid_of_axes.flat, maps, strict=False):
        axes.set_facecolor(theme.faint)
        values = np.ma.masked_invalid(heat_map.values)
        shown = axes.imshow(values, aspect="auto", interpolation="nearest", **scale)
        axes.set_title(heat_map.title, fontsize="small")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize="x-small")
        _name(axes.xaxis, heat_map.xticks, heat_map.values.shape[1])
        _name(axes.yaxis, heat_map.yticks, heat_map.values.shape[0])
    for axes in grid_of_axes.flat[len(maps) :]:
        axes.set_visible(False)
    figure.supxlabel(xlabel, fontsize="medium", color=theme.ink)
    figure.supylabel(ylabel, fontsize="medium", color=theme.ink)
    bar = figure.colorbar(shown, ax=grid_of_axes, shrink=0.8, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _name(axis: Any, names: Sequence[str], count: int) -> None:
    """Names at about ten places from the last one back; without names, none."""
    places = range(count - 1, -1, -math.ceil(count / 10)) if names else []
    axis.set_ticks(list(places), [names[place] for place in places])
