"""Convolutions of ResNet-18's, ResNet-50's and MobileNet's shapes, by every method that can compute them on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.gpu.layer import Layer, Pass, normal, size_of, stored_as
from cupynn.device import Array
from cupynn.kernels import conv, conv_depthwise

TENSOR_CORES = "tensor cores"  # the method's name in `conv.METHODS`
# name: channels in, channels out, image side, kernel size, stride, dtype; "TF32" is for tensor cores alone
DENSE = {
    "conv 3x3": [
        (64, 64, 56, 3, 1, "float32"),
        (128, 128, 28, 3, 1, "float32"),
        (256, 256, 14, 3, 1, "float32"),
        (512, 512, 7, 3, 1, "float32"),
        (64, 64, 56, 3, 1, "float16"),
        (256, 256, 14, 3, 1, "float16"),
        (64, 64, 56, 3, 1, "TF32"),
        (256, 256, 14, 3, 1, "TF32"),
    ],
    "conv 7x7/2": [(3, 64, 224, 7, 2, "float32")],
    "conv 1x1": [
        (32, 192, 28, 1, 1, "float32"),
        (192, 32, 28, 1, 1, "float32"),
        (256, 64, 56, 1, 1, "float32"),
        (256, 64, 56, 1, 1, "float16"),
        (256, 64, 56, 1, 1, "TF32"),
    ],
}
DEPTHWISE = [
    (192, 28, 3, 1, "float32"),
    (144, 56, 3, 2, "float32"),
    (240, 28, 5, 1, "float32"),
    (192, 28, 3, 1, "float16"),
]
PASSES = {"forward": (), "input gradient": (0,), "weight gradient": (1,)}


def depthwise(batch: int) -> Iterator[Layer]:
    for channels, side, k, stride, dtype in DEPTHWISE:
        name = f"depthwise {k}x{k}" + (f"/{stride}" if stride > 1 else "")
        yield _layer(name, batch, (channels, channels, side, k, stride, dtype), channels)


def dense(name: str, batch: int) -> Iterator[Layer]:
    for shape in DENSE[name]:
        layer = _layer(name, batch, shape, 1)
        if layer.passes[0].runs:
            yield layer


def _layer(name: str, batch: int, sizes: tuple, groups: int) -> Layer:
    i, o, side, k, stride, dtype = sizes
    stored = stored_as(dtype)
    x, w = normal(batch, i, side, side, dtype=stored), normal(o, i // groups, k, k)
    g = conv.geometry(x.shape, w.shape, stride, k // 2, 1, groups)
    grad, cost = normal(*g.output_shape, dtype=stored), conv.cost(g, size_of(stored))
    methods = {"": conv_depthwise} if groups > 1 else _methods(g, x, dtype)
    passes = []
    for which, wanted in PASSES.items():
        if which == "input gradient" and i == 3:
            continue  # images need none
        runs = {each: partial(_run, which, method, x, w, grad, g) for each, method in methods.items()}
        passes.append(Pass(which, cost[which], runs, wanted))
    options = {"stride": stride, "padding": k // 2, "groups": groups}
    return Layer(name, x.shape, dtype, [x, w], grad, passes, "conv", options)


def _methods(g: conv.Geometry, x: Array, dtype: str) -> dict[str, Any]:
    """The methods that can compute this geometry here; none for TF32 where there are no tensor cores for it."""
    os.environ["CUPYNN_TF32"] = str(int(dtype == "TF32"))
    names = conv.methods(g, x)
    return {name: conv.METHODS[name] for name in names if dtype != "TF32" or name == TENSOR_CORES}


def _run(which: str, method: Any, x, w, grad, g):
    if which == "forward":
        return method.forward(x, w, None, g)
    return method.input_gradient(grad, w, g) if which == "input gradient" else method.weight_gradient(grad, x, w, g)


FAMILIES: dict[str, Callable[[int], Iterator[Layer]]] = {
    "depthwise": depthwise,
    **{name: partial(dense, name) for name in DENSE},
}
