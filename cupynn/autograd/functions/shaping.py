"""Same values, another shape or dtype: reshape, transpose, broadcast_to, pad, astype, and what follows from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupynn.autograd.function import Function
from cupynn.autograd.functions.arithmetic import unbroadcast
from cupynn.autograd.tensor import Tensor
from cupynn.device import compute_dtype, is_floating, xp_of


class Reshape(Function):
    """y has x's elements in C order in another shape"""

    def forward(self, x):
        return x.reshape(self.shape)

    def backward(self, grad):
        return grad.reshape(self.input_shapes[0])


class Transpose(Function):
    """y's axis i is x's axis axes[i]"""

    def forward(self, x):
        return x.transpose(self.axes)

    def backward(self, grad):
        if self.axes is None:
            return grad.transpose()
        inverse = [0] * len(self.axes)
        for i, axis in enumerate(self.axes):
            inverse[axis] = i
        return grad.transpose(inverse)


class BroadcastTo(Function):
    """y is x repeated along axes of length 1 and along new leading axes"""

    def forward(self, x):
        return xp_of(x).broadcast_to(x, self.shape)

    def backward(self, grad):
        return unbroadcast(grad, self.input_shapes[0])


class Pad(Function):
    """y is x with a border of a constant value"""

    def forward(self, x):
        shape = tuple([before + length + after for (before, after), length in zip(self.widths, x.shape, strict=True)])
        y = xp_of(x).full(shape, self.value, x.dtype)
        y[self._inside(x.shape)] = x
        return y

    def backward(self, grad):
        return grad[self._inside(self.input_shapes[0])]

    def _inside(self, shape):
        return tuple([slice(before, before + length) for (before, _), length in zip(self.widths, shape, strict=True)])


class AsType(Function):
    """y is x in another dtype"""

    def forward(self, x):
        return x.astype(self.dtype)

    def backward(self, grad):
        return grad  # the engine casts every gradient to its input's dtype


def _stand_in(x: Any) -> np.ndarray:
    """An array of x's shape that takes no memory, to ask NumPy for the shape a call gives."""
    return np.broadcast_to(np.int8(0), x.shape)


def reshape(x: Tensor, shape: Any) -> Tensor:
    """x in another shape; one length may be -1."""
    return Reshape(shape=shape)(x)


def transpose(x: Tensor, axes: Any = None) -> Tensor:
    """x with its axes in the order `axes`; reversed where None."""
    if axes is not None:
        axes = tuple([axis + x.ndim if axis < 0 else axis for axis in axes])
    return Transpose(axes=axes)(x)


def flatten(x: Tensor, start_axis: int = 0) -> Tensor:
    """All axes from `start_axis` on made one."""
    axes = max(x.ndim, 1)  # a number is flattened to one axis
    if not -axes <= start_axis < axes:
        raise ValueError(
            f"flatten: start_axis must be in {-axes}..{axes - 1} for x of shape {x.shape}; got {start_axis}"
        )
    start = start_axis + axes if start_axis < 0 else start_axis
    # Not -1: an empty array would leave the length open.
    return Reshape(shape=x.shape[:start] + (math.prod(x.shape[start:]),))(x)


def squeeze(x: Tensor, axis: Any = None) -> Tensor:
    """x without axes of length 1: all of them, or those in `axis`."""
    return Reshape(shape=np.squeeze(_stand_in(x), axis).shape)(x)


def expand_dims(x: Tensor, axis: Any) -> Tensor:
    """x with new axes of length 1, at places `axis` of the result."""
    return Reshape(shape=np.expand_dims(_stand_in(x), axis).shape)(x)


def broadcast_to(x: Tensor, shape: Any) -> Tensor:
    """x repeated to `shape` by the rules of broadcasting, read-only."""
    return BroadcastTo(shape=shape)(x)


def pad(x: Tensor, widths: Any, value: float = 0) -> Tensor:
    """x with `value` around it. `widths` as in NumPy: n, (before, after), or a pair for each axis."""
    pairs = np.broadcast_to(widths, (x.ndim, 2)).tolist()
    if any(width < 0 or width != int(width) for pair in pairs for width in pair):
        raise ValueError(f"pad: widths must be integers from 0; got {widths}")
    return Pad(widths=pairs, value=value)(x)


def astype(x: Tensor, dtype: Any) -> Tensor:
    """x in another dtype. Raises TypeError where x requires grad and `dtype` has none."""
    dtype = np.dtype(dtype)
    if isinstance(x, Tensor) and x.requires_grad and not is_floating(dtype):
        raise TypeError(f"astype: {dtype} carries no gradient, and x requires grad; use x.detach() first")
    return AsType(dtype=dtype)(x)


def widened(x: Any) -> Any:
    """x as float32 where it is float16 or bfloat16, as losses want it; else x itself."""
    dtype = compute_dtype(x.dtype)
    return x if x.dtype == dtype else astype(x, dtype)
