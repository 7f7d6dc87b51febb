"""Whether mini-batches pull a network the same way: cosine similarities of their gradients.

Of B mini-batches with gradients g_1 .. g_B of the loss over all parameters, every pair has a similarity

    cos(i, j) = <g_i, g_j> / (|g_i| |g_j|).

Where it is negative a step for one batch undoes what a step for the other did: gradients are confused. The lowest
similarity of all pairs is what Sankararaman et al. bound ("The Impact of Neural Network Overparameterization on
Gradient Confusion and Stochastic Gradient Descent", 2020). ExpandNets shows it epoch by epoch, and the density of all
pairs: here a kernel estimate with Gaussians, whose bandwidth is Scott's, deviation times (number of pairs)^(-1/5).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn import ops
from cupynn.analysis.figures import Figures, plain
from cupynn.analysis.kept_state import kept_state
from cupynn.autograd import Tensor
from cupynn.data import Dataset, batches
from cupynn.device import Array, manual_seed, to_numpy, xp_of
from cupynn.nn import Module
from cupynn.pictures import Theme
from cupynn.train.checkpoints import Checkpoints, read

HELD = 2**29  # bytes of gradients held at once


@dataclass(frozen=True)
class Similarities:
    """cosines: of every pair of mini-batches, B (B - 1) / 2 of them. epoch: after which, None for a network's last."""

    cosines: np.ndarray
    epoch: int | None = None

    @property
    def minimum(self) -> float:
        return float(self.cosines.min())


@dataclass(frozen=True)
class RunConfusion:
    """One run's similarities, at its last weights or at several epochs; the last counts most."""

    run: str
    batches: int
    batch_size: int
    parameters: int
    states: list[Similarities]


@dataclass(frozen=True)
class GradientConfusion(Figures):
    """Several runs side by side."""

    runs: list[RunConfusion]

    @property
    def over_epochs(self) -> bool:
        return any(len(run.states) > 1 for run in self.runs)

    @property
    def size(self) -> tuple[float, float]:
        return (11.0, 4.2) if self.over_epochs else (7.0, 4.2)

    def record(self) -> dict[str, Any]:
        found = plain(self)
        for run, kept in zip(found["runs"], self.runs, strict=True):
            for state, similarities in zip(run["states"], kept.states, strict=True):
                state |= {"minimum": similarities.minimum, "bandwidth": plain(bandwidth(similarities.cosines))}
        return found

    def rows(self) -> list[list[str]]:
        rows = [["run", "epoch", "batches", "of", "pairs", "minimum", "mean", "below 0", "bandwidth"]]
        for run in self.runs:
            for state in run.states:
                cosines = state.cosines
                figures = [cosines.min(), cosines.mean()]
                epoch = "last" if state.epoch is None else str(state.epoch)
                counts = [str(run.batches), str(run.batch_size), f"{cosines.size:,}"]
                shares = [f"{np.mean(cosines < 0):.1%}", f"{bandwidth(cosines):.4f}"]
                rows.append([run.run, epoch, *counts, *(f"{figure:.4f}" for figure in figures), *shares])
        return rows

    def draw(self, figure: Any, theme: Theme) -> None:
        left, right = figure.subplots(1, 2) if self.over_epochs else (figure.subplots(), None)
        for run, colour in zip(self.runs, itertools.cycle(theme.lines), strict=False):
            last = run.states[-1]
            width = bandwidth(last.cosines)
            if width > 0:
                places = np.linspace(last.cosines.min() - 3 * width, last.cosines.max() + 3 * width, 400)
                densities = density(last.cosines, places)
                left.plot(places, densities, color=colour)
                left.fill_between(places, densities, color=colour, alpha=0.15, linewidth=0)
            label = f"{run.run}: minimum {last.minimum:.2f}"
            low = left.get_xaxis_transform()  # y in parts of the height
            left.plot(last.minimum, 0.03, "v", color=colour, transform=low, label=label)
            if right is not None:
                epochs = [state.epoch for state in run.states]
                right.plot(epochs, [state.minimum for state in run.states], color=colour, marker="o", markersize=3)
        left.axvline(0, color=theme.ink, linewidth=0.8, linestyle=":")
        left.set(xlabel="cosine similarity of two mini-batch gradients", ylabel="density of pairs")
        left.set_title("Last weights")
        left.set_ylim(bottom=0)
        left.legend(loc="best")
        if right is not None:
            right.set(xlabel="epochs", ylabel="minimum over all pairs", title="Minimum while training")
            right.xaxis.get_major_locator().set_params(integer=True)


