"""Where pooling's windows lie: their number, and the tables of them that pool.cu reads."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from cupynn.device import Array

Pair = int | tuple[int, int]


class Windows(NamedTuple):
    """The windows of one pooling: sizes as pairs (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    output: tuple[int, int]


def windows(
    operation: str,
    plane: tuple[int, int],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Windows:
    """The windows over a plane of H x W pixels. The stride is the kernel size unless given.

    There are floor((H + 2p - d(k - 1) - 1) / s) + 1 of them, with ceil for floor in ceil mode, where a window that
    would start beyond the image and its padding on the far side is left out.

    Raises ValueError for sizes below 1, a padding above half the kernel size, and a plane smaller than a window.
    """
    kernel = _pair(operation, "kernel_size", kernel_size, 1)
    stride = kernel if stride is None else _pair(operation, "stride", stride, 1)
    padding = _pair(operation, "padding", padding, 0)
    dilation = _pair(operation, "dilation", dilation, 1)
    output = []
    for size, k, s, p, d in zip(plane, kernel, stride, padding, dilation, strict=True):
        if 2 * p > k:
            raise ValueError(f"{operation}: padding may be at most half the kernel size {kernel}; padding is {padding}")
        room = size + 2 * p - d * (k - 1) - 1
        count = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (count - 1) * s >= size + p:
            count -= 1
        if count < 1 or size < 1:
            raise ValueError(
                f"{operation}: no window fits: kernel_size {kernel}, stride {stride}, padding {padding}, "
                f"dilation {dilation} on a plane of {plane[0]} x {plane[1]}"
            )
        output.append(count)
    return Windows(kernel, stride, padding, dilation, (output[0], output[1]))


def adaptive_output(operation, x_shape, output_size):
    output = _pair(operation, "output_size", output_size, 1)
    if 0 in x_shape[2:]:
        raise ValueError(f"{operation}: the plane must not be empty; x has shape {x_shape}")
    return output


class Tables(NamedTuple):
    """What pool.cu wants to know of the windows, int32: (OH, 3), (OW, 3), (H, 2), (W, 2).

    A window: its first pixel, one past its last, the count that an average is divided by. A cover: the first window
    that covers a pixel, and one past the last.
    """

    row_windows: Array
    column_windows: Array
    row_covers: Array
    column_covers: Array


def _covers(starts, ends, size):
    """(size, 2): the first window that covers a pixel, and one past the last; starts and ends never fall."""
    pixels = np.arange(size)
    return np.stack([np.searchsorted(ends, pixels, "right"), np.searchsorted(starts, pixels, "right")], axis=1)


@functools.lru_cache(maxsize=1024)
def tables(w: Windows, height: int, width: int, count_include_pad: bool = True, gpu: int | None = None) -> Tables:
    """Tables of padded, strided, dilated windows; on the GPU of that number, or in the host's memory."""
    axes = []
    for size, k, s, p, d, number in zip(
        (height, width), w.kernel, w.stride, w.padding, w.dilation, w.output, strict=True
    ):
        start = np.arange(number) * s - p
        end = np.minimum(start + d * (k - 1) + 1, size)
        first = start + np.maximum(-(start // d), 0) * d  # the first tap that does not lie before the image
        count = np.minimum(start + k, size + p) - start if count_include_pad else end - first
        axes.append((start, first, end, count, size))
    return _stack(axes, gpu)


@functools.lru_cache(maxsize=1024)
def adaptive_tables(height: int, width: int, out_height: int, out_width: int, gpu: int | None = None) -> Tables:
    """Tables of the windows from floor(i * H / OH) to ceil((i + 1) * H / OH) - 1."""
    axes = []
    for size, number in ((height, out_height), (width, out_width)):
        start = np.arange(number) * size // number
        end = -(-np.arange(1, number + 1) * size // number)
        axes.append((start, start, end, end - start, size))
    return _stack(axes, gpu)


def _stack(axes, gpu):
    windows = [np.stack([first, end, count], axis=1) for _, first, end, count, _ in axes]
    covers = [_covers(start, end, size) for start, _, end, _, size in axes]
    found = [np.ascontiguousarray(table, dtype=np.int32) for table in (*windows, *covers)]
    if gpu is not None:
        import cupy

        with cupy.cuda.Device(gpu):
            found = [cupy.asarray(table) for table in found]
    return Tables(*found)


def _pair(operation, name, value, least):
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(f"{operation}: {name} must be an int or a pair of ints >= {least}; it is {value!r}")
    return pair
