"""Several arrays made one: concatenate, stack."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from cupynn import recording
from cupynn.autograd.function import Function
from cupynn.autograd.tensor import Tensor


class Concatenate(Function):
    """y is the inputs one after the other along an axis"""

    def forward(self, *arrays):
        self.lengths = [array.shape[self.axis] for array in arrays]
        return recording.concatenate(arrays, self.axis)

    def backward(self, grad):
        before = (slice(None),) * (self.axis % grad.ndim)
        parts, start = [], 0
        for length in self.lengths:
            parts.append(grad[(*before, slice(start, start + length))])
            start += length
        return tuple(parts)


class Stack(Function):
    """y is the inputs one after the other along a new axis"""

    def forward(self, *arrays):
        return recording.stack(arrays, self.axis)

    def backward(self, grad):
        before = (slice(None),) * (self.axis % grad.ndim)
        return tuple([grad[(*before, i)] for i in range(grad.shape[self.axis])])


def concatenate(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors and arrays one after the other along `axis`; their other axes agree."""
    return Concatenate(axis=_checked_axis("concatenate", arrays, axis))(*arrays)


def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors and arrays of one shape along a new axis, at place `axis` of the result."""
    return Stack(axis=_checked_axis("stack", arrays, axis))(*arrays)


def _checked_axis(name: str, arrays: Sequence[Any], axis: Any) -> int:
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"{name}: axis must be an int; got {axis!r}") from None
    if len(arrays) == 0:
        raise ValueError(f"{name}: needs at least one array; got none")
    return axis
