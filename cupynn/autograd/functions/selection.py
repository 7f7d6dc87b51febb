"""Choose between values element by element: where, clip, maximum, minimum."""

from __future__ import annotations

from typing import Any

from cupynn.autograd.function import Function
from cupynn.autograd.functions.arithmetic import operands, unbroadcast
from cupynn.autograd.tensor import Tensor
from cupynn.device import xp_of


class Where(Function):
    """y = a where condition, else b"""

    def forward(self, condition, a, b):
        self.save(condition)
        return xp_of(condition).where(condition, a, b)

    def backward(self, grad):
        (condition,) = self.saved
        _, a_shape, b_shape = self.input_shapes
        xp = xp_of(grad)
        return (
            None,
            None if a_shape is None else unbroadcast(xp.where(condition, grad, 0), a_shape),
            None if b_shape is None else unbroadcast(xp.where(condition, 0, grad), b_shape),
        )


class Clip(Function):
    """y = min(max(x, low), high);  dy/dx = 1 where low <= x <= high, else 0"""

    def forward(self, x, low, high):
        self.save(x, low, high)
        y = xp_of(x).clip(x, low, high)
        return y.astype(x.dtype) if x.dtype.kind == "V" else y  # NumPy makes bfloat16 float32

    def backward(self, grad):
        x, low, high = self.saved
        xp = xp_of(grad)
        inside = xp.ones(x.shape, bool)
        if low is not None:
            inside = inside & (x >= low)
        if high is not None:
            inside = inside & (x <= high)
        return unbroadcast(xp.where(inside, grad, 0), x.shape), None, None


class Maximum(Function):
    """y = max(a, b); where a = b each gets half of the gradient"""

    def forward(self, a, b):
        self.save(a, b)
        return xp_of(a if hasattr(a, "dtype") else b).maximum(a, b)

    def backward(self, grad):
        a, b = self.saved
        return _chosen(self, grad, a > b, a < b)


class Minimum(Function):
    """y = min(a, b); where a = b each gets half of the gradient"""

    def forward(self, a, b):
        self.save(a, b)
        return xp_of(a if hasattr(a, "dtype") else b).minimum(a, b)

    def backward(self, grad):
        a, b = self.saved
        return _chosen(self, grad, a < b, a > b)


def _chosen(function, grad, a_wins, b_wins):
    """The gradients of a and b, of which one was chosen: nothing for the other, a half each where neither wins."""
    xp = xp_of(grad)
    return tuple(
        [
            None if shape is None else unbroadcast(xp.where(wins, grad, xp.where(loses, 0, grad / 2)), shape)
            for shape, wins, loses in zip(function.input_shapes, (a_wins, b_wins), (b_wins, a_wins), strict=True)
        ]
    )


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Elements of a where the condition holds, else of b; all three broadcast. The condition has no gradient."""
    if isinstance(condition, Tensor):
        condition = condition.data
    return Where()(condition, *operands(a, b))


def clip(x: Any, min: Any = None, max: Any = None) -> Tensor:
    """x held between `min` and `max`, numbers or arrays; None is no bound. At a bound the gradient passes.

    Raises TypeError where a bound requires grad: `maximum(minimum(x, high), low)` gives it one.
    """
    for bound in (min, max):
        if isinstance(bound, Tensor) and bound.requires_grad:
            raise TypeError("clip: a bound has no gradient; use maximum(minimum(x, high), low)")
    return Clip()(x, min, max)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b, broadcast. NaN propagates."""
    return Maximum()(*operands(a, b))


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b, broadcast. NaN propagates."""
    return Minimum()(*operands(a, b))
