"""Activation functions without learned numbers, one pass each way: y = f(x), dx = grad f'(x).

    relu          max(x, 0)                            leaky_relu    x where x > 0, else parameter * x
    relu6         min(max(x, 0), 6)                    elu           x where x > 0, else parameter * (exp(x) - 1)
    hardsigmoid   relu6(x + 3) / 6                     sigmoid       1 / (1 + exp(-x))
    hardswish     x * relu6(x + 3) / 6

A NaN in x is one in y. Backward reads y where that says enough, else x; `saves_output` tells which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cupynn.device import Array, is_floating, wide, xp_of
from cupynn.kernels import runtime

CPU_PIECE = 16384  # elements that a block computes
GPU_PIECE = 2048


class Activation(NamedTuple):
    """Its struct in activations.cu, whether backward reads y and not x, and both passes in array code."""

    struct: str
    saves_output: bool
    value: Callable
    gradient: Callable


def forward(name: str, x: Array, parameter: float = 0.0) -> Array:
    """f(x), of x's shape and dtype; of integers what NumPy makes of them."""
    if not x.size or not runtime.compiled_for(x, narrow=True):
        y = reference_forward(name, wide(x), parameter)
        return y.astype(x.dtype, copy=False) if is_floating(x.dtype) else y
    x = _contiguous(x)
    y = xp_of(x).empty(x.shape, x.dtype)
    _launch("forward", name, (x, y), parameter)
    return y


def backward(name: str, grad: Array, saved: Array, parameter: float = 0.0) -> Array:
    """grad f'(x); `saved` is y where the activation's `saves_output` holds, else x.

    Raises ValueError where grad does not have saved's shape.
    """
    if grad.shape != saved.shape:
        raise ValueError(f"{name}: grad must have the output's shape {saved.shape}; it has shape {grad.shape}")
    if not grad.size or grad.dtype != saved.dtype or not runtime.compiled_for(grad, saved, narrow=True):
        return reference_backward(name, wide(grad), wide(saved), parameter).astype(grad.dtype, copy=False)
    grad, saved = _contiguous(grad), _contiguous(saved)
    dx = xp_of(grad).empty(grad.shape, grad.dtype)
    _launch("backward", name, (grad, saved, dx), parameter)
    return dx


def saves_output(name: str) -> bool:
    """Whether `backward` reads the output y; if not, it reads the input x."""
    return ACTIVATIONS[name].saves_output


def reference_forward(name, x, parameter=0.0):
    return ACTIVATIONS[name].value(x, parameter)


def reference_backward(name, grad, saved, parameter=0.0):
    return ACTIVATIONS[name].gradient(grad, saved, parameter)


def _sigmoid(x, parameter):
    xp = xp_of(x)
    small = xp.exp(-xp.abs(x))  # never above 1, so nothing overflows
    return xp.where(x < 0, small, 1) / (1 + small)


def _elu(x, alpha):
    xp = xp_of(x)
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))


def _elu_gradient(grad, x, alpha):
    xp = xp_of(x)
    return xp.where(x > 0, grad, alpha * xp.exp(xp.minimum(x, 0)) * grad)


def _hardswish_gradient(grad, x, parameter):
    xp = xp_of(x)
    return xp.where(x <= -3, 0, xp.where(x < 3, grad * (x / 3 + 0.5), grad))


ACTIVATIONS = {
    "relu": Activation(
        "ReLU", True, lambda x, _: xp_of(x).maximum(x, 0), lambda grad, y, _: xp_of(y).where(y > 0, grad, 0)
    ),
    "relu6": Activation(
        "ReLU6",
        True,
        lambda x, _: xp_of(x).clip(x, 0, 6),
        lambda grad, y, _: xp_of(y).where((y > 0) & (y < 6), grad, 0),
    ),
    "leaky_relu": Activation(
        "LeakyReLU",
        False,
        lambda x, slope: xp_of(x).where(x > 0, x, slope * x),
        lambda grad, x, slope: xp_of(x).where(x > 0, grad, slope * grad),
    ),
    "elu": Activation("ELU", False, _elu, _elu_gradient),
    "sigmoid": Activation("Sigmoid", True, _sigmoid, lambda grad, y, _: grad * y * (1 - y)),
    "hardswish": Activation("Hardswish", False, lambda x, _: x * xp_of(x).clip(x + 3, 0, 6) / 6, _hardswish_gradient),
    "hardsigmoid": Activation(
        "Hardsigmoid",
        True,
        lambda x, _: xp_of(x).clip(x + 3, 0, 6) / 6,
        lambda grad, y, _: xp_of(y).where((y > 0) & (y < 1), grad / 6, 0),
    ),
}


def cost(shape: tuple[int, ...], itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass must cost; operations those of ReLU."""
    elements = math.prod(shape)
    return {"forward": (2 * elements * itemsize, elements), "backward": (3 * elements * itemsize, elements)}


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    return [
        f"{which}<{t}, {activation.struct}>"
        for t in ("float", "double", "Half", "BFloat16")
        for which in ("forward", "backward")
        for activation in ACTIVATIONS.values()
    ]


def _launch(which, name, arrays, parameter):
    first, size = arrays[0], arrays[0].size
    piece = GPU_PIECE if runtime.is_gpu(first) else CPU_PIECE
    runtime.launch(
        "activations",
        f"{which}<{runtime.ctype(first)}, {ACTIVATIONS[name].struct}>",
        -(-size // piece),
        runtime.threads(like=first),
        (*arrays, np.int64(size), piece, runtime.scalar(first.dtype, parameter)),
        outputs=arrays[-1:],
    )


def _contiguous(x):
    return x if x.flags.c_contiguous else xp_of(x).ascontiguousarray(x)
