"""Pooling of planes: maximum and average over windows, and over the windows that an output size asks for.

    max:      y[n, c, i, j] = max over the window's taps (a, b) of x[n, c, i*s - p + a*d, j*s - p + b*d]
    average:  y[n, c, i, j] = sum over the window / number of its pixels

x is (N, C, H, W), y is (N, C, OH, OW). Window sizes, strides, paddings and dilations are an int or a pair
(vertical, horizontal). What they mean, and how many windows there are, is PyTorch's definition. Padding is -inf for
the maximum and 0 for the average. Of equal maxima the first counts; a NaN in a window is its maximum.
"""

from __future__ import annotations

import numpy as np

from cupynn.device import Array, is_floating, wide, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.pool_windows import Pair, adaptive_output, adaptive_tables, tables, windows

CPU_ELEMENTS, GPU_ELEMENTS = 8192, 1024  # that a block reads or writes


def max_forward(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """(y, indices): the maxima, and where each lies, row * W + column in its own plane, int32.

    A window with no pixel of the image (possible with dilation and padding) gives -inf and index -1.
    """
    _check("max_pool2d", x)
    w = windows("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    if x.size == 0 or not runtime.compiled_for(x, narrow=True):
        y, indices = reference_max_forward(wide(x), w)
        return _like(x, y), indices
    if _tiles_2x2(w, x.shape):
        x = xp_of(x).ascontiguousarray(x)
        y, indices = _outputs(x, w.output)
        # Windows in a thread's strip: one on the GPU, on the CPU what fills vectors and leaves little over.
        lanes = 1 if runtime.is_gpu(x) else next(n for n in (16, 8, 4) if w.output[1] % n == 0 or n == 4)
        _launch(f"max_forward_2x2<T, {lanes}>", y.shape, (x, y, indices, *x.shape[2:]), (y, indices))
        return y, indices
    return _max_forward(x, w.output, tables(w, *x.shape[2:], gpu=runtime.device_number(x)), w.dilation)


def max_backward(
    grad: Array,
    indices: Array,
    x_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Array:
    """dx: each window's gradient goes to the pixel that was its maximum."""
    _check("max_pool2d", grad, "grad")
    w = windows("max_pool2d", x_shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    _check_grad("max_pool2d", grad, x_shape, w.output, indices)
    if 0 in x_shape or not runtime.compiled_for(grad, narrow=True):
        return _like(grad, reference_max_backward(wide(grad), indices, x_shape, w))
    return _max_backward(grad, indices, x_shape, tables(w, *x_shape[2:], gpu=runtime.device_number(grad)))


def average_forward(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """y: the mean of every window. With `count_include_pad` a pixel of the padding counts as a zero.

    What reaches beyond image and padding (in ceil mode) never counts.
    """
    _check("avg_pool2d", x)
    w = windows("avg_pool2d", x.shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    if x.size == 0 or not runtime.compiled_for(x, narrow=True):
        return _like(x, reference_average_forward(wide(x), w, count_include_pad))
    return _average_forward(x, w.output, tables(w, *x.shape[2:], count_include_pad, runtime.device_number(x)))


def average_backward(
    grad: Array,
    x_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """dx: each pixel gets grad / number of pixels from every window that covers it."""
    _check("avg_pool2d", grad, "grad")
    w = windows("avg_pool2d", x_shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    _check_grad("avg_pool2d", grad, x_shape, w.output)
    if 0 in x_shape or not runtime.compiled_for(grad, narrow=True):
        return _like(grad, reference_average_backward(wide(grad), x_shape, w, count_include_pad))
    return _average_backward(grad, x_shape, tables(w, *x_shape[2:], count_include_pad, runtime.device_number(grad)))


def adaptive_max_forward(x: Array, output_size: Pair) -> tuple[Array, Array]:
    """(y, indices) over OH x OW windows; window i covers the rows from floor(i*H/OH) to ceil((i+1)*H/OH) - 1."""
    _check("adaptive_max_pool2d", x)
    output = adaptive_output("adaptive_max_pool2d", x.shape, output_size)
    if x.size == 0 or not runtime.compiled_for(x, narrow=True):
        y, indices = reference_adaptive_max_forward(wide(x), output)
        return _like(x, y), indices
    return _max_forward(x, output, adaptive_tables(*x.shape[2:], *output, runtime.device_number(x)), (1, 1))


def adaptive_max_backward(grad: Array, indices: Array, x_shape: tuple[int, int, int, int]) -> Array:
    """dx of `adaptive_max_forward`; the output size is that of `grad`."""
    _check("adaptive_max_pool2d", grad, "grad")
    output = adaptive_output("adaptive_max_pool2d", x_shape, grad.shape[2:])
    _check_grad("adaptive_max_pool2d", grad, x_shape, output, indices)
    if 0 in x_shape or not runtime.compiled_for(grad, narrow=True):
        return _like(grad, reference_adaptive_max_backward(wide(grad), indices, x_shape))
    return _max_backward(grad, indices, x_shape, adaptive_tables(*x_shape[2:], *output, runtime.device_number(grad)))


def adaptive_average_forward(x: Array, output_size: Pair) -> Array:
    """y: the means of OH x OW windows; window i covers the rows from floor(i*H/OH) to ceil((i+1)*H/OH) - 1."""
    _check("adaptive_avg_pool2d", x)
    output = adaptive_output("adaptive_avg_pool2d", x.shape, output_size)
    if x.size == 0 or not runtime.compiled_for(x, narrow=True):
        return _like(x, reference_adaptive_average_forward(wide(x), output))
    return _average_forward(x, output, adaptive_tables(*x.shape[2:], *output, runtime.device_number(x)))


def adaptive_average_backward(grad: Array, x_shape: tuple[int, int, int, int]) -> Array:
    """dx of `adaptive_average_forward`; the output size is that of `grad`."""
    _check("adaptive_avg_pool2d", grad, "grad")
    output = adaptive_output("adaptive_avg_pool2d", x_shape, grad.shape[2:])
    _check_grad("adaptive_avg_pool2d", grad, x_shape, output)
    if 0 in x_shape or not runtime.compiled_for(grad, narrow=True):
        return _like(grad, reference_adaptive_average_backward(wide(grad), x_shape))
    return _average_backward(grad, x_shape, adaptive_tables(*x_shape[2:], *output, runtime.device_number(grad)))


def reference_max_forward(x, w):
    xp = xp_of(x)
    height, width = x.shape[2:]
    padded = _padded(x, w, -xp.inf)
    position = _padded(xp.arange(height * width, dtype=xp.int32).reshape(1, 1, height, width), w, -1)
    y = xp.full((*x.shape[:2], *w.output), -xp.inf, dtype=x.dtype)
    indices = xp.full(y.shape, -1, dtype=xp.int32)
    for tap in _taps(w):
        value, at = padded[tap], position[tap]
        better = (at >= 0) & ((indices < 0) | (value > y) | (xp.isnan(value) & ~xp.isnan(y)))
        y = xp.where(better, value, y)
        indices = xp.where(better, at, indices)
    return y, indices


def reference_max_backward(grad, indices, x_shape, w):
    xp = xp_of(grad)
    height, width = x_shape[2:]
    position = _padded(xp.arange(height * width, dtype=xp.int32).reshape(1, 1, height, width), w, -1)
    dx = xp.zeros((*x_shape[:2], *position.shape[2:]), dtype=grad.dtype)
    for tap in _taps(w):
        dx[tap] += xp.where(indices == position[tap], grad, 0)
    return _cropped(dx, x_shape, w)


def reference_average_forward(x, w, count_include_pad=True):
    padded = _padded(x, w, 0)
    return sum(padded[tap] for tap in _taps(w)) / _counts(x, x.shape, w, count_include_pad)


def reference_average_backward(grad, x_shape, w, count_include_pad=True):
    share = grad / _counts(grad, x_shape, w, count_include_pad)
    dx = _padded(xp_of(grad).zeros(x_shape, dtype=grad.dtype), w, 0)
    for tap in _taps(w):
        dx[tap] += share
    return _cropped(dx, x_shape, w)


def reference_adaptive_max_forward(x, output):
    xp = xp_of(x)
    y = xp.empty((*x.shape[:2], *output), dtype=x.dtype)
    indices = xp.empty(y.shape, dtype=xp.int32)
    for i, j, rows, columns in _adaptive_windows(x.shape[2:], output):
        window = x[:, :, rows, columns]
        breadth = window.shape[3]
        window = window.reshape(*x.shape[:2], window.shape[2] * breadth)
        first = window.argmax(axis=2)
        y[:, :, i, j] = xp.take_along_axis(window, first[:, :, None], axis=2)[:, :, 0]
        indices[:, :, i, j] = (rows.start + first // breadth) * x.shape[3] + columns.start + first % breadth
    return y, indices


def reference_adaptive_max_backward(grad, indices, x_shape):
    xp = xp_of(grad)
    dx = xp.zeros(x_shape, dtype=grad.dtype)
    position = xp.arange(x_shape[2] * x_shape[3], dtype=xp.int32).reshape(x_shape[2:])
    for i, j, rows, columns in _adaptive_windows(x_shape[2:], grad.shape[2:]):
        hit = indices[:, :, i, j, None, None] == position[rows, columns]
        dx[:, :, rows, columns] += xp.where(hit, grad[:, :, i, j, None, None], 0)
    return dx


def reference_adaptive_average_forward(x, output):
    y = xp_of(x).empty((*x.shape[:2], *output), dtype=x.dtype)
    for i, j, rows, columns in _adaptive_windows(x.shape[2:], output):
        y[:, :, i, j] = x[:, :, rows, columns].mean(axis=(2, 3))
    return y


def reference_adaptive_average_backward(grad, x_shape):
    dx = xp_of(grad).zeros(x_shape, dtype=grad.dtype)
    for i, j, rows, columns in _adaptive_windows(x_shape[2:], grad.shape[2:]):
        count = grad.dtype.type((rows.stop - rows.start) * (columns.stop - columns.start))
        dx[:, :, rows, columns] += grad[:, :, i, j, None, None] / count
    return dx


def cost(x_shape: tuple[int, ...], output: tuple[int, int], taps: int, itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) of each pass: every pixel is read or written once, every output, with its index, once."""
    pixels = x_shape[0] * x_shape[1] * x_shape[2] * x_shape[3]
    outputs = x_shape[0] * x_shape[1] * output[0] * output[1]
    return {
        "max_forward": (pixels * itemsize + outputs * (itemsize + 4), outputs * taps),
        "max_backward": (pixels * itemsize + outputs * (itemsize + 4), outputs * taps),
        "average_forward": ((pixels + outputs) * itemsize, outputs * (taps + 1)),
        "average_backward": ((pixels + outputs) * itemsize, outputs * (taps + 1)),
    }


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    kernels = (
        "max_forward<T>",
        "max_backward<T>",
        "average_forward<T>",
        "average_backward<T>",
        "max_forward_2x2<T, 1>",
    )
    return [kernel.replace("<T", f"<{t}") for kernel in kernels for t in ("float", "double", "Half", "BFloat16")]


def _tiles_2x2(w, x_shape):
    """Whether the windows are 2 x 2, side by side, and lie in the plane."""
    return w[:4] == ((2, 2), (2, 2), (0, 0), (1, 1)) and w.output == (x_shape[2] // 2, x_shape[3] // 2)


def _outputs(x, output):
    xp = xp_of(x)
    y = xp.empty((*x.shape[:2], *output), x.dtype)
    return y, xp.empty(y.shape, np.int32)


def _gathers(grad):
    """Whether backward goes pixel by pixel, a thread each, rather than window by window, a thread per plane.

    The latter adds up in dx itself, which 16 bits are too few for.
    """
    return runtime.is_gpu(grad) or grad.dtype.itemsize == 2


def _like(x, values):
    return values.astype(x.dtype, copy=False)


def _launch(kernel, written, args, outputs):
    """Launch over an array of shape `written` (N, C, rows, columns): threads x along a row, y over rows."""
    like = outputs[0]
    rows, columns = written[0] * written[1] * written[2], written[3]
    threads = runtime.threads(like=like)
    across = min(threads, 1 << (columns - 1).bit_length())
    elements = GPU_ELEMENTS if runtime.is_gpu(like) else CPU_ELEMENTS
    largest = max(args[0].size, like.size)
    rows_per_block = max(threads // across, elements * rows // largest)
    runtime.launch(
        "pool",
        kernel.replace("<T", f"<{runtime.ctype(like)}"),
        -(-rows // rows_per_block),
        (across, threads // across),
        (*args, np.int64(rows), rows_per_block),
        outputs=outputs,
    )


def _launch_by_plane(kernel, x_shape, args, dx):
    """Launch a kernel of the CPU whose threads take whole planes."""
    planes, pixels = x_shape[0] * x_shape[1], x_shape[2] * x_shape[3]
    threads = runtime.threads(like=dx)
    planes_per_block = max(threads, CPU_ELEMENTS // pixels)
    grid = -(-planes // planes_per_block)
    args = (*args, np.int64(planes), planes_per_block)
    runtime.launch("pool", kernel.replace("<T", f"<{runtime.ctype(dx)}"), grid, (1, threads), args, outputs=(dx,))


def _max_forward(x, output, windows, dilation):
    x = xp_of(x).ascontiguousarray(x)
    y, indices = _outputs(x, output)
    args = (x, windows.row_windows, windows.column_windows, y, indices, *x.shape[2:], *dilation, *output)
    _launch("max_forward<T>", y.shape, args, (y, indices))
    return y, indices


def _max_backward(grad, indices, x_shape, windows):
    xp = xp_of(grad)
    grad, indices, dx = xp.ascontiguousarray(grad), xp.ascontiguousarray(indices), xp.empty(x_shape, grad.dtype)
    plane, output = x_shape[2:], grad.shape[2:]
    if _gathers(grad):
        args = (grad, indices, windows.row_covers, windows.column_covers, dx, *plane, *output)
        _launch("max_backward<T>", x_shape, args, (dx,))
    else:
        args = (grad, indices, dx, plane[0] * plane[1], output[0] * output[1])
        _launch_by_plane("max_backward_by_plane<T>", x_shape, args, dx)
    return dx


def _average_forward(x, output, windows):
    xp = xp_of(x)
    y = xp.empty((*x.shape[:2], *output), x.dtype)
    args = (xp.ascontiguousarray(x), windows.row_windows, windows.column_windows, y, *x.shape[2:], *output)
    _launch("average_forward<T>", y.shape, args, (y,))
    return y


def _average_backward(grad, x_shape, windows):
    xp = xp_of(grad)
    grad, dx = xp.ascontiguousarray(grad), xp.empty(x_shape, grad.dtype)
    sizes = (*x_shape[2:], *grad.shape[2:])
    if _gathers(grad):
        _launch("average_backward<T>", x_shape, (grad, *windows, dx, *sizes), (dx,))
    else:
        args = (grad, windows.row_windows, windows.column_windows, dx, *sizes)
        _launch_by_plane("average_backward_by_plane<T>", x_shape, args, dx)
    return dx


def _taps(w):
    """For every tap of the window, in reading order, the index of its pixel in all windows of a padded plane."""
    rows, columns = (
        [slice(a * d, a * d + s * (count - 1) + 1, s) for a in range(k)]
        for k, s, d, count in zip(w.kernel, w.stride, w.dilation, w.output, strict=True)
    )
    return [(..., row, column) for row in rows for column in columns]


def _padded(x, w, value):
    """x with `value` round every plane, wide enough for each window to read."""
    pads = [(0, 0), (0, 0)]
    for size, k, s, p, d, count in zip(x.shape[2:], w.kernel, w.stride, w.padding, w.dilation, w.output, strict=True):
        pads.append((p, max((count - 1) * s + d * (k - 1) + 1 - size - p, 0)))
    return xp_of(x).pad(x, pads, constant_values=value)


def _cropped(padded, x_shape, w):
    (top, left), (height, width) = w.padding, x_shape[2:]
    return xp_of(padded).ascontiguousarray(padded[:, :, top : top + height, left : left + width])


def _counts(like, x_shape, w, count_include_pad):
    """(OH, OW): by how many pixels each window's sum is divided."""
    xp = xp_of(like)
    sides = []
    for size, k, s, p, count in zip(x_shape[2:], w.kernel, w.stride, w.padding, w.output, strict=True):
        start = xp.arange(count) * s - p
        end = xp.minimum(start + k, size + p)
        if not count_include_pad:
            start, end = xp.maximum(start, 0), xp.minimum(end, size)
        sides.append(end - start)
    return (sides[0][:, None] * sides[1]).astype(like.dtype)


def _adaptive_windows(plane, output):
    (height, width), (out_height, out_width) = plane, output
    for i in range(out_height):
        rows = slice(i * height // out_height, -(-(i + 1) * height // out_height))
        for j in range(out_width):
            yield i, j, rows, slice(j * width // out_width, -(-(j + 1) * width // out_width))


def _check(operation, x, name="x"):
    if not is_floating(x.dtype):
        raise TypeError(f"{operation}: {name} must be float16, bfloat16, float32 or float64; it is {x.dtype}")
    if x.ndim != 4:
        raise ValueError(f"{operation}: {name} must have shape (N, C, H, W); it has shape {x.shape}")


def _check_grad(operation, grad, x_shape, output, indices=None):
    shape = (*x_shape[:2], *output)
    if grad.shape != shape:
        raise ValueError(
            f"{operation}: x has shape {tuple(x_shape)}, so grad needs shape {shape}; it has shape {grad.shape}"
        )
    if indices is not None and (indices.shape != shape or indices.dtype != "int32"):
        raise ValueError(
            f"{operation}: indices must be int32 of shape {shape}; they are {indices.dtype} of shape {indices.shape}"
        )
