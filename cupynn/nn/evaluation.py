"""Evaluation mode for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cupynn.nn.module import Module


@contextlib.contextmanager
def evaluation_mode(model: Module) -> Iterator[None]:
    """`model.eval()` inside a `with` block; behind it every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
