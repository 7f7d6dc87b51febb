"""Times that can be compared on a machine that other programs use too: contenders take turns.

Absolute times drift by tens of percent, so one round runs each contender once, in rotating order, and the ratio of two
is the median over rounds of their ratio within the round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, one entry per round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: Times) -> float:
        """Median of the ratios within rounds."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int = 15, warm_up: int = 3) -> dict[str, Times]:
    """Run every contender once per round, in rotating order. A contender on a GPU waits for it before it returns."""
    for run in contenders.values():
        for _ in range(warm_up):
            run()
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: Times(values) for name, values in seconds.items()}
