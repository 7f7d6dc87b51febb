"""Activation functions with parameters that are learned, shared by all pixels of a channel."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import xp_of


def _per_channel(values, x):
    """(C,) or (1,) shaped to broadcast along axis 1 of x (N, C, ...)."""
    return values.reshape((-1,) + (1,) * (x.ndim - 2)) if x.ndim > 1 else values


def _sum_channels(values, size):
    """The sum of (N, C, ...) over everything but axis 1, or over everything where one parameter serves all."""
    if size == 1:
        return values.sum().reshape(1)
    return values.sum(axis=(0, *range(2, values.ndim)))


class PReLU(Function):
    """y = x where x > 0, else weight * x; derivative weight at 0."""

    def forward(self, x, weight):
        self.save(x, weight)
        return xp_of(x).where(x > 0, x, _per_channel(weight, x) * x)

    def backward(self, grad):
        x, weight = self.saved
        xp = xp_of(x)
        dx = xp.where(x > 0, grad, _per_channel(weight, x) * grad)
        return dx, _sum_channels(xp.where(x > 0, 0, x * grad), weight.size)


class AdaptivePiecewiseLinear(Function):
    """y = max(0, x) + sum_s a[s] max(0, -x + b[s]); derivative 0 at every corner."""

    def forward(self, x, a, b):
        xp = xp_of(x)
        self.save(x, a, b)
        y = xp.maximum(x, 0)
        for slope, hinge in zip(a, b, strict=True):
            y += _per_channel(slope, x) * xp.maximum(_per_channel(hinge, x) - x, 0)
        return y

    def backward(self, grad):
        x, a, b = self.saved
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
