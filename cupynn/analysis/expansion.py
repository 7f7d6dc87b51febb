"""What an expanded network costs beside the compact one: parameters, multiply-accumulates, time. [ExpandNets]

The same expanded network runs in two ways, layer after layer as it is defined, and through its contracted kernels
(`composition="kernel"`). The third is what ships: the contracted network. MACs are those of an image; contracting the
kernels, once a step, is not among them. Times are medians of rounds in which the ways take turns, ratios are medians of
the ratios within a round.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn import models, ops
from cupynn.analysis.figures import Figures
from cupynn.autograd import Tensor, no_grad
from cupynn.device import Array, asarray
from cupynn.nn import DOConv2d, Module
from cupynn.optim import SGD
from cupynn.pictures import Theme
from cupynn.profile.turns import take_turns
from cupynn.reparam import contract
from cupynn.reparam.expansion import expanded_layers, layer_by_layer
from cupynn.train.speed import wait_for


@dataclass(frozen=True)
class Way:
    """One way to run: parameters, MACs of an image, median milliseconds of a training step and of inference.

    train_ratio, inference_ratio: medians over rounds of its time over the contracted network's in the same round.
    """

    way: str
    parameters: int
    macs: int
    train_ms: float
    inference_ms: float
    train_ratio: float
    inference_ratio: float


@dataclass(frozen=True)
class Expansion(Figures):
    """The ways of one network; the last is the contracted network. batch: images of a step."""

    network: str
    batch: int
    rounds: int
    ways: list[Way]

    @property
    def size(self) -> tuple[float, float]:
        return 11.5, 2.8

    def rows(self) -> list[list[str]]:
        rows = [["", "parameters", "MACs", "training ms", "ratio", "inference ms", "ratio"]]
        for way in self.ways:
            times = [
                f"{way.train_ms:.2f}",
                f"{way.train_ratio:.2f}",
                f"{way.inference_ms:.2f}",
                f"{way.inference_ratio:.2f}",
            ]
            rows.append([way.way, f"{way.parameters:,}", f"{way.macs:,}", *times])
        return rows

    def draw(self, figure: Any, theme: Theme) -> None:
        panels = {
            "parameters": ("parameters", "{:,.0f}"),
            "MACs of an image": ("macs", "{:,.0f}"),
            f"training step, {self.batch} images (ms)": ("train_ms", "{:,.1f}"),
            f"inference, {self.batch} images (ms)": ("inference_ms", "{:,.1f}"),
        }
        places = np.arange(len(self.ways))
        row = figure.subplots(1, 4, sharey=True)
        row[0].invert_yaxis()
        for axes, (title, (name, form)) in zip(row, panels.items(), strict=True):
            values = [getattr(way, name) for way in self.ways]
            bars = axes.barh(places, values, color=theme.lines[: len(self.ways)])
            axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize="x-small")
            axes.set_title(title, fontsize="small")
            axes.set_xlim(0, 1.45 * max(values))
            axes.set_yticks(places, [way.way for way in self.ways])
            axes.xaxis.set_visible(False)
            axes.grid(False)
            axes.spines["bottom"].set_visible(False)


def expansion(
    model: Module, network: str, batch: int = 64, rounds: int = 9, input_shape: tuple[int, ...] | None = None
) -> Expansion:
    """Counts and paired times of an expanded network, layer by layer and through its kernels, and contracted.

    Times are those of one batch of random images of input_shape, (C, H, W), by default the model's own, on copies of
    the model.
    Raises ValueError for a network without expanded layers.
    """
    if not any(expanded_layers(model)):
        raise ValueError(f"expansion: {network} has no expanded layers")
    model, compact, shape = copy.deepcopy(model), contract(model), input_shape or model.input_shape
    for layer in expanded_layers(model):
        layer.composition = "kernel"
    whole, plain = models.count(model, shape), models.count(compact, shape)
    rng = np.random.default_rng(0)
    images = asarray(rng.standard_normal((batch, *shape), dtype=np.float32))
    layers = _steps(model, images)
    runs = {"layer by layer": _slow(model, layers), "through the kernel": layers, "contracted": _steps(compact, images)}
    times = [take_turns({way: steps[number] for way, steps in runs.items()}, rounds) for number in range(2)]
    ways = []
    for way in runs:
        train, inference = (turns[way] for turns in times)
        ratios = [turns[way].over(turns["contracted"]) for turns in times]
        # a kernel is contracted once a step: an image costs what it costs the contracted network
        macs = whole.macs + _features(model, shape) if way == "layer by layer" else plain.macs
        parameters = plain.parameters if way == "contracted" else whole.parameters
        ways.append(Way(way, parameters, macs, 1e3 * train.median, 1e3 * inference.median, *ratios))
    return Expansion(network, batch, rounds, ways)


def _features(model: Module, shape: tuple[int, ...]) -> int:
    """MACs that DO-Conv takes layer by layer, a depthwise and a 1x1 convolution, beyond the one that `count` counts."""
    layers, more = dict(model.named_modules()), 0
    for row in models.count_layers(model, shape):
        layer = layers[row.name]
        if isinstance(layer, DOConv2d) and layer.D is not None and "feature" in layer.compositions:
            more += math.prod(row.output_shape[1:]) * (layer.D.size + layer.W.size) - row.count.convolution
    return more


def _steps(model: Module, images: Array) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step of training by SGD with momentum, and one of inference; both wait for the device."""
    optimiser, x = SGD(model.parameters(), lr=1e-4, momentum=0.9), Tensor(images)
    with no_grad():
        labels = model.eval()(x).data.argmax(axis=1)

    def train() -> None:
        model.train()
        optimiser.zero_grad()
        ops.cross_entropy(model(x), labels).backward()
        optimiser.step()
        wait_for(images)

    def infer() -> None:
        model.eval()
        with no_grad():
            model(x)
        wait_for(images)

    return train, infer


def _slow(model: Module, steps: tuple[Callable[[], None], ...]) -> list[Callable[[], None]]:
    """The same steps, layer after layer."""

    def slow(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with layer_by_layer(model):
                step()

        return run

    return [slow(step) for step in steps]
