"""Dense convolution on tensor cores (`conv_tc.cu`): products of float16, bfloat16 or TF32 numbers, summed in float32.

    forward            y = x * w + bias                     x, y, grad: float16, bfloat16 or float32, (N, C, H, W)
    input_gradient     dx of sum(grad * y)                  w, bias, dw: float32, w (O, C, KH, KW)
    weight_gradient    dw of sum(grad * y)                  any kernel, stride, padding and dilation; groups = 1

Factors are rounded first: float16 and bfloat16 images are what they are, weights are rounded to the images' type, and
float32 images and weights to TF32, 10 binary digits after the first. Every product is then exact in float32, in which
they are summed in an order that depends on shapes only: the same bits every time on one kind of GPU. Another kind, and
the CPU, may differ in the last ones: how the sum within one instruction is rounded is the hardware's own (tensor cores
have been found to cut digits off; Fasi et al., "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021).

It needs a GPU of compute capability 8.0. There it is chosen for float16 and bfloat16 of at least 8 input and 8 output
channels: enough to fill the 16 bytes of a copy, and a quarter of the narrowest tile of outputs. That rule is reckoned,
not measured on a GPU yet; CUPYNN_TUNE=1 measures. float32 means float32, so there it is chosen only where the user
allows TF32 by CUPYNN_TF32=1, which is read when a shape is first met. A CPU emulates it, for tests: it is never chosen.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cupynn.device import Array, wide, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.conv_plan import forward_reading, input_gradient_reading, on_device
from cupynn.kernels.im2col import reference_col2im, reference_im2col
from cupynn.kernels.images import span, whole

LEAST_ARCHITECTURE = 80  # compute capability 8.0: mma.sync of TF32 and bfloat16, cp.async
LEAST_CHANNELS = 8
STAGES, STAGE_BYTES, CHUNK = 4, 64, 16  # of conv_tc.cu


class Tile(NamedTuple):
    """A block's tile in template constants: warps along both factors, of 16 `rows` x 32 each."""

    rows: int
    warps_m: int
    warps_n: int

    @property
    def size(self) -> tuple[int, int]:
        return 16 * self.rows * self.warps_m, 32 * self.warps_n

    @property
    def threads(self) -> int:
        return 32 * self.warps_m * self.warps_n

    @property
    def shared_bytes(self) -> int:
        return STAGES * STAGE_BYTES * sum(self.size)


PIXEL_TILES = Tile(2, 4, 1), Tile(4, 2, 2), Tile(4, 2, 4)  # 128 pixels x 32, 64 or 128 channels
WEIGHT_TILES = Tile(2, 1, 4), Tile(2, 2, 2), Tile(4, 2, 4)  # 32 x 128, 64 x 64 or 128 x 128 output channels x columns
TYPES = "float", "Half", "BFloat16"
PARTIAL_BYTES = 64 << 20
BLOCKS = 512  # of weight_gradient, where there are pixels enough: about four for every multiprocessor of a large GPU


class Plan(NamedTuple):
    """A plan on the device, and what the host needs of it."""

    data: Array  # int32: struct Plan of conv_tc.cu, phases, taps
    tile: Tile
    blocks: int
    parts: int  # of weight_gradient


