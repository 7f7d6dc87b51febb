"""Steps to be profiled: one of training, and inference, on random images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cupynn import ops
from cupynn.autograd import Tensor, no_grad
from cupynn.device import Array, asarray
from cupynn.nn import Module
from cupynn.optim import SGD

TINY = 2  # images that leave Python alone: batch norm needs more than one value


def training(model: Module, shape: tuple[int, ...], batch: int) -> Callable[[], None]:
    """One step of SGD with momentum on random images with random labels."""
    optimiser = SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images, rng = _images(shape, batch)
    classes = inference(model, shape, TINY)().shape[1]
    labels = asarray(rng.integers(0, classes, batch))
    model.train()

    def step() -> None:
        optimiser.zero_grad()
        loss = ops.cross_entropy(model(Tensor(images)), labels)
        loss.backward()
        optimiser.step()

    return step


def inference(model: Module, shape: tuple[int, ...], batch: int) -> Callable[[], Tensor]:
    """Forward only."""
    images, _ = _images(shape, batch)
    model.eval()

    def step() -> Tensor:
        with no_grad():
            return model(Tensor(images))

    return step


def _images(shape: tuple[int, ...], batch: int) -> tuple[Array, np.random.Generator]:
    rng = np.random.default_rng(0)
    return asarray(rng.standard_normal((batch, *shape), dtype=np.float32)), rng
