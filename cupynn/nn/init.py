"""Initial values of weights. Every function returns a new float32 array on the default device.

Numbers come from `cupynn.device.generator()` on the host: one seed gives one network, on every device.
A weight's fan-in is the number of products summed for one output: C/groups * KH * KW for a convolution's weight
(O, C/groups, KH, KW), I for a linear layer's (O, I). Its fan-out is O * KH * KW, groups not considered, or O.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np

from cupynn.device import Array, asarray, generator

Shape = tuple[int, ...]

_shapes_only = ContextVar("shapes only", default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Inside a `with` block, whatever its size, a new array takes no memory: it is one zero seen at every index.

    Such arrays are read-only NumPy arrays. They are there to count and to draw networks, nothing is drawn for them.
    """
    before = _shapes_only.set(True)
    try:
        yield
    finally:
        _shapes_only.reset(before)


def is_shapes_only() -> bool:
    """Whether this is inside `shapes_only`."""
    return _shapes_only.get()


def _no_memory(shape: Shape) -> Array:
    return np.broadcast_to(np.float32(0), shape)


def fans(shape: Shape) -> tuple[int, int]:
    """(fan-in, fan-out) of a weight. Raises ValueError for fewer than two axes, which have no fan."""
    if len(shape) < 2:
        raise ValueError(f"init: a fan needs a weight of two or more axes (O, I, ...); got shape {tuple(shape)}")
    receptive_field = math.prod(shape[2:])
    return shape[1] * receptive_field, shape[0] * receptive_field


def gain(nonlinearity: str, slope: float = 0.01) -> float:
    """What to multiply a layer's deviation by, so that variance is kept through the activation behind it.

    `slope` is leaky ReLU's negative slope. Values are PyTorch's.
    """
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
    }
    if nonlinearity not in gains:
        raise ValueError(f"init: nonlinearity must be one of {', '.join(gains)}; got {nonlinearity!r}")
    return gains[nonlinearity]


def constant(shape: Shape, value: float) -> Array:
    """An array full of one value."""
    if is_shapes_only():
        return _no_memory(shape)
    return asarray(np.full(shape, value, np.float32))


def uniform(shape: Shape, low: float, high: float) -> Array:
    """Draws from the uniform distribution on [low, high]."""
    if is_shapes_only():
        return _no_memory(shape)
    return asarray(generator().uniform(low, high, shape).astype(np.float32))


def normal(shape: Shape, mean: float = 0.0, deviation: float = 1.0) -> Array:
    """Draws from the normal distribution."""
    if is_shapes_only():
        return _no_memory(shape)
    return asarray(generator().normal(mean, deviation, shape).astype(np.float32))


def _fan(shape: Shape, fan_mode: str) -> int:
    fan_in, fan_out = fans(shape)
    if fan_mode not in ("fan_in", "fan_out"):
        raise ValueError(f'init: fan_mode must be "fan_in" or "fan_out"; got {fan_mode!r}')
    return fan_in if fan_mode == "fan_in" else fan_out


def kaiming_uniform(
    shape: Shape, slope: float = 0.0, fan_mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Array:
    """Uniform on [-b, b] with b = gain * sqrt(3 / fan). [He et al. 2015]"""
    bound = gain(nonlinearity, slope) * math.sqrt(3 / _fan(shape, fan_mode))
    return uniform(shape, -bound, bound)


def kaiming_normal(
    shape: Shape, slope: float = 0.0, fan_mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Array:
    """Normal with mean 0 and deviation gain / sqrt(fan). [He et al. 2015]"""
    return normal(shape, 0.0, gain(nonlinearity, slope) / math.sqrt(_fan(shape, fan_mode)))


def xavier_uniform(shape: Shape, gain: float = 1.0) -> Array:
    """Uniform on [-b, b] with b = gain * sqrt(6 / (fan-in + fan-out)). [Glorot and Bengio 2010]"""
    bound = gain * math.sqrt(6 / sum(fans(shape)))
    return uniform(shape, -bound, bound)


def xavier_normal(shape: Shape, gain: float = 1.0) -> Array:
    """Normal with mean 0 and deviation gain * sqrt(2 / (fan-in + fan-out)). [Glorot and Bengio 2010]"""
    return normal(shape, 0.0, gain * math.sqrt(2 / sum(fans(shape))))


def default_weight(shape: Shape) -> Array:
    """PyTorch's default for convolutions and linear layers: uniform on [-b, b] with b = 1 / sqrt(fan-in)."""
    return kaiming_uniform(shape, slope=math.sqrt(5))


def default_bias(weight_shape: Shape) -> Array:
    """PyTorch's default for the bias (O,) of a weight (O, ...): uniform on [-b, b] with b = 1 / sqrt(fan-in)."""
    bound = 1 / math.sqrt(fans(weight_shape)[0])
    return uniform(weight_shape[:1], -bound, bound)
