"""Whether operations are recorded: a switch per thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any


class _Mode(threading.local):
    enabled = True  # every thread starts here


mode = _Mode()


def is_grad_enabled() -> bool:
    """True where operations on tensors that require grad are recorded: everywhere but inside `no_grad()`."""
    return mode.enabled


class no_grad:
    """Records nothing inside: results do not require grad, and nothing is saved for a backward pass.

    Holds for this thread only. A context manager and a decorator:

        with no_grad():
            logits = model(x)

        @no_grad()
        def predict(x): ...
    """

    def __init__(self) -> None:
        self._before: list[bool] = []  # a list, so that one object can be entered again inside itself

    def __enter__(self) -> None:
        self._before.append(mode.enabled)
        mode.enabled = False

    def __exit__(self, *exception: object) -> None:
        mode.enabled = self._before.pop()

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def without_grad(*args: Any, **kwargs: Any) -> Any:
            with no_grad():
                return fn(*args, **kwargs)

        return without_grad
