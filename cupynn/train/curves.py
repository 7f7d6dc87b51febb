"""curves.png: how the loss fell and the test accuracy rose."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#d1495b", "#00798c", "#6a4c93", "#8d6a9f")  # told apart in print and by colour-blind eyes


def draw_curves(
    records: Sequence[Mapping[str, Any]],
    path: str | os.PathLike,
    names: Mapping[str, str] | None = None,
    title: str | None = None,
) -> None:
    """Draw the records of metrics.jsonl, a colour per network, to a PNG file.

    names: what the legend calls each network; it calls others by their own name.
    Raises ModuleNotFoundError with the pip command where matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("curves: needs matplotlib: pip install 'cupynn[demo]'", name=error.name) from None

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend pyplot has
    left, right = figure.subplots(1, 2)
    for colour, network in zip(COLOURS, dict.fromkeys(r["network"] for r in records), strict=False):
        own = [r for r in records if r["network"] == network]
        epochs = [r["epoch"] for r in own]
        name = (names or {}).get(network, network)
        style = {"color": colour, "linewidth": 1.8, "marker": "o", "markersize": 3}
        left.plot(epochs, [r["train_loss"] for r in own], label=f"{name}: training", **style)
        faint = {**style, "linewidth": 1.2, "linestyle": "--", "marker": "", "alpha": 0.8}
        left.plot(epochs, [r["test_loss"] for r in own], label=f"{name}: test", **faint)
        last = own[-1]["test_accuracy"]
        right.plot(epochs, [r["test_accuracy"] for r in own], label=f"{name}: {last:.1%}", **style)
    left.set(title="Loss (cross-entropy)", xlabel="epoch", yscale="log")
    right.set(title="Test accuracy", xlabel="epoch")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    accuracies = [r["test_accuracy"] for r in records]
    # The first epochs' low accuracies may leave the picture: what matters lies near the best.
    right.set_ylim(max(min(accuracies) - 0.02, 6 * max(accuracies) - 5), 1)
    right.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    left.legend(frameon=False, fontsize="small")
    right.legend(
        frameon=False, fontsize="small", loc="lower right", title="after the last epoch", title_fontsize="small"
    )
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    figure.savefig(path)
