"""Schedules: the factor on a learning rate, or a weight decay itself, epoch by epoch.

    schedule = MultiStep(milestones=(50, 100))
    for epoch in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * schedule(epoch)

A schedule is a function of the epoch alone and keeps no state, so a run can be taken up anywhere. The epoch counts
from 0 and may have a fraction, for schedules that move within an epoch: epoch + batch / batches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass


def _need(ok: bool, schedule: str, text: str) -> None:
    if not ok:
        raise ValueError(f"{schedule}: {text}")


@dataclass(frozen=True)
class Step:
    """factor ** floor(epoch / every)."""

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _need(self.every > 0, "Step", f"every must be > 0; got {self.every!r}")

    def __call__(self, epoch: float) -> float:
        return self.factor ** (epoch // self.every)


@dataclass(frozen=True)
class MultiStep:
    """factor ** (number of milestones reached): a milestone counts from its own epoch on."""

    milestones: tuple[float, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        ascending = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        _need(ascending, "MultiStep", f"milestones must ascend; got {self.milestones}")

    def __call__(self, epoch: float) -> float:
        return self.factor ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class Cosine:
    """(1 + cos(pi t)) / 2 with t from 0 to 1, after a linear warm-up. [Loshchilov and Hutter 2017, eq. 5]

    `epochs` is the whole run's length: t = (epoch - warm_up) / (epochs - warm_up), and the factor stays 0 behind it.
    In the first `warm_up` epochs the factor rises linearly from `warm_up_from` to 1.
    """

    epochs: float
    warm_up: float = 0
    warm_up_from: float = 0.1

    def __post_init__(self) -> None:
        _need(
            0 <= self.warm_up < self.epochs,
            "Cosine",
            f"warm_up must be >= 0 and less than epochs; got warm_up={self.warm_up}, epochs={self.epochs}",
        )

    def __call__(self, epoch: float) -> float:
        if epoch < self.warm_up:
            return self.warm_up_from + (1 - self.warm_up_from) * epoch / self.warm_up
        t = min((epoch - self.warm_up) / (self.epochs - self.warm_up), 1.0)
        return (1 + math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class WarmUp:
    """`schedule` times a factor that rises linearly from `start` to 1 in the first `epochs` epochs."""

    schedule: Callable[[float], float]
    epochs: float
    start: float = 0.1

    def __post_init__(self) -> None:
        _need(self.epochs >= 0, "WarmUp", f"epochs must be >= 0; got {self.epochs!r}")

    def __call__(self, epoch: float) -> float:
        rise = self.start + (1 - self.start) * epoch / self.epochs if epoch < self.epochs else 1.0
        return rise * self.schedule(epoch)


@dataclass(frozen=True)
class Piecewise:
    """A value from each of some epochs on: steps ((0, 1e-6), (80, 1e-5)) give 1e-6 in epochs 0 to 79, then 1e-5."""

    steps: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(tuple(step) for step in self.steps))
        epochs = [epoch for epoch, _ in self.steps]
        ascending = epochs[:1] == [0] and all(a < b for a, b in itertools.pairwise(epochs))
        _need(ascending, "Piecewise", f"the epochs of steps must start at 0 and ascend; got {self.steps}")

    def __call__(self, epoch: float) -> float:
        return next(value for start, value in reversed(self.steps) if epoch >= start)
