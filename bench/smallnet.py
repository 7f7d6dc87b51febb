"""SmallNet with 7x7 kernels: one training step at batch 128, plain and expanded, beside PyTorch's.

cupynn trains the expanded networks through the contracted kernel; PyTorch runs them layer by layer, as the paper's
authors do. The bars are the project's own.
"""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench.command import find_torch, read_options, report

CASES = {
    "plain": ({}, 1.0),
    "CK rate 4": ({"expand": "ck", "rate": 4}, 0.22),
    "CL rate 4": ({"expand": "cl", "rate": 4}, 0.13),
}


def our_step(options: dict, images: np.ndarray, labels: np.ndarray):
    """A function that takes one step of SGD with momentum."""
    import cupynn

    model = cupynn.models.create("smallnet", kernel_size=7, **options)
    model.train()
    optimiser = cupynn.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step():
        optimiser.zero_grad()
        loss = cupynn.ops.cross_entropy(model(cupynn.Tensor(images)), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def main(arguments: list[str]) -> None:
    options = read_options("smallnet", __doc__, arguments, batch=128, rounds=25)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((options.batch, 3, 32, 32), dtype=np.float32)
    labels = rng.integers(0, 10, options.batch)
    torch = find_torch()
    if torch:
        from bench.peers.torch_smallnet import smallnet
        from bench.peers.torch_steps import training_step
    rows = []
    for name, (choice, bar) in CASES.items():
        contenders = {"cupynn": our_step(choice, images, labels)}
        if torch:
            contenders["PyTorch"] = training_step(smallnet(7, **choice), images, labels)
        times = take_turns(contenders, options.rounds)
        row = {"network": f"SmallNet-7 {name}", "cupynn ms": times["cupynn"].median * 1e3}
        if torch:
            row["PyTorch ms"] = times["PyTorch"].median * 1e3
            row["ratio"], row["bar"] = times["cupynn"].over(times["PyTorch"]), bar
        rows.append(row)
    report(options, f"One training step, batch {options.batch}", rows)
