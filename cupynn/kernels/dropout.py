"""Dropout: y = x / (1 - p) where an element is kept, else x * 0. The gradient is the same function of y's gradient.

Which elements are kept follows from a key of two 32-bit words and an element's place, by Philox4x32-10 (dropout.cu says
how). So nothing is stored for backward, and a key drops the same elements on every device and with any number of
threads. [Srivastava et al. 2014; Salmon et al. 2011]
"""

from __future__ import annotations

import math

import numpy as np

from cupynn.device import Array, wide, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.philox import philox

QUARTER = 1024  # as in dropout.cu
TILE = 4 * QUARTER


def forward(x: Array, p: float, key: tuple[int, int] | Array) -> Array:
    """x with its elements dropped with probability p, those kept multiplied by 1 / (1 - p); at p = 1 all are 0.

    key: two 32-bit words, or an array of two, uint32, where x is, which the kernel reads when it runs.
    """
    if not x.size or not runtime.compiled_for(x, narrow=True):
        return reference_forward(wide(x), p, key).astype(x.dtype, copy=False)
    x = x if x.flags.c_contiguous else xp_of(x).ascontiguousarray(x)
    y = xp_of(x).empty(x.shape, x.dtype)
    words, there = ((0, 0), key) if hasattr(key, "dtype") else (key, None)
    words = [np.uint32(word) for word in (_threshold(p), *words)]
    runtime.launch(
        "dropout",
        f"dropout<{runtime.ctype(x)}>",
        -(-x.size // TILE),
        runtime.threads(like=x),
        (x, y, np.int64(x.size), *words, there, runtime.scalar(x.dtype, _factor(p))),
        outputs=(y,),
    )
    return y


def reference_forward(x, p, key):
    xp = xp_of(x)
    tiles = -(-x.size // TILE)
    counter = xp.zeros((4, tiles, QUARTER), np.uint64)
    counter[0], counter[1] = xp.arange(QUARTER, dtype=np.uint64), xp.arange(tiles, dtype=np.uint64)[:, None]
    words = philox(counter, key).transpose(1, 0, 2).reshape(-1)[: x.size]
    return x * xp.where(words >= _threshold(p), _factor(p), 0).astype(x.dtype).reshape(x.shape)


def cost(shape: tuple[int, ...], itemsize: int = 4) -> tuple[int, int]:
    """(bytes, operations) of one pass: read x, write y; 10 rounds of about 10 operations for four elements."""
    elements = math.prod(shape)
    return 2 * elements * itemsize, 25 * elements


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    return [f"dropout<{t}>" for t in ("float", "double", "Half", "BFloat16")]


def _threshold(p):
    return min(round(p * 2**32), 2**32 - 1)


def _factor(p):
    return 1 / (1 - p) if p < 1 else 0.0
