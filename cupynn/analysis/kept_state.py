"""A model that is as it was behind a block, to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cupynn.nn import Module
from cupynn.nn.contractible import undrawn
from cupynn.nn.evaluation import evaluation_mode


@contextlib.contextmanager
def kept_state(model: Module) -> Iterator[None]:
    """Inside a `with` block, which begins in evaluation mode, parameters, buffers and modes may change, and numbers be
    drawn; behind it all are as they were, and there are no gradients."""
    state = {name: array.copy() for name, array in model.state_dict().items()}
    try:
        with evaluation_mode(model), undrawn():
            yield
    finally:
        for name, array in model.state_dict().items():
            array[...] = state[name]
        model.zero_grad()
