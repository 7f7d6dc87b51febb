"""What a network of ours does, over and over: a training step, an inference batch."""

from __future__ import annotations

import numpy as np

import cupynn
from cupynn import Tensor, no_grad, ops


def training_step(model, images: np.ndarray, labels: np.ndarray):
    """A function that takes one step of SGD with momentum."""
    optimiser = cupynn.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9)

    def step():
        optimiser.zero_grad()
        loss = ops.cross_entropy(model(Tensor(images)), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def inference(model, images: np.ndarray):
    """A function that computes the logits of a batch; an expanded network is contracted."""
    if model.creation["options"].get("expand"):
        model = cupynn.contract(model)
    model.eval()

    def infer():
        with no_grad():
            return model(Tensor(images))

    return infer
