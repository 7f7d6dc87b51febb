"""im2col and col2im: every window of an image as a column, and back.

    columns[n, (c, i, j), (y, x)] = image[n, c, y*stride + i*dilation - padding, x*stride + j*dilation - padding]

with zeros outside the image. `col2im` is its transpose: it adds every column's entry back to the pixel it came from.
Columns of a float16 or bfloat16 image are float32, as a product with float32 weights wants them.
Shapes: image (N, C, H, W), columns (N, C*KH*KW, OH*OW), the layout in which `weight @ columns` is a convolution.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cupynn.device import Array, compute_dtype, wide, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.conv_plan import on_device

Pair = tuple[int, int]


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Windows along one axis: floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def im2col(image: Array, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, row0=0, rows=None) -> Array:
    """Columns (N, C*KH*KW, rows*OW) of an image (N, C, H, W), for all rows of windows or for `rows` from row0 on."""
    n, c, h, w = image.shape
    oh = output_size(h, kernel_size[0], stride[0], padding[0], dilation[0])
    ow = output_size(w, kernel_size[1], stride[1], padding[1], dilation[1])
    rows = oh - row0 if rows is None else rows
    if not n or not runtime.compiled_for(image, narrow=True):
        columns = reference_im2col(wide(image), kernel_size, stride, padding, dilation)
        return columns[:, :, row0 * ow : (row0 + rows) * ow]
    xp = xp_of(image)
    columns = xp.empty((n, c * kernel_size[0] * kernel_size[1], rows * ow), compute_dtype(image.dtype))
    window = _window(h, w, kernel_size, stride, padding, dilation, ow, runtime.device_number(image))
    args = (xp.ascontiguousarray(image), columns, window, row0, rows)
    kernel = f"im2col<{runtime.ctype(image)}, {runtime.vector_bytes(image) // columns.dtype.itemsize}>"
    runtime.launch("im2col", kernel, n * c, runtime.threads(image), args, outputs=(columns,))
    return columns


def col2im(
    columns: Array,
    image_shape: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    row0: int = 0,
    image: Array | None = None,
) -> Array:
    """The image (N, C, H, W) to which every entry of columns (N, C*KH*KW, rows*OW) is added back.

    Columns of some rows of windows only, from row0 on, are added to `image`, which is then changed in place.
    """
    n, c, h, w = image_shape
    xp = xp_of(columns)
    ow = output_size(w, kernel_size[1], stride[1], padding[1], dilation[1])
    if not n or not runtime.compiled_for(columns):
        return reference_col2im(columns, image_shape, kernel_size, stride, padding, dilation)
    if image is None:
        image = xp.zeros(image_shape, columns.dtype)
    window = _window(h, w, kernel_size, stride, padding, dilation, ow, runtime.device_number(image))
    args = (xp.ascontiguousarray(columns), image, window, row0, columns.shape[2] // ow)
    runtime.launch(
        "im2col", f"col2im<{runtime.ctype(columns)}>", n * c, runtime.threads(columns), args, touches=(image,)
    )
    return image


@lru_cache(maxsize=512)
def _window(h, w, kernel_size, stride, padding, dilation, ow, device) -> Array:
    """struct Window of `im2col.cu`."""
    return on_device(device, np.array([h, w, *kernel_size, *stride, *padding, *dilation, ow], np.int32))


def instantiations() -> list[str]:
    """Every kernel that is launched on a GPU."""
    copies = ["im2col<float, 4>", "im2col<double, 2>", "im2col<Half, 4>", "im2col<BFloat16, 4>"]
    return [*copies, "col2im<float>", "col2im<double>"]


def cost(
    n: int, c: int, size: Pair, kernel_size: Pair, out_size: Pair, itemsize: int = 4
) -> dict[str, tuple[int, int]]:
    """(bytes, operations) of each pass: the image moved once, its columns once; col2im adds each entry."""
    entries = n * c * kernel_size[0] * kernel_size[1] * out_size[0] * out_size[1]
    moved = itemsize * (n * c * size[0] * size[1] + entries)
    return {"im2col": (moved, 0), "col2im": (moved, entries)}


def reference_im2col(image: Array, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """Columns (N, C*KH*KW, OH*OW) of an image (N, C, H, W), by a strided view."""
    xp = xp_of(image)
    n, c, h, w = image.shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel_size, stride, padding, dilation
    oh, ow = output_size(h, kh, sh, ph, dh), output_size(w, kw, sw, pw, dw)
    padded = xp.ascontiguousarray(xp.pad(image, ((0, 0), (0, 0), (ph, ph), (pw, pw))))
    per_n, per_c, per_y, per_x = padded.strides
    windows = xp.lib.stride_tricks.as_strided(
        padded, (n, c, kh, kw, oh, ow), (per_n, per_c, dh * per_y, dw * per_x, sh * per_y, sw * per_x)
    )
    return windows.reshape(n, c * kh * kw, oh * ow)


def reference_col2im(
    columns: Array, image_shape: tuple[int, ...], kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """The image (N, C, H, W) to which every entry of columns (N, C*KH*KW, OH*OW) is added back."""
    xp = xp_of(columns)
    n, c, h, w = image_shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel_size, stride, padding, dilation
    oh, ow = output_size(h, kh, sh, ph, dh), output_size(w, kw, sw, pw, dw)
    columns = columns.reshape(n, c, kh, kw, oh, ow)
    padded = xp.zeros((n, c, h + 2 * ph, w + 2 * pw), columns.dtype)
    for i in range(kh):
        for j in range(kw):
            y, x = i * dh, j * dw
            padded[:, :, y : y + sh * oh : sh, x : x + sw * ow : sw] += columns[:, :, i, j]
    return padded[:, :, ph : ph + h, pw : pw + w].copy()
