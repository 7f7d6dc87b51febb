"""What this machine can do at most, measured in the same run by `ceilings.cu`: bytes per second of a copy, operations
per second of multiply-adds on registers. A kernel's floor is the longer of its bytes at the one rate and its operations
at the other."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cupynn.device import default_device
from cupynn.kernels import runtime

SOURCE = pathlib.Path(__file__).with_name("ceilings.cu")


@dataclass(frozen=True)
class Ceilings:
    """Rates of this machine with the threads of this process, float32."""

    bytes_per_second: float
    operations_per_second: float

    def seconds(self, cost: tuple[int, int]) -> float:
        """The shortest time in which (bytes, operations) can be done."""
        return max(cost[0] / self.bytes_per_second, cost[1] / self.operations_per_second)

    def __str__(self) -> str:
        rates = self.bytes_per_second / 1e9, self.operations_per_second / 1e9
        return "ceilings {:.0f} GB/s and {:.0f} GFLOP/s".format(*rates)


def measure() -> Ceilings:
    """Best of several runs on the CPU: a ceiling is what the machine can do, not what it usually does.

    The copy moves 16 MB, as one batch of activations does: it may stay in a large last-level cache.
    """
    blocks, steps, chains, span = 64, 20_000, 16, 1 << 15
    lanes = runtime.vector_bytes(np.float32(0)) // 4
    source, target = np.ones((2, blocks * span), np.float32)
    sums = np.empty(blocks, np.float32)

    def copy() -> None:
        runtime.launch(SOURCE, "copy<float>", blocks, 1, (source, target, span))

    def multiply_add() -> None:
        kernel = f"multiply_add<float, {lanes}, {chains}>"
        runtime.launch(SOURCE, kernel, blocks, 1, (sums, steps, np.float32(0.5)))

    operations = 2 * blocks * steps * chains * lanes
    return Ceilings(2 * source.nbytes / _shortest(copy), operations / _shortest(multiply_add))


def measure_where_kernels_run() -> Ceilings | None:
    """As `measure`; None on a GPU, where ceilings are not measured, and where kernels are not compiled."""
    compiled = runtime.mode() == "compiled" and runtime.compiled_for(np.empty(0, np.float32))
    return measure() if compiled and default_device() == "cpu" else None


def _shortest(run: Callable[[], None], rounds: int = 18) -> float:
    """Seconds of the fastest run but the first, which compiles."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
