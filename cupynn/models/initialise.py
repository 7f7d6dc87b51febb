"""Initial weights of whole networks."""

from __future__ import annotations

from collections.abc import Callable

from cupynn.device import Array
from cupynn.nn import Conv2d, Linear, Module, Parameter, init

Draw = Callable[[tuple[int, ...]], Array]


def initialise(
    model: Module, convolution: Draw | None = None, linear: Draw | None = None, linear_bias: Draw | None = None
) -> None:
    """Give every plain convolution and linear layer of `model` new weights: functions of the weight's shape.

    None leaves what the layer started with. A convolution's bias stays.
    """
    for module in model.modules():
        if type(module) is Conv2d and convolution is not None:
            module.weight = Parameter(convolution(module.weight.shape))
        elif type(module) is Linear:
            if linear is not None:
                module.weight = Parameter(linear(module.weight.shape))
            if linear_bias is not None and module.bias is not None:
                module.bias = Parameter(linear_bias(module.bias.shape))


def he_fan_out(shape: tuple[int, ...]) -> Array:
    """Normal with mean 0 and deviation sqrt(2 / (KH * KW * O)), groups not counted. [He et al. 2015]"""
    return init.kaiming_normal(shape, fan_mode="fan_out", nonlinearity="relu")


def zeros(shape: tuple[int, ...]) -> Array:
    return init.constant(shape, 0.0)
