"""Images per second."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

from cupynn import ops
from cupynn.autograd import Tensor, no_grad
from cupynn.device import Array, xp_of
from cupynn.nn import Module
from cupynn.optim import SGD

WARM_UP = 2
LEAST_RUNS, SECONDS = 7, 0.7


def throughput(model: Module, images: Array, labels: Array | None = None) -> float:
    """Images per second of one batch: the median of at least 7 runs, after two that do not count.

    With `labels`, a training step: forward, cross-entropy, backward and SGD with momentum. Without, the forward pass
    in evaluation mode with no gradients. It runs on a copy: the model stays as it is.
    """
    model = copy.deepcopy(model)
    inputs = Tensor(images)
    if labels is None:
        model.eval()

        def run() -> None:
            with no_grad():
                model(inputs)
    else:
        optimizer = SGD(model.train().parameters(), lr=1e-4, momentum=0.9)

        def run() -> None:
            optimizer.zero_grad()
            ops.cross_entropy(model(inputs), labels).backward()
            optimizer.step()

    return len(images) / median_seconds(run, images, LEAST_RUNS, SECONDS)


def median_seconds(run: Callable[[], object], like: Array, least: int, seconds: float) -> float:
    """The median time of `run()` with what it started on the device of `like`; at least `least` runs and `seconds`."""
    times: list[float] = []
    for number in range(WARM_UP + 1000 * least):
        start = time.perf_counter()
        run()
        wait_for(like)
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
        if len(times) >= least and sum(times) >= seconds:
            break
    return statistics.median(times)


def wait_for(array: Array) -> None:
    """Return once the GPU has done what was asked of it; at once for a NumPy array."""
    xp = xp_of(array)
    if xp.__name__ == "cupy":
        xp.cuda.get_current_stream().synchronize()
