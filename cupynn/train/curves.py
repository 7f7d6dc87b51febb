"""curves.png: how the loss fell and the test accuracy rose."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from cupynn.pictures import Draw, Theme, save_picture

SIZE = (10, 4)  # inches


def draw_curves(
    records: Sequence[Mapping[str, Any]],
    path: str | os.PathLike,
    names: Mapping[str, str] | None = None,
    title: str | None = None,
    dark: bool = False,
) -> None:
    """Draw `curves` to a file, for a light or a dark page. Raises what `save_picture` does."""
    save_picture(curves(records, names, title), path, SIZE, dark)


def curves(
    records: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None, title: str | None = None
) -> Draw:
    """The records of metrics.jsonl as a picture, a colour per network. None or NaN stands for what was not finite.

    names: what the legend calls each network; it calls others by their own name.
    """

    def draw(figure: Any, theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        left, right = figure.subplots(1, 2)
        networks = dict.fromkeys(r["network"] for r in records)
        for colour, network in zip(itertools.cycle(theme.lines), networks):
            own = [r for r in records if r["network"] == network]
            epochs = [r["epoch"] for r in own]
            name = (names or {}).get(network, network)
            style = {"color": colour, "linewidth": 1.8, "marker": "o", "markersize": 3}
            left.plot(epochs, [_number(r["train_loss"]) for r in own], label=f"{name}: training", **style)
            faint = {**style, "linewidth": 1.2, "linestyle": "--", "marker": "", "alpha": 0.8}
            left.plot(epochs, [_number(r["test_loss"]) for r in own], label=f"{name}: test", **faint)
            accuracies = [_number(r["test_accuracy"]) for r in own]
            right.plot(epochs, accuracies, label=f"{name}: {accuracies[-1]:.1%}", **style)
        left.set(title="Loss", ylabel="mean cross-entropy per image (nats)")
        right.set(title="Test accuracy", ylabel="share of test images")
        log_scale(left)
        if known := [a for r in records if (a := _number(r["test_accuracy"])) >= 0]:
            # The first epochs' low accuracies may leave the picture: what matters lies near the best.
            right.set_ylim(max(min(known) - 0.02, 6 * max(known) - 5), 1)
        right.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
        right.yaxis.set_major_formatter(PercentFormatter(1))
        left.legend()
        right.legend(loc="lower right", title="after the last epoch", title_fontsize="small")
        first, last = (limit(r["epoch"] for r in records) for limit in (min, max))
        for axes in (left, right):
            axes.set_xlabel("epoch")
            if first == last:
                axes.set_xlim(first - 1, first + 1)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if title:
            figure.suptitle(title)

    return draw


def log_scale(axes: Any) -> None:
    """A logarithmic scale with plain numbers on it."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _number(value: float | None) -> float:
    return math.nan if value is None else value
