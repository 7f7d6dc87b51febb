"""Activation functions with parameters that are learned, shared by all pixels of a channel."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import wide, xp_of


def _per_channel(values, x):
    """(C,) or (1,) shaped to broadcast along axis 1 of x (N, C, ...)."""
    return values.reshape((-1,) + (1,) * (x.ndim - 2)) if x.ndim > 1 else values


def _like(x, y):
    """y in x's dtype where that is float16 or bfloat16."""
    return y.astype(x.dtype, copy=False) if x.dtype.itemsize == 2 else y


def _sum_channels(values, size):
    """The sum of (N, C, ...) over everything but axis 1, or over everything where one parameter serves all."""
    if size == 1:
        return values.sum().reshape(1)
    return values.sum(axis=(0, *range(2, values.ndim)))


class PReLU(Function):
    """y = x where x > 0, else weight * x; derivative weight at 0."""

    def forward(self, x, weight):
        self.save(x, weight)
        return _like(x, xp_of(x).where(x > 0, x, _per_channel(weight, x) * wide(x)))

    def backward(self, grad):
        x, weight, grad = *map(wide, self.saved), wide(grad)
        xp = xp_of(x)
        dx = xp.where(x > 0, grad, _per_channel(weight, x) * grad)
        return dx, _sum_channels(xp.where(x > 0, 0, x * grad), weight.size)


class AdaptivePiecewiseLinear(Function):
    """y = max(0, x) + sum_s a[s] max(0, -x + b[s]); derivative 0 at every corner."""

    def forward(self, x, a, b):
        xp, saved = xp_of(x), x
        self.save(x, a, b)
        x = wide(x)
        y = xp.maximum(x, 0)
        for slope, hinge in zip(a, b, strict=True):
            y += _per_channel(slope, x) * xp.maximum(_per_channel(hinge, x) - x, 0)
        return _like(saved, y)

    def backward(self, grad):
        x, a, b, grad = *map(wide, self.saved), wide(grad)
        xp = xp_of(x)
        dx = xp.where(x > 0, grad, 0)
        da, db = xp.empty_like(a), xp.empty_like(b)
        for s in range(a.shape[0]):
            height = _per_channel(b[s], x) - x
            below = xp.where(height > 0, grad, 0)
            da[s] = _sum_channels(below * height, a.shape[1])
            db[s] = a[s] * _sum_channels(below, a.shape[1])
            dx -= _per_channel(a[s], x) * below
        return dx, da, db


def prelu(x, weight):
    """x where x > 0, else weight * x, with weight (C) or (1) for x (N, C, ...). [He et al. 2015]"""
    if weight.ndim != 1 or weight.shape[0] not in (1, x.shape[1] if x.ndim > 1 else 1):
        raise ValueError(
            f"prelu: weight must be (1,) or (C,) for x (N, C, ...); weight has shape {weight.shape}, x {x.shape}"
        )
    return PReLU()(x, weight)


def apl(x, a, b):
    """max(0, x) + sum_s a[s] max(0, -x + b[s]): adaptive piecewise linear units, with a and b (S, C) for x (N, C, ...).

    [Agostinelli et al. 2015, eq. 1, with the units of a channel sharing their parameters]
    """
    if x.ndim < 2 or a.ndim != 2 or a.shape != b.shape or a.shape[1] != x.shape[1]:
        raise ValueError(
            f"apl: a and b must both be (S, C) for x (N, C, ...); a has shape {a.shape}, b {b.shape}, x {x.shape}"
        )
    return AdaptivePiecewiseLinear()(x, a, b)
