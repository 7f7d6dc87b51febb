"""Training steps in float16 and bfloat16 beside float32's, as `cupynn train --precision` takes them: time, and tape.

The tape is what a step keeps between its two passes. A step in float16 scales the loss and looks for gradients that are
not finite.
"""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import importlib.util

import numpy as np

from bench.command import read_options, report
from bench.networks.cases import CASES, batch_of

NETWORKS = ("SmallNet-7", "ResNet-20", "MobileNetV2")


def steps_of(name: str, precision: str, images: np.ndarray, labels: np.ndarray):
    """A function that takes a training step, and the bytes of its tape."""
    import cupynn
    from cupynn.device import dtype_named
    from cupynn.distributed import World
    from cupynn.train import Settings
    from cupynn.train.descent import Descent

    cupynn.manual_seed(0)
    model = CASES[name].ours().train()
    descent = Descent(model, Settings(lr=0.01, precision=precision), None, World())
    loss = cupynn.ops.cross_entropy(model(cupynn.Tensor(images.astype(dtype_named(precision)))), labels)
    saved = cupynn.autograd.tape(loss).saved_bytes
    return lambda: descent.step(images, labels, 0.0, watch=False), saved


def main(arguments: list[str]) -> None:
    options = read_options("precision", __doc__, arguments, batch=32, rounds=15)
    precisions = ["float32", "float16"]
    if importlib.util.find_spec("ml_dtypes"):
        precisions.append("bfloat16")
    rows = []
    for name in NETWORKS:
        contenders = {one: steps_of(name, one, *batch_of(options.batch)) for one in precisions}
        times = take_turns({one: step for one, (step, _) in contenders.items()}, options.rounds)
        for one, (_, saved) in contenders.items():
            row = {"network": name, "precision": one, "ms": times[one].median * 1e3, "tape MB": saved / 1e6}
            if one != "float32":
                row["time ratio"] = times[one].over(times["float32"])
                row["tape ratio"] = saved / contenders["float32"][1]
            rows.append(row)
    report(options, f"One training step, batch {options.batch}", rows, precision="parameters in float32")
