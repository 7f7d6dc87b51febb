"""WHE on 64 channels of 32 x 32 pixels, forward and with its backward pass, beside its floor and PyTorch: as its users
write it, hidden units in memory ("eager"), and the same through torch.compile."""

from __future__ import annotations

from bench import plain_malloc  # noqa: F401
from bench.timing import take_turns  # first: they set the environment

# isort: split

import numpy as np

from bench import floors
from bench.command import find_torch, read_options, report
from cupynn import no_grad, ops, tensor
from cupynn.kernels import whe

CHANNELS, SIDE = 64, 32
GROUP_SIZES = (16, 8, 4)
BARS = {"eager": 20.0, "compile": 1.0}  # how many times as fast as each contender we want to be


def passes(x: np.ndarray, grad: np.ndarray, weights: np.ndarray) -> dict:
    """{"forward", "forward + backward"}, on tensors."""
    inputs = [tensor(array, requires_grad=True) for array in (x, *weights)]

    def infer():
        with no_grad():
            return ops.whe(*inputs)

    def train():
        for value in inputs:
            value.grad = None
        ops.whe(*inputs).backward(grad)

    return {"forward": infer, "forward + backward": train}


def main(arguments: list[str]) -> None:
    options = read_options("whe", __doc__, arguments, batch=32, rounds=9)
    torch = find_torch()
    if torch:
        from bench.peers import torch_whe
    ceilings = floors.measure()
    rng, rows = np.random.default_rng(0), []
    for g in GROUP_SIZES:
        x, grad = rng.standard_normal((2, options.batch, CHANNELS, SIDE, SIDE), np.float32)
        weights = rng.uniform(-0.1, 0.1, (4, CHANNELS // g, g, g)).astype(np.float32)
        ours, cost = passes(x, grad, weights), whe.cost(x.shape, g)
        theirs = torch_whe.passes(x, grad, weights) if torch else {}
        for name, run in ours.items():
            times = take_turns({"cupynn": run, **theirs.get(name, {})}, options.rounds)
            floor = ceilings.seconds(cost["forward"])
            if name != "forward":
                floor += ceilings.seconds(cost["backward"])
            mine = times.pop("cupynn")
            row = {"WHE": f"g = {g}", "pass": name, "cupynn ms": mine.median * 1e3, "floor ms": floor * 1e3}
            row["of floor"] = floor / mine.median
            for peer, time in times.items():
                row[f"{peer} ms"], row[f"{peer} / cupynn"] = time.median * 1e3, time.over(mine)
                row[f"{peer} bar"] = BARS[peer]
            rows.append(row)
    report(options, f"Batch {options.batch}", rows, ceilings)
