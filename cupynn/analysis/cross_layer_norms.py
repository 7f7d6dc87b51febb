"""Which earlier layers the layers of a DelugeNet read: norms of cross-layer filters. [DelugeNets]

A composite layer reads sum_l w_l h_l + b_l, channel by channel, of all outputs h_l before it in its block, h_0 the
block's entry. How much of h_l it takes is the L2 norm over the channels, ||w_l||, of the weights w_l (C). In the
authors' form, which normalises every h_l first, these are weights of features of variance 1. At the start every weight
is 1/L, so all L norms are sqrt(C)/L.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn.analysis.figures import Figures, layers_of
from cupynn.analysis.heat_maps import HeatMap, draw_heat_maps
from cupynn.device import to_numpy
from cupynn.nn import CrossLayerDepthwise, Module
from cupynn.pictures import Theme


@dataclass(frozen=True)
class BlockNorms:
    """norms (readers, sources): row r is for composite layer r + 2 (the first reads h_0 alone), the last row for what
    the block gives; column l for h_l; NaN where a source comes after its reader."""

    block: str
    channels: int
    norms: np.ndarray

    @property
    def readers(self) -> list[str]:
        return [*(str(layer) for layer in range(2, len(self.norms) + 1)), "out"]


@dataclass(frozen=True)
class CrossLayerNorms(Figures):
    """A block after another, in the network's order."""

    blocks: list[BlockNorms]

    @property
    def size(self) -> tuple[float, float]:
        return 3.4 * len(self.blocks) + 1.2, 3.8

    def rows(self) -> list[list[str]]:
        rows = [["block", "layers", "channels", "reads most of", "share", "mean of newest", "of entry"]]
        for block in self.blocks:
            shares = block.norms / np.nansum(block.norms, axis=1, keepdims=True)
            newest = np.mean([row[~np.isnan(row)][-1] for row in shares])
            strongest = np.unravel_index(np.nanargmax(shares * (~np.isnan(shares)).sum(axis=1)[:, None]), shares.shape)
            reader, source = block.readers[strongest[0]], strongest[1]
            name = "the block's output" if reader == "out" else f"layer {reader}"
            share = f"{shares[strongest]:.1%}"
            layers, entry = str(len(block.norms)), f"{shares[:, 0].mean():.1%}"
            rows.append(
                [block.block, layers, str(block.channels), f"{name}: h_{source}", share, f"{newest:.1%}", entry]
            )
        return rows

    def draw(self, figure: Any, theme: Theme) -> None:
        maps = [
            HeatMap(
                f"{block.block}, {block.channels} channels",
                block.norms / np.nanmean(block.norms, axis=1, keepdims=True),
                [str(source) for source in range(block.norms.shape[1])],
                block.readers,
            )
            for block in self.blocks
        ]
        label = "L2 norm of weights / mean of the row"
        xlabel, ylabel = "source: composite layer (0: the block's entry)", "reader: composite layer"
        draw_heat_maps(figure, theme, maps, len(maps), label, xlabel, ylabel, centre=1)


def cross_layer_norms(model: Module) -> CrossLayerNorms:
    """L2 norms of every cross-layer filter, block by block.

    Layers of a block are those whose names differ in the last part: blocks.0.crosses.0, blocks.0.crosses.1, ... Their
    weights' order is newest first, as in `models.delugenet`. Raises ValueError for a network without such layers.
    """
    found = layers_of(model, CrossLayerDepthwise, "cross-layer-norms")
    blocks = []
    for block, layers in itertools.groupby(found, key=lambda pair: pair[0].rpartition(".")[0]):
        weights = [to_numpy(layer.weight.data).astype(np.float64) for _, layer in layers]
        norms = np.full((len(weights), max(map(len, weights))), np.nan)
        for row, weight in zip(norms, weights, strict=True):
            row[: len(weight)] = np.linalg.norm(weight, axis=1)[::-1]
        blocks.append(BlockNorms(block.removesuffix(".crosses"), weights[0].shape[1], norms))
    return CrossLayerNorms(blocks)
