"""Reductions along axes: sum, mean, max, min, var. `axis` and `keepdims` are NumPy's. What has 16 bits is added up in
float32."""

from __future__ import annotations

import math
from typing import Any

from cupynn.autograd.function import Function
from cupynn.autograd.tensor import Tensor
from cupynn.device import Array, is_floating, wide, xp_of


def _kept(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """The shape after a reduction along `axis` with keepdims."""
    if axis is None:
        return (1,) * len(shape)
    axes = {a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))}
    return tuple([1 if i in axes else length for i, length in enumerate(shape)])


def _count(shape: tuple[int, ...], axis: Any) -> int:
    """How many elements are reduced to one."""
    count = 1
    for length, kept in zip(shape, _kept(shape, axis), strict=True):
        count *= length if kept == 1 else 1
    return count


class Sum(Function):
    """y = sum of x along axis"""

    def forward(self, x):
        return _like(x, wide(x).sum(axis=self.axis, keepdims=self.keepdims))

    def backward(self, grad):
        (shape,) = self.input_shapes
        return xp_of(grad).broadcast_to(grad.reshape(_kept(shape, self.axis)), shape)


class Mean(Function):
    """y = sum of x along axis / n"""

    def forward(self, x):
        return _like(x, wide(x).mean(axis=self.axis, keepdims=self.keepdims))

    def backward(self, grad):
        (shape,) = self.input_shapes
        grad = grad.reshape(_kept(shape, self.axis))
        if 0 in shape:
            return xp_of(grad).zeros(shape, grad.dtype)
        return xp_of(grad).broadcast_to(grad * (1 / _count(shape, self.axis)), shape)  # float16 holds no count > 65504


class Var(Function):
    """y = sum of (x - mean)^2 along axis / (n - ddof);  dy/dx = 2 (x - mean) / (n - ddof)"""

    def forward(self, x):
        self.save(x)
        return _like(x, wide(x).var(axis=self.axis, ddof=self.ddof, keepdims=self.keepdims))

    def backward(self, grad):
        x, grad = wide(self.saved[0]), wide(grad)
        if x.size == 0:
            return xp_of(grad).zeros(x.shape, grad.dtype)
        freedom = _count(x.shape, self.axis) - self.ddof
        scale = 2 / freedom if freedom > 0 else math.inf  # as in NumPy's var: nan where x = mean
        centred = x - x.mean(axis=self.axis, keepdims=True)
        return grad.reshape(_kept(x.shape, self.axis)) * scale * centred


class Max(Function):
    """y = largest of x along axis; equal largest elements share the gradient"""

    def forward(self, x):
        y = x.max(axis=self.axis, keepdims=self.keepdims)
        self.save(x, y)
        return y

    def backward(self, grad):
        return _shared(grad, *self.saved, self.axis)


class Min(Function):
    """y = smallest of x along axis; equal smallest elements share the gradient"""

    def forward(self, x):
        y = x.min(axis=self.axis, keepdims=self.keepdims)
        self.save(x, y)
        return y

    def backward(self, grad):
        return _shared(grad, *self.saved, self.axis)


def _like(x: Array, y: Any) -> Any:
    """y in x's dtype where that has 16 bits; else as it is, which for integers is NumPy's choice."""
    return y if y.dtype == x.dtype or not is_floating(x.dtype) else y.astype(x.dtype)


def _shared(grad: Array, x: Array, y: Array, axis: Any) -> Array:
    """Divide `grad` evenly among the elements of x that equal the reduced y. A NaN in y came from NaNs in x."""
    kept = _kept(x.shape, axis)
    chosen = (x == y.reshape(kept)) | (x != x)
    return chosen * (grad.reshape(kept) / chosen.sum(axis=axis, keepdims=True))


def sum(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The sum along `axis`: None for all, an int or a tuple of ints."""
    return Sum(axis=axis, keepdims=keepdims)(x)


def mean(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean along `axis`."""
    return Mean(axis=axis, keepdims=keepdims)(x)


def var(x: Tensor, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The variance along `axis`, divided by n - ddof: 0 gives the biased one, 1 the unbiased."""
    return Var(axis=axis, ddof=ddof, keepdims=keepdims)(x)


def max(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The largest element along `axis`. NaN propagates."""
    return Max(axis=axis, keepdims=keepdims)(x)


def min(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The smallest element along `axis`. NaN propagates."""
    return Min(axis=axis, keepdims=keepdims)(x)
