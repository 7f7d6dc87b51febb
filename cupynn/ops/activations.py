"""Activation functions without parameters. Where a function has a corner, its derivative there is PyTorch's."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import xp_of


class ReLU(Function):
    """y = max(x, 0); derivative 0 at 0."""

    def forward(self, x):
        y = xp_of(x).maximum(x, 0)
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return xp_of(y).where(y > 0, grad, 0)


class ReLU6(Function):
    """y = min(max(x, 0), 6); derivative 0 at 0 and at 6."""

    def forward(self, x):
        y = xp_of(x).clip(x, 0, 6)
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return xp_of(y).where((y > 0) & (y < 6), grad, 0)


class LeakyReLU(Function):
    """y = x where x > 0, else negative_slope * x; derivative negative_slope at 0."""

    def forward(self, x):
        self.save(x)
        return xp_of(x).where(x > 0, x, self.negative_slope * x)

    def backward(self, grad):
        (x,) = self.saved
        return xp_of(x).where(x > 0, grad, self.negative_slope * grad)


class ELU(Function):
    """y = x where x > 0, else alpha * (exp(x) - 1); derivative alpha at 0."""

    def forward(self, x):
        xp = xp_of(x)
        self.save(x)
        return xp.where(x > 0, x, self.alpha * xp.expm1(xp.minimum(x, 0)))

    def backward(self, grad):
        (x,) = self.saved
        xp = xp_of(x)
        return xp.where(x > 0, grad, self.alpha * xp.exp(xp.minimum(x, 0)) * grad)


class Sigmoid(Function):
    """y = 1 / (1 + exp(-x))."""

    def forward(self, x):
        xp = xp_of(x)
        small = xp.exp(-xp.abs(x))  # never above 1, so nothing overflows
        y = xp.where(x >= 0, 1, small) / (1 + small)
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return grad * y * (1 - y)


class Hardswish(Function):
    """y = x * min(max(x + 3, 0), 6) / 6; derivative 0 at -3 and 1 at 3."""

    def forward(self, x):
        self.save(x)
        return x * xp_of(x).clip(x + 3, 0, 6) / 6

    def backward(self, grad):
        (x,) = self.saved
        xp = xp_of(x)
        inside = xp.where(x < 3, grad * (x / 3 + 0.5), grad)
        return xp.where(x <= -3, 0, inside)


class Hardsigmoid(Function):
    """y = min(max(x + 3, 0), 6) / 6; derivative 0 at -3 and at 3."""

    def forward(self, x):
        y = xp_of(x).clip(x + 3, 0, 6) / 6
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return xp_of(y).where((y > 0) & (y < 1), grad / 6, 0)


def relu(x):
    """max(x, 0)."""
    return ReLU()(x)


def relu6(x):
    """min(max(x, 0), 6)."""
    return ReLU6()(x)


def leaky_relu(x, negative_slope=0.01):
    """x where x > 0, else negative_slope * x."""
    return LeakyReLU(negative_slope=negative_slope)(x)


def elu(x, alpha=1.0):
    """x where x > 0, else alpha * (exp(x) - 1). [Clevert et al. 2016]"""
    return ELU(alpha=alpha)(x)


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return Sigmoid()(x)


def hardswish(x):
    """x * relu6(x + 3) / 6. [Howard et al. 2019]"""
    return Hardswish()(x)


def hardsigmoid(x):
    """relu6(x + 3) / 6."""
    return Hardsigmoid()(x)
