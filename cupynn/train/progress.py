"""How far a run has come."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Progress:
    """The place in the data, and what has been added up on the way.

    epoch: epochs that are done, so also the number of the one at hand, counted from 0. step: its steps that are done.
    images, loss, hits: sums over these steps, see `RunningScore`. seconds: the time they took.
    loss_scale, good_steps: of a run in float16, see `cupynn.optim.LossScale`; 0 of others.
    best_accuracy, best_epoch: of the best epoch so far by test accuracy, the first of equals, counted from 1; 0 before.
    """

    epoch: int = 0
    step: int = 0
    images: int = 0
    loss: float = 0.0
    hits: int = 0
    seconds: float = 0.0
    loss_scale: float = 0.0
    good_steps: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = 0

    def next_epoch(self) -> None:
        """The epoch at hand is done."""
        self.epoch += 1
        self.step, self.images, self.loss, self.hits, self.seconds = 0, 0, 0.0, 0, 0.0

    def __str__(self) -> str:
        return f"{self.epoch} epochs and {self.step} steps" if self.step else f"{self.epoch} epochs"
