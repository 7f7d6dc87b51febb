"""Activation functions as modules."""

from __future__ import annotations

from cupynn import ops
from cupynn.nn import init
from cupynn.nn.module import Module, Parameter


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x):
        return ops.relu(x)


class ReLU6(Module):
    """min(max(x, 0), 6)."""

    def forward(self, x):
        return ops.relu6(x)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope

    def forward(self, x):
        return ops.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """x where x > 0, else weight * x, with one learned weight per channel, or one in all; it starts at `value`."""

    def __init__(self, num_parameters: int = 1, value: float = 0.25):
        self.weight = Parameter(init.constant((num_parameters,), value))

    def forward(self, x):
        return ops.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.weight.size}"


class ELU(Module):
    """x where x > 0, else alpha * (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def forward(self, x):
        return ops.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class APL(Module):
    """max(0, x) + sum_s a[s] max(0, -x + b[s]), with `hinges` learned pairs (a, b) per channel.

    Slopes a start at 0, so that the module starts as ReLU; places b start as normal draws of unit variance.
    """

    def __init__(self, num_channels: int, hinges: int = 2):
        self.a = Parameter(init.constant((hinges, num_channels), 0.0))
        self.b = Parameter(init.normal((hinges, num_channels)))

    def forward(self, x):
        return ops.apl(x, self.a, self.b)

    def extra_repr(self) -> str:
        hinges, num_channels = self.a.shape
        return f"{num_channels}, hinges={hinges}"


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x):
        return ops.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x):
        return ops.tanh(x)


class Hardswish(Module):
    """x * relu6(x + 3) / 6."""

    def forward(self, x):
        return ops.hardswish(x)


class Hardsigmoid(Module):
    """relu6(x + 3) / 6."""

    def forward(self, x):
        return ops.hardsigmoid(x)
