"""A model that is as it was behind a block, to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cupynn.nn import Module
from cupynn.nn.contractible import undrawn


@contextlib.contextmanager
def kept_state(model: Module) -> Iterator[None]:
    """Inside a `with` block parameters, buffers and modes may change, numbers may be drawn; behind it all are as they
    were, and there are no gradients."""
    state = {name: array.copy() for name, array in model.state_dict().items()}
    modes = [(module, module.training) for module in model.modules()]
    try:
        with undrawn():
            yield
    finally:
        for name, array in model.state_dict().items():
            array[...] = state[name]
        for module, training in modes:
            module.training = training
        model.zero_grad()
