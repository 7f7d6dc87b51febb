"""Whether operations are recorded: a switch per thread."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Generator
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

    A decorated generator runs without recording; what its consumer does between items is not affected. Coroutines
    share a thread and take turns, so that decorating one raises TypeError.
    """

    def __init__(self) -> None:
        self._before: list[bool] = []  # a list, so that one object can be entered again inside itself

    def __enter__(self) -> None:
        self._before.append(mode.enabled)
        mode.enabled = False

    def __exit__(self, *exception: object) -> None:
        mode.enabled = self._before.pop()

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(
                f"no_grad: {fn.__name__} is async; write `with no_grad():` in it, around code without await"
            )
        if inspect.isgeneratorfunction(fn):

            @functools.wraps(fn)
            def items_without_grad(*args: Any, **kwargs: Any) -> Any:
                return _without_grad(fn(*args, **kwargs))

            return items_without_grad

        @functools.wraps(fn)
        def without_grad(*args: Any, **kwargs: Any) -> Any:
            with no_grad():
                return fn(*args, **kwargs)

        return without_grad


def _without_grad(generator: Generator) -> Generator:
    """The generator, resumed inside `no_grad` each time."""
    resume, value = generator.send, None
    while True:
        try:
            with no_grad():
                item = resume(value)
        except StopIteration as stop:
            return stop.value
        try:
            resume, value = generator.send, (yield item)
        except GeneratorExit:
            with no_grad():
                generator.close()
            raise
        except BaseException as error:
            resume, value = generator.throw, error


class enable_grad:
    """A context manager: operations are recorded inside, even where it stands inside `no_grad()`."""

    def __enter__(self) -> None:
        self._before, mode.enabled = mode.enabled, True

    def __exit__(self, *exception: object) -> None:
        mode.enabled = self._before
