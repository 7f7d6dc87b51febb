"""A picture of many runs: how the loss of each fell and its test accuracy rose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cupynn.train.comparison import Summary

# Told apart by colour-blind eyes; each set on its own background, and once more dashed.
LIGHT = {
    "background": "#ffffff",
    "ink": "#22262b",
    "faint": "#b4bac2",
    "lines": ("#0072b2", "#d55e00", "#009e73", "#a6337a", "#b8860b", "#5a5a5a"),
}
DARK = {
    "background": "#15181d",
    "ink": "#d9dde3",
    "faint": "#565d68",
    "lines": ("#5ab4f0", "#ff8f5a", "#35cf9f", "#ee94cc", "#f0c550", "#e8eaed"),
}
NAMED = 12  # runs in colour and in the legend; more nobody could tell apart
LONGEST = 44  # letters of a name in the legend


def draw_comparison(summaries: Sequence[Summary], path: str | os.PathLike, dark: bool = False) -> None:
    """Draw training loss and test accuracy of all runs to a file: the first twelve in colour, the others in grey.

    dark: for a dark page. The kind of file is that of its suffix: .png, .svg, .pdf.
    Raises ModuleNotFoundError with the pip command where matplotlib is missing, ValueError for another suffix.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("curves: needs matplotlib: pip install 'cupynn[demo]'", name=error.name) from None

    look = DARK if dark else LIGHT
    drawn = [summary for summary in summaries if summary.records]
    named, others = drawn[:NAMED], drawn[NAMED:]
    figure = Figure(figsize=(13, 4.6), dpi=150, layout="constrained", facecolor=look["background"])
    FigureCanvasAgg(figure)  # draws without a display, whatever backend pyplot has
    left, right = figure.subplots(1, 2)
    for axes, key in ((left, "train_loss"), (right, "test_accuracy")):
        for number, summary in enumerate(reversed(drawn), 1):  # the first in front
            place = len(drawn) - number
            epochs = [record["epoch"] for record in summary.records]
            axes.plot(epochs, [record[key] for record in summary.records], **_style(place, len(epochs), look))
        axes.set_facecolor(look["background"])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epochs", color=look["ink"])
        axes.tick_params(which="both", colors=look["ink"])
        axes.grid(color=look["ink"], alpha=0.18, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(look["ink"])
    left.set_title("Training loss", color=look["ink"])
    left.set_ylabel("mean cross-entropy per image (nats)", color=look["ink"])
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    right.set_title("Test accuracy", color=look["ink"])
    right.set_ylabel("share of test images", color=look["ink"])
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    right.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    _zoom(right, named)

    handles = [_handle(place, look) for place in range(len(named))]
    labels = [f"{summary.best['test_accuracy']:6.1%}  {_short(summary.name)}" for summary in named]
    if others:
        handles.append(_handle(NAMED, look))
        labels.append(f"{len(others)} more")
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        frameon=False,
        fontsize="small",
        labelcolor=look["ink"],
        title="best test accuracy, run",
        alignment="left",
    ).get_title().set_color(look["ink"])
    figure.savefig(path, facecolor=look["background"])


def _style(place: int, points: int, look: dict[str, Any]) -> dict[str, Any]:
    marker = {"marker": "o", "markersize": 3} if points <= 30 else {}
    if place >= NAMED:
        return {"color": look["faint"], "linewidth": 0.9, **({"marker": "o", "markersize": 2} if points == 1 else {})}
    dashed = "--" if place >= len(look["lines"]) else "-"
    width = 1.7 if points <= 30 else 1.2
    return {"color": look["lines"][place % len(look["lines"])], "linewidth": width, "linestyle": dashed, **marker}


def _handle(place: int, look: dict[str, Any]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **{**_style(place, 100, look), "linewidth": 1.7})


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
