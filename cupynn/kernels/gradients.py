"""All gradients of a model at once, in one launch for each dtype: the sum of their squares, and a factor for them.

    total = sum over arrays of sum(g^2), in float64            g *= factor, in place

The sum is finite where every element is, for squares of float32 are far inside float64's range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cupynn import recording
from cupynn.device import Array, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.sgd import in_place, pieces

CPU_PIECE = 1 << 15  # elements that a block takes
GPU_PIECE = 1 << 13


def square_sum(arrays: Sequence[Array]) -> Array:
    """The sum of all elements' squares, an array () of float64 where the arrays are. There is at least one array.

    The same arrays give the same bits. Raises TypeError for arrays that are not floating point.
    """
    _check("square_sum", arrays)
    xp, parts = xp_of(arrays[0]), []

    def launch(expression: str, table: Array, array: Array | None) -> None:
        partial = xp.empty(len(table), np.float64)
        threads = runtime.threads(like=partial)
        args = (table, array, partial)
        runtime.launch("gradients", f"square_sums<{expression}>", len(table), threads, args, outputs=(partial,))
        parts.append(partial.sum())

    parts += [reference_square_sum(array) for array in _launched(arrays, launch)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return xp.asarray(total)


def multiply(arrays: Sequence[Array], factor: Array) -> None:
    """Multiply every array by `factor`, () of float64 where they are, rounded to the array's dtype."""
    _check("multiply", arrays)

    def launch(expression: str, table: Array, array: Array | None) -> None:
        threads = runtime.threads(like=factor)
        touches = () if array is None else (array,)
        args = (table, array, factor)
        runtime.launch("gradients", f"multiply<{expression}>", len(table), threads, args, touches=touches)

    for array in _launched(arrays, launch):
        reference_multiply(array, factor)


def _launched(arrays: Sequence[Array], launch: Callable[[str, Array, Array | None], None]) -> list[Array]:
    """Launch a kernel for all arrays that one takes; returns the others."""
    together: dict[tuple, list[Array]] = {}
    others = []
    for array in arrays:
        if array.size and in_place(array) and runtime.compiled_for(array):
            together.setdefault((runtime.is_gpu(array), array.dtype), []).append(array)
        else:
            others.append(array)
    for (gpu, dtype), some in together.items():
        expression, size = runtime.ctype(dtype), GPU_PIECE if gpu else CPU_PIECE
        # The checker follows arrays, not addresses in a table.
        if len(some) == 1 or runtime.mode() == "checked":
            for array in some:
                rows = [[first, min(size, array.size - first)] for first in range(0, array.size, size)]
                launch(expression, recording.upload(np.array(rows, np.int64), array), array)
        else:
            launch(expression, recording.upload(pieces([(array,) for array in some], size), some[0]), None)
    return others


def reference_square_sum(array):
    return xp_of(array).square(array, dtype="float64").sum()


def reference_multiply(array, factor):
    array *= factor.astype(array.dtype)


def cost(size: int, itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) of each pass over `size` elements."""
    return {"square_sum": (size * itemsize, 2 * size), "multiply": (2 * size * itemsize, size)}


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    return [f"{kernel}<{t}>" for kernel in ("square_sums", "multiply") for t in ("float", "double")]


def _check(name, arrays):
    for number, array in enumerate(arrays):
        if array.dtype.kind != "f":
            raise TypeError(f"gradients.{name}: array {number} must be floating point; it is {array.dtype}")
