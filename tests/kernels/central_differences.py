"""The gradient of sum(grad * f(x)) by central differences, in float64: what a backward pass is held against."""

import numpy as np

STEP = 1e-6
# Truncation is STEP**2 * f''' / 6, about 1e-12; rounding is eps * |f| / STEP, about 2e-10 * |f|. For |f| up to 100:
TOLERANCE = 1e-7


def central_differences(f, x, grad):
    """d sum(grad * f(x)) / dx, element by element."""
    assert x.dtype == np.float64
    result = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        moved = x.copy()
        moved[index] = x[index] + STEP
        above = f(moved)
        moved[index] = x[index] - STEP
        result[index] = (grad * (above - f(moved))).sum() / (2 * STEP)
    return result