def similarities(
    model: Module,
    dataset: Dataset,
    batch_size: int = 128,
    count: int = 100,
    seed: int = 0,
    tell: Callable[[int, int], None] | None = None,
    held: int = HELD,
) -> np.ndarray:
    """Cosine similarities of every pair of `count` mini-batches' gradients, (count * (count - 1) / 2,).

    The batches are disjoint, drawn by `seed`, not augmented. The loss is the cross-entropy, in training mode, so that
    batch norm takes the batch's statistics; the model is left as it was, in all its bits. No more than `held` bytes of
    gradients are kept, two gradients at least; where all do not fit, some are computed again. tell(done, of): progress.

    Raises ValueError where the set holds fewer than three such batches, and where a gradient is 0 or not finite.
    """
    steps = batches(dataset, batch_size, shuffle=True, seed=seed, drop_last=True)
    count = min(count, len(steps))
    if count < 3:
        raise ValueError(
            f"gradient-confusion: needs three batches at least, and would take {count}; {dataset.name} gives "
            f"{len(steps)} of {batch_size} images"
        )

    def gradient(number: int) -> Array:
        own = steps.order[number * batch_size : (number + 1) * batch_size]
        ((images, labels),) = dataclasses.replace(steps, order=own)  # read when it is needed: all may be too many
        manual_seed(seed + number)  # of dropout: the same however often the gradient is computed
        model.zero_grad()
        ops.cross_entropy(model(Tensor(images)), labels).backward()
        return flat_gradient(model)

    with kept_state(model):
        model.train()
        return cosines(gradient, count, held, tell)


def flat_gradient(model: Module) -> Array:
    """All parameters' gradients in one array; 0 where there is none."""
    parts = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            grad = parameter.grad
            parts.append((xp_of(parameter.data).zeros_like(parameter.data) if grad is None else grad).ravel())
    return xp_of(parts[0]).concatenate(parts)


def cosines(
    gradient: Callable[[int], Array], count: int, held: int = HELD, tell: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """cos(i, j), i < j, row by row, of gradient(0) .. gradient(count - 1), by their Gram matrix.

    So many gradients are held as fit into `held` bytes, and those after them pass by one at a time; then the next are
    held. With all held, each is computed once. Raises ValueError for a gradient that is 0 or not finite.
    """
    gram = np.zeros((count, count))
    first = gradient(0)
    fit = min(count, max(2, held // first.nbytes))
    kept = xp_of(first).empty((fit, first.size), first.dtype)
    passes = [(start, number) for start in range(0, count, fit) for number in range(start, count)]
    for done, (start, number) in enumerate(passes, 1):
        new = gradient(number) if done > 1 else first
        if number < start + fit:
            kept[number - start] = new
        rows = slice(start, min(start + fit, number + 1))
        gram[rows, number] = to_numpy(kept[: rows.stop - start] @ new)
        if tell is not None:
            tell(done, len(passes))
    norms = np.sqrt(np.diagonal(gram))
    if not (np.isfinite(norms).all() and norms.all()):
        number = int(np.flatnonzero(~np.isfinite(norms) | (norms == 0))[0])
        raise ValueError(
            f"gradient-confusion: the gradient of batch {number} has norm {norms[number]}: it points nowhere"
        )
    upper = np.triu_indices(count, 1)
    return np.clip(gram[upper] / (norms[upper[0]] * norms[upper[1]]), -1, 1)


def bandwidth(values: np.ndarray) -> float:
    """Scott's rule for one dimension: the deviation (of n - 1) times n^(-1/5)."""
    return float(values.std(ddof=1) * len(values) ** -0.2)


def density(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Kernel density estimate at `places`: the mean of Gaussians of Scott's `bandwidth` at the values.

    Raises ValueError where all values are equal, which has no density.
    """
    width = bandwidth(values)
    if not width > 0:
        raise ValueError(f"density: needs values that differ; got {len(values)} of bandwidth {width}")
    distances = (places[:, None] - values) / width
    return np.exp(-(distances**2) / 2).mean(axis=1) / (width * math.sqrt(2 * math.pi))


def epochs_of(run: pathlib.Path, network: str, model: Module) -> Iterator[int]:
    """Put the weights of every whole epoch that a run kept a checkpoint of into the model, in order, and yield how many
    epochs were done. Raises ValueError for a checkpoint that is damaged or another model's."""
    for path in Checkpoints(run, network).files():
        checkpoint = read(path)
        if checkpoint.progress.step == 0:
            arrays = {name: array for name, array in checkpoint.arrays.items() if name.startswith("model/")}
            model.load_state_dict({name.removeprefix("model/"): array for name, array in arrays.items()})
            yield checkpoint.progress.epoch
