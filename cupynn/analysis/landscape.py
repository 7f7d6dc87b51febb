"""Loss landscapes along filter-normalised random directions. [Li et al. 2018]

Round the weights w of a trained network the loss is looked at along random directions d and e,

    L(a, b) = loss(w + a d + b e),

whose entries are drawn from a normal distribution and scaled filter by filter, so that |d_i| = |w_i| for every filter
i: that one network's weights are larger than another's does then not show. A filter is what one output of a convolution
or a linear layer is made of: an entry of the first axis. Parameters of one dimension, biases and the scales and shifts
of batch norm, have direction 0 and stay; running statistics stay too.
(Li, Xu, Taylor, Studer, Goldstein, "Visualizing the Loss Landscape of Neural Nets", 2018)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn import ops
from cupynn.analysis.figures import Figures
from cupynn.analysis.heat_maps import grid
from cupynn.analysis.kept_state import kept_state
from cupynn.autograd import Tensor, no_grad
from cupynn.data import Dataset, batches
from cupynn.device import Array, asarray, to_numpy, xp_of
from cupynn.nn import Module
from cupynn.nn.evaluation import evaluation_mode
from cupynn.pictures import Theme
from cupynn.train.evaluation import RunningScore, Score

Direction = dict[str, Array]


@dataclass(frozen=True)
class RunLandscape:
    """loss (nats) and accuracy on so many images: (points,) along one direction, (points, points) along two, rows for
    the first."""

    run: str
    images: int
    loss: np.ndarray
    accuracy: np.ndarray


@dataclass(frozen=True)
class Landscape(Figures):
    """Several runs side by side. steps (points,): a and b, in units of the filters' own norms."""

    steps: np.ndarray
    seed: int
    runs: list[RunLandscape]

    @property
    def two(self) -> bool:
        """Whether along two directions."""
        return self.runs[0].loss.ndim == 2

    @property
    def size(self) -> tuple[float, float]:
        rows, columns = grid(len(self.runs), 3)
        return (3.9 * columns + 1.1, 3.7 * rows + 0.3) if self.two else (10.0, 4.0)

    def rows(self) -> list[list[str]]:
        rows = [["run", "points", "loss here", "lowest", "highest", "accuracy here", "lowest", "highest"]]
        for run in self.runs:
            loss, accuracy = run.loss, run.accuracy
            middle = (len(self.steps) // 2,) * loss.ndim
            losses = [f"{value:.4g}" for value in (loss[middle], np.nanmin(loss), np.nanmax(loss))]
            shares = [f"{value:.1%}" for value in (accuracy[middle], accuracy.min(), accuracy.max())]
            rows.append([run.run, f"{loss.size:,}", *losses, *shares])
        return rows

    def draw(self, figure: Any, theme: Theme) -> None:
        (self._draw_contours if self.two else self._draw_lines)(figure, theme)

    def _draw_lines(self, figure: Any, theme: Theme) -> None:
        from matplotlib.ticker import PercentFormatter

        left, right = figure.subplots(1, 2)
        for run in self.runs:
            left.plot(self.steps, run.loss, label=run.run)
            right.plot(self.steps, run.accuracy, label=run.run)
        for axes in (left, right):
            axes.set_xlabel("step along the direction (in norms of the filters)")
            axes.axvline(0, color=theme.ink, linewidth=0.8, linestyle=":")
        left.set(title="Loss", ylabel="mean cross-entropy per image (nats)", yscale="log")
        right.set(title="Accuracy", ylabel="share of images", ylim=(0, 1.02))
        right.yaxis.set_major_formatter(PercentFormatter(1))
        left.legend(loc="best")

    def _draw_contours(self, figure: Any, theme: Theme) -> None:
        from matplotlib.colors import LogNorm

        rows, columns = grid(len(self.runs), 3)
        axes_of = figure.subplots(rows, columns, squeeze=False)
        finite = np.concatenate([run.loss[np.isfinite(run.loss)] for run in self.runs])
        lowest = max(min(finite, default=1.0), 1e-4)
        highest = max([*finite, 1.01 * lowest])  # levels differ, also where the loss does not
        levels = np.geomspace(lowest, highest, 21)
        lines = [
            level for power in range(-4, 8) for level in (10.0**power, 3 * 10.0**power) if lowest < level < highest
        ]
        middle = (lowest * highest) ** 0.5  # where colours turn from near the ground's to near the ink's
        colours = [theme.ink if level < middle else theme.background for level in lines]
        for axes, run in zip(axes_of.flat, self.runs, strict=False):
            surface = np.clip(run.loss.T, lowest, highest)  # the first direction to the right
            shown = axes.contourf(self.steps, self.steps, surface, levels, norm=LogNorm(), cmap=theme.sequential)
            if lines:
                drawn = axes.contour(self.steps, self.steps, surface, lines, colors=colours, linewidths=0.6)
                axes.clabel(drawn, fmt="%g", fontsize="x-small")
            axes.plot(0, 0, marker="+", markersize=9, color=theme.lines[1])
            axes.set_title(run.run, fontsize="medium")
            axes.grid(False)
            axes.set_aspect("equal")
        for axes in axes_of.flat[len(self.runs) :]:
            axes.set_visible(False)
        figure.supxlabel("step along direction 1 (in norms of the filters)", fontsize="medium", color=theme.ink)
        figure.supylabel("step along direction 2", fontsize="medium", color=theme.ink)
        bar = figure.colorbar(shown, ax=axes_of, shrink=0.85, ticks=lines or [lowest, highest], format="%.3g")
        bar.set_label("mean cross-entropy per image (nats)")
        bar.minorticks_off()


def direction(model: Module, generator: np.random.Generator) -> Direction:
    """A random direction, by the names of parameters: every filter as long as the model's own; 0 for one dimension."""
    found = {}
    for name, parameter in model.named_parameters():
        weight = parameter.data
        if weight.ndim < 2:
            found[name] = xp_of(weight).zeros_like(weight)
            continue
        drawn = generator.standard_normal(weight.shape)
        axes = tuple(range(1, weight.ndim))
        lengths = [
            np.sqrt((values.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
            for values in (drawn, to_numpy(weight))
        ]
        found[name] = asarray((drawn * (lengths[1] / lengths[0])).astype(weight.dtype))
    return found


def surface(
    model: Module,
    directions: Sequence[Direction],
    steps: np.ndarray,
    measure: Callable[[], Score],
    tell: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and accuracy that `measure()` gives with the model moved to every point of a grid: `steps` along each of the
    directions, one or two. Behind it the model is as it was, in all its bits. tell(done, of): progress."""
    shape = (len(steps),) * len(directions)
    loss, accuracy = np.empty(shape), np.empty(shape)
    parameters = dict(model.named_parameters())
    start = {name: parameter.data.copy() for name, parameter in parameters.items()}
    with kept_state(model):
        for done, place in enumerate(np.ndindex(shape), 1):
            for name, parameter in parameters.items():
                moved = start[name]
                for step, along in zip(place, directions, strict=True):
                    moved = moved + float(steps[step]) * along[name]
                parameter.data[...] = moved
            score = measure()
            loss[place], accuracy[place] = score.loss, score.accuracy
            if tell is not None:
                tell(done, loss.size)
    return loss, accuracy


def scores(model: Module, dataset: Dataset, images: int, seed: int = 0, batch_size: int = 250) -> Callable[[], Score]:
    """A function that gives the model's score, in evaluation mode, on `images` of the set, always the same ones."""
    size = min(batch_size, images)
    steps = batches(dataset, size, shuffle=True, seed=seed)
    data, left = [], images
    for pixels, labels in steps:
        data.append((pixels[:left], labels[:left]))
        left -= len(data[-1][1])
        if left <= 0:
            break

    def score() -> Score:
        running = RunningScore()
        with no_grad(), evaluation_mode(model), np.errstate(over="ignore", invalid="ignore"):
            for pixels, labels in data:
                logits = model(Tensor(pixels))
                running.add(ops.cross_entropy(logits, labels), logits, labels)
        return running.score()

    return score


def landscape(
    model: Module,
    dataset: Dataset,
    steps: np.ndarray,
    dimensions: int = 1,
    images: int = 500,
    seed: int = 0,
    tell: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and accuracy on `images` of the set, along as many random directions as there are `dimensions`, 1 or 2.

    `seed` decides the directions and the images. Raises ValueError for fewer than one image, and other dimensions.
    """
    if dimensions not in (1, 2) or images < 1:
        raise ValueError(f"landscape: needs 1 or 2 dimensions and 1 image or more; got {dimensions} and {images}")
    generator = np.random.default_rng(seed)
    directions = [direction(model, generator) for _ in range(dimensions)]
    return surface(model, directions, steps, scores(model, dataset, images, seed), tell)
