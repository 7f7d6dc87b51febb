"""Cross-layer depthwise convolution of 16 layers, beside its floor, PyTorch (stack, multiply, sum) and its compiler."""

from __future__ import annotations

from bench import plain_malloc  # noqa: F401
from bench.timing import take_turns  # first: they set the environment

# isort: split

import numpy as np

from bench import floors
from bench.command import find_torch, read_options, report
from cupynn import ops
from cupynn.autograd import tensor
from cupynn.kernels import cross_layer

SHAPES = [(64, 32), (128, 16), (256, 8)]  # channels and image side: DelugeNet-146's composite outputs
LAYERS = 16
BARS = {"PyTorch": 1 / 3, "compile": 1.0}


def contenders(channels: int, side: int, batch: int, torch) -> dict[str, dict]:
    """Per pass, what each contender runs. Backward includes forward, and gives gradients to all inputs."""
    rng = np.random.default_rng(0)
    shape = (batch, channels, side, side)
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(LAYERS)]
    weight, grad = rng.standard_normal((LAYERS, channels), np.float32), rng.standard_normal(shape, np.float32)
    bias = np.zeros(channels, np.float32)

    def ours():
        leaves = [tensor(a, requires_grad=True) for a in (weight, bias, *arrays)]
        ops.cross_layer_depthwise(leaves[2:], *leaves[:2]).backward(grad)

    forward = {"cupynn": lambda: ops.cross_layer_depthwise(arrays, weight, bias)}
    backward = {"cupynn": ours}
    if torch:
        given = [torch.from_numpy(a) for a in (weight, bias, *arrays)]
        tgrad = torch.from_numpy(grad)

        def stacked(weight, bias, *arrays):
            return (torch.stack(arrays) * weight[:, None, :, None, None]).sum(0) + bias[:, None, None]

        def theirs(function):
            leaves = [t.detach().requires_grad_() for t in given]
            function(*leaves).backward(tgrad)

        for name, function in {"PyTorch": stacked, "compile": torch.compile(stacked)}.items():
            forward[name] = lambda function=function: function(*given)
            backward[name] = lambda function=function: theirs(function)
    return {"forward": forward, "forward, backward": backward}


def main(arguments: list[str]) -> None:
    options = read_options("cross_layer", __doc__, arguments, batch=32, rounds=11)
    torch = find_torch()
    ceilings = floors.measure()
    rows = []
    for channels, side in SHAPES:
        cost = cross_layer.cost(LAYERS, (options.batch, channels, side, side))
        floor = {"forward": ceilings.seconds(cost["forward"])}
        floor["forward, backward"] = floor["forward"] + ceilings.seconds(cost["backward"])
        for part, runs in contenders(channels, side, options.batch, torch).items():
            times = take_turns(runs, options.rounds)
            ours = times["cupynn"]
            row = {"channels, side": f"{channels} x {side}x{side}", "pass": part, "cupynn ms": ours.median * 1e3}
            row["floor ms"], row["of floor"] = floor[part] * 1e3, floor[part] / ours.median
            for peer, bar in BARS.items() if torch else ():
                row |= {f"{peer} ms": times[peer].median * 1e3, f"to {peer}": ours.over(times[peer])}
                row[f"bar {peer}"] = bar
            rows.append(row)
    report(options, f"{LAYERS} layers, batch {options.batch}", rows, ceilings)
