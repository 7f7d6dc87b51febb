"""How good a network is on a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cupynn import ops
from cupynn.autograd import Tensor, no_grad
from cupynn.data import Dataset, batches
from cupynn.device import Array
from cupynn.distributed import World, deal
from cupynn.nn import Module
from cupynn.nn.evaluation import evaluation_mode
from cupynn.train.confusion import Confusion


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and the share of images (0..1) whose largest logit is their class's."""

    loss: float
    accuracy: float


class RunningScore:
    """Adds up losses and hits where the arrays are; `score` waits for the device only when it is asked."""

    def __init__(self, images: int = 0, loss: float = 0.0, hits: int = 0) -> None:
        self.images = images
        self._loss = loss
        self._hits = hits

    def add(self, loss: Tensor, logits: Tensor, labels: Array) -> None:
        """Count one batch: its mean loss, its logits (N, K), its labels (N,)."""
        self.images += len(labels)
        self._loss = self._loss + loss.data.astype("float64") * len(labels)
        self._hits = self._hits + (logits.data.argmax(axis=1) == labels).sum()

    def sums(self) -> tuple[int, float, int]:
        """Images, the sum of their losses, and hits: what a new one can go on from."""
        return self.images, float(self._loss), int(self._hits)

    def over(self, world: World) -> RunningScore:
        """What all ranks have counted together."""
        images, loss, hits = world.total(*self.sums())
        return RunningScore(int(images), loss, int(hits))

    def score(self) -> Score:
        """Over all batches so far; NaN where there were none."""
        if not self.images:
            return Score(math.nan, math.nan)
        return Score(float(self._loss) / self.images, int(self._hits) / self.images)


def evaluate(
    model: Module,
    dataset: Dataset,
    batch_size: int = 250,
    confusion: Confusion | None = None,
    world: World | None = None,
    workers: int = 0,
) -> Score:
    """Loss and accuracy over a whole set, in evaluation mode; the model is left in the mode it was in.

    confusion: counts which class is taken for which. The model must be on the default device, where batches are made.
    The ranks of `world`, which hold the same model, share the batches, and all get the score; `confusion` counts this
    rank's batches only. workers: threads that read batches ahead; they change no number.
    """
    world = world or World()
    running = RunningScore()
    with no_grad(), evaluation_mode(model):
        for images, labels in deal(batches(dataset, batch_size, workers=workers), world):
            logits = model(Tensor(images))
            if confusion is not None:
                confusion.add(logits.data, labels)
            running.add(ops.cross_entropy(logits, labels), logits, labels)
    return running.over(world).score()
