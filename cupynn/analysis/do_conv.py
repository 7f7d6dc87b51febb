"""How far DO-Conv's composed kernels are from their weights, position by position: the map H. [DO-Conv]

    W'[o, i, m] = sum_s D[i, m, s] W[o, i, s]            H[m] = sum_oi |W'[o, i, m] - W[o, i, m]|

m runs over the M x N positions of a kernel. At D = I, where training starts, W' = W and H = 0. Where a layer has more
than M N columns s, W stands for what D = I makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn.analysis.figures import Figures, layers_of
from cupynn.analysis.heat_maps import MOST, HeatMap, draw_heat_maps, grid, spread
from cupynn.autograd import Tensor, no_grad
from cupynn.device import to_numpy, xp_of
from cupynn.nn import DOConv2d, Module
from cupynn.ops.do_composition import compose_kernel, depthwise_identity
from cupynn.pictures import Theme


@dataclass(frozen=True)
class LayerDifference:
    """difference (M, N): the map H. weight (M, N): the sum of |W| at each position. kernels: how many H sums over."""

    layer: str
    kernels: int
    difference: np.ndarray
    weight: np.ndarray

    @property
    def change(self) -> float:
        """The sum of |W' - W| over that of |W|."""
        return float(self.difference.sum() / self.weight.sum())

    @property
    def shares(self) -> np.ndarray:
        """H over its sum; all 0 at the start."""
        return self.difference / (self.difference.sum() or 1)


@dataclass(frozen=True)
class DOConvDifference(Figures):
    """A layer after another, in the network's order; 1x1 convolutions, which have no D, are left out."""

    layers: list[LayerDifference]

    @property
    def size(self) -> tuple[float, float]:
        rows, columns = grid(min(len(self.layers), MOST))
        return 1.7 * columns + 1.4, 1.75 * rows + 0.4

    def rows(self) -> list[list[str]]:
        rows = [["layer", "kernel", "kernels", "sum |W' - W|", "of sum |W|", "centre", "corners"]]
        for layer in self.layers:
            height, width = layer.difference.shape
            total, shares = layer.difference.sum(), layer.shares
            centre, corners = shares[height // 2, width // 2], shares[[0, 0, -1, -1], [0, -1, 0, -1]].sum()
            sums = [f"{total:.4g}", f"{layer.change:.1%}"]
            places = [f"{centre:.1%}", f"{corners:.1%}"]
            rows.append([layer.layer, f"{height}x{width}", f"{layer.kernels:,}", *sums, *places])
        return rows

    def draw(self, figure: Any, theme: Theme) -> None:
        maps = [HeatMap(f"{layer.layer}: {layer.change:.1%}", layer.shares) for layer in spread(self.layers)]
        columns = grid(len(maps))[1]
        label = "share of the layer's sum of H"
        draw_heat_maps(
            figure,
            theme,
            maps,
            columns,
            label,
            "column of the kernel (title: sum of H / sum of |W|)",
            "row of the kernel",
        )


def do_conv_difference(model: Module) -> DOConvDifference:
    """The map H of every DO-Conv layer. Raises ValueError for a network without DO-Conv layers that have a D."""
    found = layers_of(model, DOConv2d, "do-conv")
    layers = [_layer(name, layer) for name, layer in found if layer.D is not None]
    if not layers:
        raise ValueError("do-conv: the network's DO-Conv layers are all 1x1, which have no D")
    return DOConvDifference(layers)


def _layer(name: str, layer: DOConv2d) -> LayerDifference:
    with no_grad():
        start = Tensor(xp_of(layer.D.data).zeros_like(layer.D.data))
        start = start + depthwise_identity(*layer.D.shape[1:], layer.D.data)
        composed = layer.kernel()[0]
        weight = compose_kernel(start, layer.W, layer.kernel_size, layer.groups, layer.layout)
    composed, weight = (to_numpy(kernel.data).astype(np.float64) for kernel in (composed, weight))
    sums = (np.abs(values).sum(axis=(0, 1)) for values in (composed - weight, weight))
    return LayerDifference(name, composed.shape[0] * composed.shape[1], *sums)
