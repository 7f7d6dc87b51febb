"""Arrays whose images lie apart: kernels go from image to image by a pitch, so some channels are read in place."""

from __future__ import annotations

import math

import numpy as np

from cupynn.device import Array, xp_of


def with_whole_images(x: Array) -> Array:
    """`x` itself where every image x[n] is contiguous, as in `x[:, 3:5]` of a contiguous array; else a copy."""
    if x.flags.c_contiguous or _whole_images(x):
        return x
    return xp_of(x).ascontiguousarray(x)


def span(x: Array | None) -> tuple[Array | None, np.int64]:
    """What a kernel takes for x of whole images: its memory from first to last element, and elements between images.

    The span of some channels of a wider array has the other channels in it, so a kernel must not write all of it.
    """
    if x is None:
        return None, np.int64(0)
    if x.flags.c_contiguous:
        return x, np.int64(math.prod(x.shape[1:]))
    pitch = x.strides[0] // x.itemsize
    size = (x.shape[0] - 1) * pitch + math.prod(x.shape[1:])
    return xp_of(x).lib.stride_tricks.as_strided(x, (size,), (x.itemsize,)), np.int64(pitch)


def whole(*arrays: Array) -> tuple[Array, ...]:
    """Those of `arrays` that are their own span: what `runtime.launch` may check to be written completely."""
    return tuple(x for x in arrays if x.flags.c_contiguous)


def _whole_images(x: Array) -> bool:
    return x.size > 0 and x[0].flags.c_contiguous and x.strides[0] >= 0 and x.strides[0] % x.itemsize == 0
