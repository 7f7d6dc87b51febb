"""The recipe of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from cupynn.data import HorizontalFlip, RandomCrop, Transform
from cupynn.optim import schedules

SCHEDULES = ("constant", "cosine", "multistep")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Stochastic gradient descent with momentum, batch by batch.

    schedule: the factor on `lr`: "constant" is 1; "cosine" falls from 1 to 0 over the run, batch by batch;
        "multistep" is a tenth less from each epoch of `milestones` on (epochs count from 0).
    crop: pixels of black border for random crops; 0 for none. flip: mirror half of the images, at random.
    seed: of order, augmentation and dropout. The weights are drawn before, when the model is made.

    Raises ValueError for values out of range.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    crop: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {
            "epochs": 1,
            "batch_size": 1,
            "momentum": 0,
            "weight_decay": 0,
            "crop": 0,
            "seed": 0,
        }.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"Settings: {name} must be at least {least}; got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"Settings: lr must be above 0 and finite; got {self.lr}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("Settings: nesterov needs momentum above 0; momentum is 0")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Settings: schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}")
        if (self.schedule == "multistep") != bool(self.milestones):
            raise ValueError(
                f'Settings: milestones belong to schedule "multistep"; got schedule={self.schedule!r}, '
                f"milestones={self.milestones}"
            )

    def lr_factor(self) -> Callable[[float], float]:
        """The schedule as a function of the epoch, which may have a fraction."""
        if self.schedule == "cosine":
            return schedules.Cosine(self.epochs)
        return schedules.MultiStep(self.milestones)  # no milestones: constant

    def transforms(self) -> list[Transform]:
        """The random changes of training images."""
        crop = [RandomCrop(self.crop)] if self.crop else []
        return crop + [HorizontalFlip()] * self.flip
