"""One windowed SeqConv layer in training, 64 channels of 32 x 32 pixels in groups of k, beside its floor and PyTorch,
where every group concatenates what it sees as in the authors' code."""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench import floors
from bench.command import find_torch, read_options, report
from cupynn import nn, no_grad, tensor
from cupynn.kernels import batch_norm, conv

WIDTH, SIDE = 64, 32
LAYERS = [(16, False), (8, False), (16, True)]  # k, and whether a 1x1 convolution reduces each view


def passes(x: np.ndarray, grad: np.ndarray, k: int, bottleneck: bool) -> dict:
    """{"forward", "forward + backward"}, in training."""
    layer, images = nn.SeqConv2d(WIDTH, WIDTH, k, bottleneck=bottleneck), tensor(x, requires_grad=True)

    def forward():
        with no_grad():
            return layer(images)

    def train():
        images.grad = None
        layer.zero_grad()
        layer(images)[1].backward(grad)

    return {"forward": forward, "forward + backward": train}


def floor(ceilings: floors.Ceilings, shape: tuple[int, ...], k: int, bottleneck: bool) -> dict[str, float]:
    """Seconds: what the convolutions and batch norms of all groups must take, each by itself."""
    units = [(WIDTH, 1), (k, 3)] if bottleneck else [(WIDTH, 3)]
    images, _, height, width = shape
    norm = batch_norm.cost((images, k, height, width), relu=True)
    seconds = {"forward": ceilings.seconds(norm["forward_train"]), "backward": ceilings.seconds(norm["backward_train"])}
    seconds = {name: value * len(units) for name, value in seconds.items()}
    for channels, kernel_size in units:
        g = conv.geometry(
            (images, channels, height, width), (k, channels, kernel_size, kernel_size), 1, kernel_size // 2
        )
        for which, cost in conv.cost(g).items():
            seconds["forward" if which == "forward" else "backward"] += ceilings.seconds(cost)
    groups = WIDTH // k
    return {"forward": groups * seconds["forward"], "forward + backward": groups * sum(seconds.values())}


def main(arguments: list[str]) -> None:
    options = read_options("seq_conv", __doc__, arguments, batch=128, rounds=9)
    torch = find_torch()
    if torch:
        from bench.peers import torch_seq_conv
    ceilings = floors.measure()
    rng, rows = np.random.default_rng(0), []
    for k, bottleneck in LAYERS:
        x, grad = rng.standard_normal((2, options.batch, WIDTH, SIDE, SIDE), np.float32)
        least = floor(ceilings, x.shape, k, bottleneck)
        theirs = torch_seq_conv.passes(x, grad, k, bottleneck) if torch else {}
        for name, run in passes(x, grad, k, bottleneck).items():
            times = take_turns({"cupynn": run, **({"PyTorch": theirs[name]} if torch else {})}, options.rounds)
            ours = times["cupynn"]
            layer = f"WSeqConv{'B' if bottleneck else ''} k = {k}"
            row = {"layer": layer, "pass": name, "cupynn ms": ours.median * 1e3, "floor ms": least[name] * 1e3}
            row["of floor"] = least[name] / ours.median
            if torch:
                row["PyTorch ms"], row["to PyTorch"] = times["PyTorch"].median * 1e3, ours.over(times["PyTorch"])
            rows.append(row)
    report(options, f"Batch {options.batch}, {WIDTH} x {SIDE}x{SIDE}", rows, ceilings)
