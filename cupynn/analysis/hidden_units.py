"""How many hidden units of WHE layers are active. [WHE, equation 1]

Every ordered pair (i, j) of channels of a group has a hidden unit, h[i, j] = a[i, j] x[i] + b[i, j] x[j] + c[i, j], at
every pixel. It is active where h > 0, which is where ReLU lets it through. A unit's share is that of the pixels of all
images where it is active. One of share 0 is dead: for these images it gives nothing; one of share 1 is linear.

The layers never make h (`kernels.whe`), so it is made again here from what each layer reads, a few images at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn.analysis.figures import Figures, layers_of, plain
from cupynn.analysis.heat_maps import spread
from cupynn.autograd import Tensor, no_grad
from cupynn.data import Dataset, batches
from cupynn.device import Array, to_numpy, wide, xp_of
from cupynn.nn import WHE, Module
from cupynn.nn.evaluation import evaluation_mode
from cupynn.pictures import Theme

CHUNK = 2**26  # bytes of h at once
BINS = 20
MOST = 40  # layers in a picture


@dataclass(frozen=True)
class LayerUnits:
    """shares (C/g, g, g): of all pixels of all images, where unit (i, j) of a group is active."""

    layer: str
    pixels: int
    shares: np.ndarray

    @property
    def dead(self) -> float:
        """The share of units that are active nowhere."""
        return float(np.mean(self.shares == 0))

    @property
    def linear(self) -> float:
        """The share of units that are active everywhere."""
        return float(np.mean(self.shares == 1))

    @property
    def histogram(self) -> np.ndarray:
        """The share of the layer's units in each of 20 equal bins of 0..1."""
        return np.histogram(self.shares, BINS, (0, 1))[0] / self.shares.size


@dataclass(frozen=True)
class HiddenUnits(Figures):
    """A layer after another, in the network's order."""

    images: int
    layers: list[LayerUnits]

    @property
    def size(self) -> tuple[float, float]:
        return 9.5, 1.6 + 0.24 * min(max(len(self.layers), 8), MOST)

    def record(self) -> dict[str, Any]:
        found = plain(self)
        for record, layer in zip(found["layers"], self.layers, strict=True):
            record |= {"dead": layer.dead, "linear": layer.linear, "histogram": plain(layer.histogram)}
        return found

    def rows(self) -> list[list[str]]:
        rows = [["layer", "group size", "units", "active", "deviation", "dead", "linear"]]
        for layer in self.layers:
            shares = [f"{share:.1%}" for share in (layer.shares.mean(), layer.shares.std(), layer.dead, layer.linear)]
            rows.append([layer.layer, str(layer.shares.shape[1]), f"{layer.shares.size:,}", *shares])
        return rows

    def draw(self, figure: Any, theme: Theme) -> None:
        from matplotlib.ticker import PercentFormatter

        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        layers = spread(self.layers, MOST)
        histograms = np.stack([layer.histogram for layer in layers])
        places = np.arange(len(layers))
        shown = left.imshow(
            histograms, aspect="auto", extent=(0, 1, len(places) - 0.5, -0.5), interpolation="nearest", vmin=0
        )
        left.set_yticks(places, [layer.layer for layer in layers], fontsize="x-small")
        left.set(xlabel="share of pixels where a unit is active", title="Units by how often they are active")
        left.grid(False)
        left.xaxis.set_major_formatter(PercentFormatter(1))
        bar = figure.colorbar(shown, ax=left, format=PercentFormatter(1, decimals=None), pad=0.02)
        bar.set_label("share of a layer's units")
        bar.outline.set_visible(False)
        right.barh(places - 0.2, [layer.dead for layer in layers], 0.4, label="dead: active nowhere")
        right.barh(places + 0.2, [layer.linear for layer in layers], 0.4, label="linear: active everywhere")
        right.set(xlabel="share of a layer's units", title="Units that never switch")
        right.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        right.grid(axis="y", visible=False)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)


def hidden_units(model: Module, dataset: Dataset, images: int = 500, batch_size: int = 100) -> HiddenUnits:
    """Of every WHE layer, how often each hidden unit is active on the first `images` of a set, in evaluation mode.

    Raises ValueError for a network without WHE layers, and for less than one image.
    """
    layers = dict(layers_of(model, WHE, "hidden-units"))
    if images < 1:
        raise ValueError(f"hidden-units: needs one image at least; got images={images}")
    active = {name: np.zeros(layer.a.shape, np.int64) for name, layer in layers.items()}
    pixels = dict.fromkeys(layers, 0)

    def look(name: str, x: Tensor) -> None:
        active[name] += to_numpy(active_units(layers[name], x.data))
        pixels[name] += x.size // x.shape[1]

    images = left = min(images, len(dataset))
    with no_grad(), evaluation_mode(model), _watched(layers, look):
        for read, _ in batches(dataset, min(batch_size, images)):
            model(Tensor(read[:left]))
            left -= len(read[:left])
            if not left:
                break
    return HiddenUnits(images, [LayerUnits(name, pixels[name], active[name] / max(pixels[name], 1)) for name in layers])


def active_units(layer: WHE, x: Array) -> Array:
    """At how many pixels of x (N, C, H, W) each hidden unit is active, (C/g, g, g): a few images at a time."""
    groups, g, _ = layer.a.shape
    a, b, c = (wide(part.data)[None, ..., None] for part in (layer.a, layer.b, layer.c))
    x = wide(x).reshape(len(x), groups, g, -1)
    xp = xp_of(x)
    total = xp.zeros((groups, g, g), np.int64)
    at_once = max(1, CHUNK // (x[:1].nbytes * g))
    for start in range(0, len(x), at_once):
        part = x[start : start + at_once]
        hidden = a * part[:, :, :, None] + b * part[:, :, None] + c
        total += (hidden > 0).sum(axis=(0, 4))
    return total


@contextlib.contextmanager
def _watched(layers: dict[str, WHE], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside a `with` block, look(name, x) is called with what each layer reads, before it runs."""

    def watched(name: str, layer: WHE) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            look(name, x)
            return type(layer).forward(layer, x)

        return forward

    try:
        for name, layer in layers.items():
            vars(layer)["forward"] = watched(name, layer)
        yield
    finally:
        for layer in layers.values():
            vars(layer).pop("forward", None)
