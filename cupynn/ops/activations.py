"""Activation functions without parameters. Where a function has a corner, its derivative there is PyTorch's."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.kernels import activations as kernel


class _Activation(Function):
    """An activation of kernels/activations.py; `parameter` is an option where it has one."""

    parameter = 0.0

    def forward(self, x):
        y = kernel.forward(self.kernel, x, self.parameter)
        self.save(y if kernel.saves_output(self.kernel) else x)
        return y

    def backward(self, grad):
        return kernel.backward(self.kernel, grad, *self.saved, self.parameter)


class ReLU(_Activation):
    """y = max(x, 0); derivative 0 at 0."""

    kernel = "relu"


class ReLU6(_Activation):
    """y = min(max(x, 0), 6); derivative 0 at 0 and at 6."""

    kernel = "relu6"


class LeakyReLU(_Activation):
    """y = x where x > 0, else parameter * x; derivative `parameter` at 0."""

    kernel = "leaky_relu"


class ELU(_Activation):
    """y = x where x > 0, else parameter * (exp(x) - 1); derivative `parameter` at 0."""

    kernel = "elu"


class Sigmoid(_Activation):
    """y = 1 / (1 + exp(-x))."""

    kernel = "sigmoid"


class Hardswish(_Activation):
    """y = x * min(max(x + 3, 0), 6) / 6; derivative 0 at -3 and 1 at 3."""

    kernel = "hardswish"


class Hardsigmoid(_Activation):
    """y = min(max(x + 3, 0), 6) / 6; derivative 0 at -3 and at 3."""

    kernel = "hardsigmoid"


def relu(x):
    """max(x, 0)."""
    return ReLU()(x)


def relu6(x):
    """min(max(x, 0), 6)."""
    return ReLU6()(x)


def leaky_relu(x, negative_slope=0.01):
    """x where x > 0, else negative_slope * x."""
    return LeakyReLU(parameter=negative_slope)(x)


def elu(x, alpha=1.0):
    """x where x > 0, else alpha * (exp(x) - 1). [Clevert et al. 2016]"""
    return ELU(parameter=alpha)(x)


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return Sigmoid()(x)


def hardswish(x):
    """x * relu6(x + 3) / 6. [Howard et al. 2019]"""
    return Hardswish()(x)


def hardsigmoid(x):
    """relu6(x + 3) / 6."""
    return Hardsigmoid()(x)
