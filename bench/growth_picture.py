"""The picture of `python -m bench growth`: what was measured, and beside it what the work alone would give."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

INK, COLOURS = "#7a8087", ("#2f7fd0", "#e07b39")  # read on white and on black, and told apart by colour-blind eyes


def draw(figures: dict[str, dict[str, dict]], path: str) -> None:
    """A panel for each thing that grows; figures as `growth.measure` gives them. The ground is transparent.

    The dashed lines go through the largest size, where what a step costs without data weighs least; for threads and
    rates through the smallest, which is what the others are compared with.
    """
    figure = Figure(figsize=(10, 7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (what, each) in zip(figure.subplots(2, 2).flat, figures.items(), strict=True):
        for colour, (name, series) in zip(COLOURS, each.items(), strict=True):
            sizes, seconds = list(series), [seconds for seconds, _ in series.values()]
            axes.plot(sizes, [t * 1e3 for t in seconds], color=colour, marker="o", markersize=4, lw=1.8, label=name)
            anchor = sizes[0] if what.startswith(("threads", "expansion")) else sizes[-1]
            at, unit = series[anchor]
            expected = [1e3 * at * work / unit for _, work in series.values()]
            axes.plot(sizes, expected, color=colour, ls="--", lw=1, alpha=0.8)
        axes.plot([], [], color=INK, ls="--", lw=1, label="as the work alone")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(what, color=INK)
        axes.set_ylabel("training step, ms", color=INK)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.patch.set_alpha(0)
        axes.grid(color=INK, alpha=0.25, lw=0.6)
        axes.tick_params(which="both", colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.legend(frameon=False, fontsize="small", labelcolor=INK)
    figure.patch.set_alpha(0)
    figure.savefig(path)
