"""A picture of many runs: how the loss of each fell and its test accuracy rose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cupynn.pictures import Theme, save_picture
from cupynn.train.comparison import Summary
from cupynn.train.curves import log_scale

NAMED = 12  # runs in colour, then once more dashed, and in the legend; more nobody could tell apart
LONGEST = 44  # letters of a name in the legend


def draw_comparison(summaries: Sequence[Summary], path: str | os.PathLike, dark: bool = False) -> None:
    """Draw training loss and test accuracy of all runs to a file: the first twelve in colour, the others in grey.

    dark: for a dark page. The kind of file is that of its suffix: .png, .svg, .pdf.
    Raises ModuleNotFoundError with the pip command where matplotlib is missing, ValueError for another suffix.
    """
    drawn = [summary for summary in summaries if summary.records]
    named, others = drawn[:NAMED], drawn[NAMED:]

    def draw(figure: Any, theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        left, right = figure.subplots(1, 2)
        for axes, key in ((left, "train_loss"), (right, "test_accuracy")):
            for number, summary in enumerate(reversed(drawn), 1):  # the first in front
                place = len(drawn) - number
                epochs = [record["epoch"] for record in summary.records]
                axes.plot(epochs, [record[key] for record in summary.records], **_style(place, len(epochs), theme))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("epochs")
        left.set(title="Training loss", ylabel="mean cross-entropy per image (nats)")
        log_scale(left)
        right.set(title="Test accuracy", ylabel="share of test images")
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        right.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
        _zoom(right, named)
        handles = [_handle(place, theme) for place in range(len(named))]
        labels = [f"{summary.best['test_accuracy']:6.1%}  {_short(summary.name)}" for summary in named]
        if others:
            handles.append(_handle(NAMED, theme))
            labels.append(f"{len(others)} more")
        head = {"title": "best test accuracy, run", "alignment": "left"}
        figure.legend(handles, labels, loc="outside right upper", **head)

    save_picture(draw, path, (13, 4.6), dark)


def _style(place: int, points: int, theme: Theme) -> dict[str, Any]:
    marker = {"marker": "o", "markersize": 3} if points <= 30 else {}
    if place >= NAMED:
        return {"color": theme.faint, "linewidth": 0.9, **({"marker": "o", "markersize": 2} if points == 1 else {})}
    dashed = "--" if place >= len(theme.lines) else "-"
    width = 1.7 if points <= 30 else 1.2
    return {"color": theme.lines[place % len(theme.lines)], "linewidth": width, "linestyle": dashed, **marker}


def _handle(place: int, theme: Theme) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **{**_style(place, 100, theme), "linewidth": 1.7})


def _zoom(axes: Any, named: Sequence[Summary]) -> None:
    """What matters lies near the best: the first quarter of the epochs may leave the picture, no named run's best."""
    curves = [[a for record in summary.records if (a := record["test_accuracy"]) >= 0] for summary in named]
    curves = [curve for curve in curves if curve]
    if not curves:
        return
    best = max(map(max, curves))
    later = min(min(curve[len(curve) // 4 :]) for curve in curves)
    lowest = min(max(later, 6 * best - 5), *map(max, curves), best)
    room = 0.05 * (best - lowest) + 0.002
    axes.set_ylim(lowest - room, best + room)


def _short(name: str) -> str:
    """A long name without its middle."""
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"