def takes(g) -> bool:
    """Whether geometry `g` is one that it computes: kernels count pixels, an image's elements, the weights, and the
    chunks from a window to a tap in 32 bits, also where padding is larger than the image; a grid's second axis ends at
    65535 blocks, of `lay_out`'s 32 channels.
    """
    channels, elements = max(g.c, g.o), g.kernel[0] * g.kernel[1]
    padded = (g.h + 2 * g.padding[0]) * (g.w + 2 * g.padding[1])
    images = max(g.n, g.c) * g.h * g.w, max(g.n, g.o) * g.oh * g.ow
    largest = max(*images, (channels + 8) * elements, (channels // 4 + 2) * padded, channels << 10)
    return g.groups == 1 and largest < (1 << 31) - (1 << 16)


def fits(g, x: Array) -> bool:
    """Whether it may compute geometry `g` for x: on a GPU that has what it needs, and for float32 as TF32 only."""
    if not takes(g) or runtime.capability(x) < LEAST_ARCHITECTURE or x.dtype.itemsize > 4:
        return False
    return x.dtype.itemsize == 2 or os.environ.get("CUPYNN_TF32") == "1"


def wins(g) -> bool:
    """The rule of the top of this file: whether there are enough channels."""
    return min(g.c, g.o) >= LEAST_CHANNELS


def forward(x: Array, w: Array, bias: Array | None, g, out: Array | None = None) -> Array:
    """y (N, O, OH, OW) of geometry `g`, written to `out`, of whole images, if there is one."""
    y = xp_of(x).empty(g.output_shape, x.dtype) if out is None else out
    _convolve(x, w, bias, y, g, "forward", False)
    return y


def input_gradient(grad: Array, w: Array, g, add_to: Array | None = None) -> Array:
    """dx (N, C, H, W) of geometry `g`, added to `add_to`, of whole images, if there is one."""
    dx = xp_of(grad).empty((g.n, g.c, g.h, g.w), grad.dtype) if add_to is None else add_to
    _convolve(grad, w, None, dx, g, "input gradient", add_to is not None)
    return dx


def weight_gradient(grad: Array, x: Array, w: Array, g) -> Array:
    """dw (O, C, KH, KW) of geometry `g`, in float32."""
    xp, plan, elements = xp_of(x), _plan_of(g, x, "weight gradient"), g.kernel[0] * g.kernel[1]
    laid_grad, laid_x = _lay_out(grad), _lay_out(x)
    padded = laid_x.shape[-1]
    partial, dw = xp.empty((plan.parts, g.o, elements, padded), np.float32), xp.empty(w.shape, np.float32)
    kernel = f"weight_gradient<{runtime.ctype(x)}, {', '.join(map(str, plan.tile))}>"
    args, shared = (laid_grad, laid_x, partial, plan.data), plan.tile.shared_bytes
    runtime.launch("conv_tc", kernel, plan.blocks, plan.tile.threads, args, shared, outputs=(partial,))
    args = (partial, dw, g.c, padded, elements, plan.parts)
    runtime.launch("conv_tc", "reduce", g.o, 256, args, outputs=(dw,))
    return dw


def instantiations() -> list[str]:
    """Every kernel of `conv_tc.cu` that is launched on a GPU."""
    names = ["reduce"]
    for name in TYPES:
        names += [f"lay_out<{name}>", f"pack<{name}>"]
        names += [f"convolve<{name}, {', '.join(map(str, tile))}>" for tile in PIXEL_TILES]
        names += [f"weight_gradient<{name}, {', '.join(map(str, tile))}>" for tile in WEIGHT_TILES]
    return names


def cost(g, itemsize: int = 2) -> dict[str, tuple[int, int]]:
    """(bytes, operations) of each pass by this method; `conv.cost` is what any method must cost.

    Every array is moved once; those that are laid out or packed are written and read once more, with channels padded.
    """
    elements, sizes = g.kernel[0] * g.kernel[1], (g.n * g.h * g.w, g.n * g.oh * g.ow)
    channels = g.c, g.o
    x, y = (pixels * count * itemsize for pixels, count in zip(sizes, channels, strict=True))
    chunks = [_chunks(count, itemsize) * CHUNK for count in channels]  # bytes of a pixel, laid out
    laid_x, laid_y = (2 * pixels * size for pixels, size in zip(sizes, chunks, strict=True))
    w, operations = 4 * g.o * g.c * elements, 2 * sizes[1] * elements // itemsize
    return {
        "forward": (x + laid_x + w + 2 * g.o * elements * chunks[0] + y, operations * g.o * chunks[0]),
        "input gradient": (y + laid_y + w + 2 * g.c * elements * chunks[1] + x, operations * g.c * chunks[1]),
        "weight gradient": (x + laid_x + y + laid_y + w, operations * g.o * chunks[0]),
    }


def rounded(array: Array, dtype: np.dtype) -> Array:
    """float32 numbers as a tensor core multiplies them for images of `dtype`: TF32 is to nearest, ties away from 0."""
    if dtype.itemsize == 2:
        return wide(array.astype(dtype))
    bits = (wide(array).astype(np.float32).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return xp_of(array).where(xp_of(array).isnan(array), array, bits.view(np.float32))


def reference_forward(x: Array, w: Array, bias: Array | None, g) -> Array:
    """The same by columns and one matrix product per image."""
    columns = reference_im2col(rounded(x, x.dtype), g.kernel, g.stride, g.padding, g.dilation)
    y = (rounded(w, x.dtype).reshape(g.o, -1) @ columns).reshape(g.output_shape)
    return (y if bias is None else y + bias[:, None, None]).astype(x.dtype, copy=False)


def reference_input_gradient(grad: Array, w: Array, g) -> Array:
    """The columns' gradient w^T grad, added up."""
    rows = rounded(grad, grad.dtype).reshape(g.n, g.o, g.oh * g.ow)
    columns = rounded(w, grad.dtype).reshape(g.o, -1).T @ rows
    shape = g.n, g.c, g.h, g.w
    return reference_col2im(columns, shape, g.kernel, g.stride, g.padding, g.dilation).astype(grad.dtype, copy=False)


def reference_weight_gradient(grad: Array, x: Array, w: Array, g) -> Array:
    """The products grad columns^T of all images, added up."""
    columns = reference_im2col(rounded(x, x.dtype), g.kernel, g.stride, g.padding, g.dilation)
    rows = rounded(grad, grad.dtype).reshape(g.n, g.o, g.oh * g.ow)
    return (rows @ columns.swapaxes(1, 2)).sum(axis=0).reshape(w.shape)


def _convolve(x: Array, w: Array, bias: Array | None, y: Array, g, which: str, accumulate: bool) -> None:
    """y = the forward pass of x, or the gradient to the input of the gradient x; added to y with `accumulate`."""
    plan, name, elements = _plan_of(g, x, which), runtime.ctype(x), g.kernel[0] * g.kernel[1]
    laid, outs = _lay_out(x), y.shape[1]
    packed = xp_of(x).empty((outs, elements, laid.shape[-1]), x.dtype)
    args = (w, packed, x.shape[1], laid.shape[-1], elements, which == "input gradient")
    runtime.launch("conv_tc", f"pack<{name}>", outs, 256, args, outputs=(packed,))
    outputs = () if accumulate else whole(y)
    y_span, pitch = span(y)
    kernel = f"convolve<{name}, {', '.join(map(str, plan.tile))}>"
    args, touches = (laid, packed, bias, y_span, plan.data, pitch, accumulate), () if outputs else (y_span,)
    shared = plan.tile.shared_bytes
    runtime.launch("conv_tc", kernel, plan.blocks, plan.tile.threads, args, shared, outputs, touches)


def _lay_out(x: Array) -> Array:
    """x (N, C, H, W) as (N, H, W, padded channels), rounded for tensor cores."""
    n, c, h, w = x.shape
    padded = _chunks(c, x.dtype.itemsize) * CHUNK // x.dtype.itemsize
    laid, (x_span, pitch) = xp_of(x).empty((n, h, w, padded), x.dtype), span(x)
    blocks = n * -(-h * w // 64), -(-padded // 32)
    args = (x_span, laid, c, padded, h * w, pitch)
    runtime.launch("conv_tc", f"lay_out<{runtime.ctype(x)}>", blocks, 256, args, outputs=(laid,))
    return laid


def _chunks(channels: int, itemsize: int) -> int:
    return -(-channels * itemsize // CHUNK)


def _plan_of(g, x: Array, which: str) -> Plan:
    return _make_plan(g, x.dtype.itemsize, which, runtime.device_number(x))


@lru_cache(maxsize=2048)
def _make_plan(g, itemsize: int, which: str, device: int | None) -> Plan:
    """How one pass is cut into blocks. Raises ValueError for what the kernels do not take."""
    if not takes(g) or itemsize > 4:
        raise ValueError(
            "conv2d on tensor cores: wants groups=1, fewer than 2^31 pixels and elements of an image, also when "
            f"padded, 16 or 32 bits; got groups={g.groups}, x {(g.n, g.c, g.h, g.w)}, padding {g.padding}, "
            f"y {g.output_shape}, {8 * itemsize} bits"
        )
    r = input_gradient_reading(g) if which == "input gradient" else forward_reading(g)
    elements, chunks = r.elements, _chunks(r.in_channels, itemsize)
    plan = [*r.size, chunks, *r.read_step]
    if which == "weight gradient":
        pixels, columns, a_stage = g.n * g.oh * g.ow, elements * chunks * CHUNK // itemsize, STAGE_BYTES // itemsize
        tile = min(WEIGHT_TILES, key=lambda tile: _clocks(tile, g.o, columns))
        out_tiles, column_tiles = -(-g.o // tile.size[0]), -(-columns // tile.size[1])
        most = min(BLOCKS // (out_tiles * column_tiles), PARTIAL_BYTES // (4 * g.o * columns), pixels // (8 * a_stage))
        part = max(1, -(-pixels // max(1, most)))  # pixels
        part, parts = -(-part // a_stage) * a_stage, 1
        parts = max(1, -(-pixels // part))
        plan += [g.o, elements, 1, 0, 0, 0, 0, 0, pixels, g.oh, g.ow, out_tiles, column_tiles, part]
        blocks, phases = out_tiles * column_tiles * parts, []
    else:
        tile, parts = min(PIXEL_TILES, key=lambda tile: _clocks(tile, 1, r.out_channels)), 1
        height, width = r.out_size
        channel_tiles = -(-r.out_channels // tile.size[1])
        plan += [r.out_channels, elements, len(r.phases), channel_tiles, height * width, width, *r.write_step]
        plan += [0] * 6
        blocks, phases, first_tap = 0, [], 0
        for phase in r.phases:
            pixels = r.images * phase.count[0] * phase.count[1]
            phases += [blocks, pixels, *phase.count, *phase.first, first_tap, len(phase.taps)]
            blocks, first_tap = blocks - (-pixels // tile.size[0]), first_tap + len(phase.taps)
        blocks *= channel_tiles
    pairs = [pair for phase in r.phases for pair in zip(phase.shifts, phase.taps, strict=True)]
    data = [*plan, *phases, *(number for shift, tap in pairs for number in (*shift, tap))]
    return Plan(on_device(device, np.array(data, np.int32)), tile, blocks, parts)


def _clocks(tile: Tile, rows: int, columns: int) -> float:
    """Clocks per unit of depth to multiply `rows` x `columns` in tiles, reckoned for an A100 and 16 bits: a
    multiprocessor does 1024 multiply-adds a clock, and gets 40 bytes from the second-level cache."""
    m, n = tile.size
    return -(-rows // m) * -(-columns // n) * max(m * n / 1024, (m + n) * 2 / 40)
