"""WHE, wide hidden expansion: a hidden layer between the channels of a group, for every pixel."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.kernels import whe as kernel


class WHE(Function):
    """y[i] = sum_j d[i, j] f(a[i, j] x[i] + b[i, j] x[j] + c[i, j]), per group of g channels. [WHE, equations 1, 2]"""

    def forward(self, *arrays):
        self.save(*arrays)
        return kernel.forward(*arrays, self.activation)

    def backward(self, grad):
        return kernel.backward(grad, *self.saved, self.activation)


def whe(x, a, b, c, d, activation="relu"):
    """Pass x (N, C, H, W) through a hidden unit for every ordered pair of channels of a group; a to d: (C/g, g, g).

    y[i] = sum_j d[i, j] f(a[i, j] x[i] + b[i, j] x[j] + c[i, j]), of x's shape; i = j is included. `activation` names
    f: relu, leaky_relu (slope 0.01), elu, tanh or identity. Hidden units are not kept: backward saves x alone and
    computes them again. Raises ValueError for shapes that do not fit, g above 32 and an unknown activation,
    TypeError for dtypes that differ.
    """
    return WHE(activation=activation)(x, a, b, c, d)
