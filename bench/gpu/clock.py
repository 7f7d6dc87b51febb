"""Times on the current GPU, by CUDA events.

Kernels: before each run the second-level cache is filled with other bytes ("L2-flushed"), and that goes on until the
host has had time to issue the whole run, so that what is between the events is the GPU's work and not Python's. Steps:
nothing is flushed and nothing hides Python, as in training; a turn is a few steps one after another. Contenders take
turns, in rotating order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from bench.timing import Times

MOST_FILLS, STEPS = 2000, 3
HOW = "CUDA events, median of rounds in which contenders take turns; L2 flushed before every run of a kernel"
HOW += f"; a turn of a network is {STEPS} steps"


class Clock:
    """Events on CuPy's current stream, which is PyTorch's too: both work on the device's default stream."""

    def __init__(self) -> None:
        import cupy

        self._cuda = cupy.cuda
        size = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["l2CacheSize"]
        self._other = cupy.empty(max(2 * size, 1 << 20), "uint8")
        self._fill_seconds = min(self._timed(self._fill) for _ in range(5))

    def kernels(self, contenders: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, Times]:
        """Times of each contender with a flushed cache. After `seconds` no further round begins, but three are run."""
        fills = {name: self._fills(run) for name, run in contenders.items()}
        return self._rounds(contenders, fills, rounds, seconds)

    def steps(self, contenders: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, Times]:
        """The same of training steps, without flushing."""

        def turn(run: Callable[[], object]) -> None:
            for _ in range(STEPS):
                run()

        turns = {name: partial(turn, run) for name, run in contenders.items()}
        for run in contenders.values():
            run()
        times = self._rounds(turns, dict.fromkeys(turns, 0), rounds, seconds)
        return {name: Times([one / STEPS for one in each.seconds]) for name, each in times.items()}

    def wait(self) -> None:
        self._cuda.get_current_stream().synchronize()

    def _rounds(self, contenders: dict, fills: dict[str, int], rounds: int, limit: float) -> dict[str, Times]:
        names, seconds = list(contenders), {name: [] for name in contenders}
        begin = time.perf_counter()
        for number in range(rounds):
            if number >= 3 and time.perf_counter() - begin > limit:
                break
            for name in names[number % len(names) :] + names[: number % len(names)]:
                seconds[name].append(self._timed(contenders[name], fills[name]))
        return {name: Times(values) for name, values in seconds.items()}

    def _timed(self, run: Callable[[], object], fills: int = 0) -> float:
        start, stop = self._cuda.Event(), self._cuda.Event()
        for _ in range(fills):
            self._fill()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return self._cuda.get_elapsed_time(start, stop) / 1e3

    def _fills(self, run: Callable[[], object]) -> int:
        """How often to fill the cache before `run`, which is run three times: the first compiles."""
        host = []
        for _ in range(3):
            self.wait()
            begin = time.perf_counter()
            run()
            host.append(time.perf_counter() - begin)
        self.wait()
        return min(MOST_FILLS, 1 + math.ceil(1.5 * min(host) / max(self._fill_seconds, 1e-6)))

    def _fill(self) -> None:
        self._other.fill(0)
