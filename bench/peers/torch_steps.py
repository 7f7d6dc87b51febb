"""What a network in PyTorch does, over and over: a training step, an inference batch; and loading our weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def training_step(model: nn.Module, images, labels):
    """A function that takes one step of SGD with momentum. `model` may have been compiled."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    model.train()

    def step():
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def inference(model: nn.Module, images):
    """A function that computes the logits of a batch."""
    images = torch.from_numpy(images)
    model.eval()

    def infer():
        with torch.inference_mode():
            return model(images)

    return infer


def load(model: nn.Module, state: dict[str, np.ndarray]) -> None:
    """Give `model` the arrays of our network's state, which stand in the same order; shapes may differ in how numbers
    are laid out over axes, as a cross-layer weight (layers, channels) and a batch norm's (layers * channels) do.

    Raises ValueError where there are more arrays in one than in the other, or of other sizes.
    """
    own = [array for name, array in model.state_dict().items() if not name.endswith("num_batches_tracked")]
    given = {name: array for name, array in state.items() if not name.endswith("num_batches_tracked")}
    sizes, wanted = [array.size for array in given.values()], [tensor.numel() for tensor in own]
    if sizes != wanted:
        raise ValueError(f"load: the network has arrays of sizes {sizes}, its peer of {wanted}")
    with torch.no_grad():
        for tensor, array in zip(own, given.values(), strict=True):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(tensor.shape))
