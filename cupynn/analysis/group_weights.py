"""Which groups of a SeqConv layer read which: mean absolute weights between groups. [SeqConv]

The groups of k channels of a layer are made one after another. Group j reads a window of the input and of the groups
before it. Its weight for a source s, k channels of the input or a group, is the mean of |w| over all kernel elements
that read s: those of the group's 3x3 convolution, in a bottleneck those of the 1x1 before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn.analysis.figures import Figures, layers_of
from cupynn.analysis.heat_maps import MOST, HeatMap, draw_heat_maps, grid, spread
from cupynn.device import to_numpy
from cupynn.nn import Module, SeqConv2d
from cupynn.nn.contractible import kernel_of
from cupynn.pictures import Theme


@dataclass(frozen=True)
class LayerWeights:
    """weights (groups, sources): sources are the input in chunks of k channels, then the groups; NaN for what a group
    does not see. inputs: how many sources are chunks of the input."""

    layer: str
    k: int
    inputs: int
    weights: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """The weights over their mean; 1 in a layer that starts at 0."""
        mean = np.nanmean(self.weights)
        return self.weights / mean if mean else self.weights + 1


@dataclass(frozen=True)
class GroupWeights(Figures):
    """A layer after another, in the network's order."""

    layers: list[LayerWeights]

    @property
    def size(self) -> tuple[float, float]:
        rows, columns = grid(min(len(self.layers), MOST))
        return 3.0 * columns + 1.4, 2.2 * rows + 0.6

    def rows(self) -> list[list[str]]:
        rows = [["layer", "k", "groups", "sources", "seen", "mean |w| of input", "of groups", "largest"]]
        for layer in self.layers:
            inputs, groups = layer.weights[:, : layer.inputs], layer.weights[:, layer.inputs :]
            seen = np.mean(~np.isnan(layer.weights))
            means = [_mean(part) for part in (inputs, groups)]
            count, sources = layer.weights.shape
            largest = f"{np.nanmax(layer.weights):.4f}"
            rows.append([layer.layer, str(layer.k), str(count), str(sources), f"{seen:.0%}", *means, largest])
        return rows

    def draw(self, figure: Any, theme: Theme) -> None:
        maps = [
            HeatMap(
                f"{layer.layer}: mean {np.nanmean(layer.weights):.3g}",
                layer.relative,
                [_source(number, layer.inputs) for number in range(layer.weights.shape[1])],
                [str(group) for group in range(1, len(layer.weights) + 1)],
            )
            for layer in spread(self.layers)
        ]
        columns = grid(len(maps))[1]
        xlabel = "source: x, the input in chunks of k channels; then groups"
        draw_heat_maps(
            figure, theme, maps, columns, "mean |w| / mean of the layer", xlabel, "group that reads", centre=1
        )


def group_weights(model: Module) -> GroupWeights:
    """Mean absolute weights between groups, layer by layer. Raises ValueError for a network without SeqConv layers."""
    return GroupWeights([_layer(name, layer) for name, layer in layers_of(model, SeqConv2d, "group-weights")])


def _layer(name: str, layer: SeqConv2d) -> LayerWeights:
    """The buffer of a layer holds x, then its groups; a group's view is a range of the buffer's channels."""
    inputs, groups = math.ceil(layer.in_channels / layer.k), len(layer.f)
    chunks = np.arange(layer.in_channels) // layer.k
    sources = np.concatenate([chunks, np.repeat(inputs + np.arange(groups), layer.k)])
    weights = np.full((groups, inputs + groups), np.nan)
    for j, (row, unit) in enumerate(zip(weights, layer.f, strict=True)):
        weight, _ = kernel_of((unit.pre if layer.bottleneck else unit).conv)
        means = np.abs(to_numpy(weight.data).astype(np.float64)).mean(axis=(0, 2, 3))
        first = j * layer.k if layer.windowed else 0
        seen = sources[first : first + len(means)]
        sums, counts = (np.bincount(seen, values, len(row)) for values in (means, np.ones_like(means)))
        np.divide(sums, counts, out=row, where=counts > 0)
    return LayerWeights(name, layer.k, inputs, weights)


def _mean(weights: np.ndarray) -> str:
    return "-" if np.isnan(weights).all() else f"{np.nanmean(weights):.4f}"


def _source(number: int, inputs: int) -> str:
    return f"x{number + 1}" if number < inputs else str(number - inputs + 1)
