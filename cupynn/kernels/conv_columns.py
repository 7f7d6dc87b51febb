"""Convolution by columns: im2col of one tile at a time, small enough to stay in cache, then one matrix product.

    y[n] = w (O, K) @ columns[n] (K, P)        K = C/groups * KH * KW, P = OH * OW
    dcolumns[n] = w^T @ grad[n]                dw = sum_n grad[n] @ columns[n]^T

float16 and bfloat16 images are multiplied as float32, tile by tile, and rounded once.
A 1x1 kernel at stride 1 without padding has the image itself as its columns. The products are BLAS on the CPU and
cuBLAS on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

from cupynn.device import Array, compute_dtype, wide, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.im2col import col2im, im2col

TILE_BYTES = {"cpu": 1 << 20, "gpu": 256 << 20}  # columns held at once


def forward(x: Array, w: Array, bias: Array | None, g, out: Array | None = None) -> Array:
    """y (N, O, OH, OW) of geometry `g`, written to `out`, of whole images, if there is one."""
    out = xp_of(x).empty(g.output_shape, x.dtype) if out is None else out
    y = out.reshape(g.n, g.groups, g.o_group, g.oh * g.ow)  # a view: images are whole
    weights = w.reshape(g.groups, g.o_group, -1)
    for images, row0, rows in _tiles(g, x):
        part = y[images, :, :, row0 * g.ow : (row0 + rows) * g.ow]
        product = runtime.product(weights, _columns(x[images], g, row0, rows))
        if bias is not None:
            product += bias.reshape(g.groups, g.o_group, 1)
        part[...] = product
    return out


def input_gradient(grad: Array, w: Array, g, add_to: Array | None = None) -> Array:
    """dx (N, C, H, W) of geometry `g`, added to `add_to`, of whole images, if there is one."""
    xp = xp_of(grad)
    shape = (g.n, g.c, g.h, g.w)
    transposed = w.reshape(g.groups, g.o_group, -1).swapaxes(1, 2)
    rows_of_grad = grad.reshape(g.n, g.groups, g.o_group, g.oh * g.ow)
    if g.pointwise and add_to is None and grad.dtype == w.dtype:
        return runtime.product(transposed, rows_of_grad).reshape(shape)
    if g.pointwise:
        dx = xp.zeros(shape, grad.dtype) if add_to is None else add_to
        for images, _, _ in _tiles(g, grad):
            part = dx[images]
            part += runtime.product(transposed, wide(rows_of_grad[images])).reshape(part.shape)
        return dx
    dx = xp.zeros(shape, w.dtype)
    for images, row0, rows in _tiles(g, grad):
        part = wide(rows_of_grad[images, :, :, row0 * g.ow : (row0 + rows) * g.ow])
        columns = runtime.product(transposed, part)
        columns = columns.reshape(columns.shape[0], -1, rows * g.ow)
        part = dx[images]
        col2im(columns, part.shape, g.kernel, g.stride, g.padding, g.dilation, row0, part)
    if add_to is None:
        return dx.astype(grad.dtype, copy=False)
    add_to += dx
    return add_to


def weight_gradient(grad: Array, x: Array, w: Array, g) -> Array:
    """dw (O, C/groups, KH, KW) of geometry `g`."""
    xp = xp_of(x)
    dw = xp.zeros(w.shape, w.dtype)
    by_group = dw.reshape(g.groups, g.o_group, w[0].size)
    rows_of_grad = grad.reshape(g.n, g.groups, g.o_group, g.oh * g.ow)
    one_by_one = g.oh * g.ow >= 64 and not runtime.is_gpu(
        x
    )  # measured: from here on the copies cost more than the calls
    for images, row0, rows in _tiles(g, x):
        columns = _columns(x[images], g, row0, rows)
        part = wide(rows_of_grad[images, :, :, row0 * g.ow : (row0 + rows) * g.ow])
        for group in range(g.groups):
            if one_by_one:
                for grad_image, column_image in zip(part[:, group], columns[:, group], strict=True):
                    by_group[group] += runtime.product(grad_image, column_image.T)
            else:  # images and pixels summed over in one product, of transposed copies
                left = part[:, group].swapaxes(0, 1).reshape(g.o_group, -1)
                right = columns[:, group].swapaxes(1, 2).reshape(left.shape[1], -1)
                by_group[group] += runtime.product(left, right)
    return dw


def _tiles(g, like: Array) -> Iterator[tuple[slice, int, int]]:
    """Images, first row and number of rows of windows whose columns are held at once."""
    budget = TILE_BYTES["gpu" if runtime.is_gpu(like) else "cpu"]
    row_bytes = g.c * g.kernel[0] * g.kernel[1] * g.ow * compute_dtype(like.dtype).itemsize
    images = max(1, budget // (row_bytes * g.oh))
    rows = g.oh if g.pointwise else min(g.oh, max(1, budget // row_bytes))
    for n in range(0, g.n, images):
        for row0 in range(0, g.oh, rows):
            yield slice(n, n + images), row0, min(rows, g.oh - row0)


def _columns(x: Array, g, row0: int, rows: int) -> Array:
    if g.pointwise:
        return wide(x).reshape(x.shape[0], g.groups, -1, g.oh * g.ow)
    columns = im2col(x, g.kernel, g.stride, g.padding, g.dilation, row0, rows)
    return columns.reshape(x.shape[0], g.groups, -1, rows * g.ow)
