"""WHE on 64 channels of 32 x 32 pixels, forward and with its backward pass, beside its floor and PyTorch: as its users
write it, hidden units in memory ("eager"), and the same through torch.compile."""

from __future__ import annotations

from bench.timing import THREADS, take_turns  # first: it sets the threads' environment

# isort: split
import argparse

import numpy as np

from bench import floors
from bench.report import save, table
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
    parser = argparse.ArgumentParser(prog="python -m bench whe", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        import torch

        from bench.peers import torch_whe
    except ImportError:
        torch = None
        print("PyTorch is not installed: no peer is timed (pip install torch)")
    else:
        torch.set_num_threads(int(THREADS))
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
    print(table(rows, f"Batch {options.batch}, float32, {THREADS} threads, {options.rounds} rounds, {ceilings}"))
    if options.json:
        save(options.json, {"bench": "whe", "batch": options.batch, "ceilings": vars(ceilings), "rows": rows})
