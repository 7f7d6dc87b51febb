"""Depthwise convolutions of MobileNet's kinds, forward and backward, beside their floor and PyTorch (oneDNN)."""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench import floors
from bench.command import find_torch, read_options, report
from cupynn.kernels import conv, depthwise

SHAPES = [(32, 32), (128, 16), (256, 8)]  # channels and image side
KERNELS = [(3, 1), (3, 2), (5, 1), (5, 2)]  # size and stride
BAR = 1.0


def contenders(channels: int, side: int, k: int, stride: int, batch: int, torch) -> tuple[conv.Geometry, dict, dict]:
    """The geometry, and per contender its forward and its backward pass (to input, weight and bias)."""
    rng, padding = np.random.default_rng(0), k // 2
    shapes = (batch, channels, side, side), (channels, 1, k, k), (channels,)
    x, w, bias = (rng.standard_normal(s, np.float32) for s in shapes)
    g = conv.geometry(x.shape, w.shape, stride, padding, groups=channels)
    grad = rng.standard_normal(g.output_shape, np.float32)
    forward = {"cupynn": lambda: depthwise.forward(x, w, bias, stride, padding)}
    backward = {"cupynn": lambda: depthwise.backward(grad, x, w, stride, padding)}
    if torch:
        tx, tw, tb, tg = (torch.from_numpy(a) for a in (x, w, bias, grad))
        sizes = [stride, stride], [padding, padding], [1, 1], False, [0, 0], channels
        forward["PyTorch"] = lambda: torch.nn.functional.conv2d(tx, tw, tb, stride, padding, groups=channels)
        backward["PyTorch"] = lambda: torch.ops.aten.convolution_backward(tg, tx, tw, [channels], *sizes, [True] * 3)
    return g, forward, backward


def main(arguments: list[str]) -> None:
    options = read_options("depthwise", __doc__, arguments, batch=64, rounds=15)
    torch = find_torch()
    ceilings = floors.measure()
    rows = []
    for channels, side in SHAPES:
        for k, stride in KERNELS:
            g, forward, backward = contenders(channels, side, k, stride, options.batch, torch)
            cost = depthwise.cost(g)
            parts = {"forward": (forward, ["forward"]), "backward": (backward, ["input gradient", "weight gradient"])}
            for part, (runs, passes) in parts.items():
                times = take_turns(runs, options.rounds)
                floor, ours = sum(ceilings.seconds(cost[which]) for which in passes), times["cupynn"]
                row = {"channels, side": f"{channels} x {side}x{side}", "kernel": f"{k}x{k}", "stride": stride}
                row |= {"pass": part, "cupynn ms": ours.median * 1e3, "floor ms": floor * 1e3}
                row["of floor"] = floor / ours.median
                if torch:
                    row["PyTorch ms"] = times["PyTorch"].median * 1e3
                    row["ratio"], row["bar"] = ours.over(times["PyTorch"]), BAR
                rows.append(row)
    report(options, f"Batch {options.batch}", rows, ceilings)
