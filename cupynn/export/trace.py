"""What a network computes, as the list of the functions that its forward pass calls."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from cupynn.autograd import Function, Tensor, no_grad
from cupynn.device import Array
from cupynn.nn import Module
from cupynn.nn.evaluation import evaluation_mode


class Call(NamedTuple):
    """One call of a function: its inputs (arrays, Python's numbers, None), its outputs, and the name of the layer that
    made it, "" outside of all."""

    function: Function
    inputs: tuple[Any, ...]
    outputs: tuple[Array, ...]
    layer: str


def trace(model: Module, images: Array) -> tuple[list[Call], Any]:
    """The calls of `model`'s forward pass on images (N, C, H, W) in evaluation mode, in their order, and its result.

    A call that a function makes inside its own forward is its own affair, and is not listed. The records of the tape
    would not do: they leave out whatever needs no gradient, constants and frozen parameters.
    """
    names = {id(module): name for name, module in model.named_modules()}
    calls: list[Call] = []
    with no_grad(), evaluation_mode(model), _watched(names, calls):
        result = model(Tensor(images))
    return calls, result


@contextlib.contextmanager
def _watched(names: dict[int, str], calls: list[Call]) -> Iterator[None]:
    """Inside a `with` block every call of a function by this thread is listed."""
    call_function, call_module, thread = Function.__call__, Module.__call__, threading.get_ident()
    layers = [""]

    def function_called(function: Function, *inputs: Any) -> Any:
        result = call_function(function, *inputs)
        if threading.get_ident() == thread:
            outputs = result if isinstance(result, tuple) else (result,)
            calls.append(Call(function, tuple(map(_plain, inputs)), tuple(map(_plain, outputs)), layers[-1]))
        return result

    def module_called(module: Module, *args: Any, **options: Any) -> Any:
        if threading.get_ident() != thread:
            return call_module(module, *args, **options)
        layers.append(names.get(id(module), layers[-1]))
        try:
            return call_module(module, *args, **options)
        finally:
            layers.pop()

    Function.__call__, Module.__call__ = function_called, module_called
    try:
        yield
    finally:
        Function.__call__, Module.__call__ = call_function, call_module


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, Tensor) else value
