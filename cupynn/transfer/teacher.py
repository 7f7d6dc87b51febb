"""A trained network that others learn from."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from cupynn import serialization
from cupynn.autograd import Tensor, no_grad
from cupynn.device import Array
from cupynn.nn import Module
from cupynn.nn.evaluation import evaluation_mode
from cupynn.transfer.features import Outputs, recorded_outputs


class Teacher:
    """`model` as it is, in evaluation mode and without a graph: it learns nothing, and its statistics stay.

    layers: dotted names of its modules whose outputs are wanted too. The model is left in the mode it was in. It is
    no part of a student: `parameters()`, checkpoints and `train()` of one know nothing of it.

    Raises ValueError for a name the model has not.
    """

    def __init__(self, model: Module, layers: Sequence[str] = ()):
        self.model, self.layers = model, tuple(layers)
        with recorded_outputs(model, self.layers):  # raises for unknown names
            pass

    @classmethod
    def load(cls, path: str | os.PathLike, layers: Sequence[str] = ()) -> Teacher:
        """The network of a run folder, as it was after the last epoch, or of a file that `cupynn.save` wrote.

        It has to get its images normalised as they were in its own training.
        Raises FileNotFoundError and ValueError as `cupynn.load` does.
        """
        path = pathlib.Path(path)
        return cls(serialization.load(path / "model.safetensors" if path.is_dir() else path), layers)

    def __call__(self, images: Array | Tensor) -> tuple[Tensor, Outputs]:
        """Its logits (N, K) for images (N, C, H, W), and the outputs of `layers` by name.

        Raises ValueError for images that it does not take.
        """
        images = images if isinstance(images, Tensor) else Tensor(images)
        with no_grad(), evaluation_mode(self.model), recorded_outputs(self.model, self.layers) as outputs:
            try:
                logits: Any = self.model(images)
            except ValueError as error:
                raise ValueError(f"Teacher: it takes other images than these, {images.shape}: {error}") from error
        return logits, outputs
