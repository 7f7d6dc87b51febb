"""Convolutions of SmallNet's, ResNets' and MobileNetV2's shapes, beside their floor and PyTorch (oneDNN).

The floor counts a direct convolution's products. Winograd's method needs fewer and may take less time than it.
"""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench import floors
from bench.command import find_torch, read_options, report
from cupynn.kernels import conv

# name: channels in, channels out, image side, kernel, stride, padding
SHAPES = {
    "SmallNet-7 first": (3, 8, 32, 7, 1, 3),
    "SmallNet-7 second": (8, 16, 16, 7, 1, 3),
    "SmallNet-7 third": (16, 32, 8, 7, 1, 3),
    "SmallNet-3 first": (3, 8, 32, 3, 1, 0),
    "SmallNet-3 second": (8, 16, 15, 3, 1, 0),
    "SmallNet-3 third": (16, 32, 6, 3, 1, 0),
    "ResNet-20 stem": (3, 16, 32, 3, 1, 1),
    "ResNet-20 stage 1": (16, 16, 32, 3, 1, 1),
    "ResNet-20 to stage 2": (16, 32, 32, 3, 2, 1),
    "ResNet-20 stage 2": (32, 32, 16, 3, 1, 1),
    "ResNet-20 to stage 3": (32, 64, 16, 3, 2, 1),
    "ResNet-20 stage 3": (64, 64, 8, 3, 1, 1),
    "ResNet-18 stage 1": (64, 64, 56, 3, 1, 1),
    "ResNet-18 stage 2": (128, 128, 28, 3, 1, 1),
    "ResNet-18 stage 3": (256, 256, 14, 3, 1, 1),
    "ResNet-18 stage 4": (512, 512, 7, 3, 1, 1),
    "MobileNetV2 32x32 expand": (24, 144, 32, 1, 1, 0),
    "MobileNetV2 32x32 project": (144, 24, 32, 1, 1, 0),
    "MobileNetV2 16x16 expand": (32, 192, 16, 1, 1, 0),
    "MobileNetV2 16x16 project": (192, 32, 16, 1, 1, 0),
    "MobileNetV2 8x8 expand": (96, 576, 8, 1, 1, 0),
    "MobileNetV2 8x8 project": (576, 96, 8, 1, 1, 0),
    "MobileNetV2 4x4 expand": (160, 960, 4, 1, 1, 0),
    "MobileNetV2 4x4 project": (960, 320, 4, 1, 1, 0),
    "ResNet-50 7x7 expand": (512, 2048, 7, 1, 1, 0),
    "ResNet-50 to stage 2": (256, 512, 56, 1, 2, 0),
}
BAR = 1.3


def contenders(shape: tuple[int, ...], batch: int, torch) -> tuple[conv.Geometry, dict, dict]:
    """The geometry, and per contender its forward and its backward pass (to input, weight and bias)."""
    c, o, side, k, stride, padding = shape
    rng = np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(s, np.float32) for s in ((batch, c, side, side), (o, c, k, k), (o,)))
    g = conv.geometry(x.shape, w.shape, stride, padding)
    grad = rng.standard_normal(g.output_shape, np.float32)
    first = c == 3  # the images of a first layer need no gradient
    needs = (not first, True, True)
    forward = {"cupynn": lambda: conv.forward(x, w, bias, stride, padding)}
    backward = {"cupynn": lambda: conv.backward(grad, x, w, stride, padding, needs=needs)}
    if torch:
        tx, tw, tb, tg = (torch.from_numpy(a) for a in (x, w, bias, grad))
        pair, pad = [stride, stride], [padding, padding]
        forward["PyTorch"] = lambda: torch.nn.functional.conv2d(tx, tw, tb, stride, padding)
        backward["PyTorch"] = lambda: torch.ops.aten.convolution_backward(
            tg, tx, tw, [o], pair, pad, [1, 1], False, [0, 0], 1, list(needs)
        )
    return g, forward, backward


def main(arguments: list[str]) -> None:
    options = read_options("conv", __doc__, arguments, batch=128, rounds=25)
    torch = find_torch()
    ceilings = floors.measure()
    rows = []
    for name, shape in SHAPES.items():
        g, forward, backward = contenders(shape, options.batch, torch)
        cost = conv.cost(g)
        parts = {"forward": (forward, ["forward"]), "backward": (backward, ["input gradient", "weight gradient"])}
        for part, (runs, passes) in parts.items():
            passes = passes[1:] if part == "backward" and g.c == 3 else passes
            times = take_turns(runs, options.rounds)
            floor = sum(ceilings.seconds(cost[which]) for which in passes)
            ours = times["cupynn"]
            row = {"convolution": name, "pass": part, "cupynn ms": ours.median * 1e3, "floor ms": floor * 1e3}
            row["of floor"] = floor / ours.median
            if torch:
                row["PyTorch ms"] = times["PyTorch"].median * 1e3
                row["ratio"], row["bar"] = ours.over(times["PyTorch"]), BAR
            rows.append(row)
    report(options, f"Batch {options.batch}", rows, ceilings)
