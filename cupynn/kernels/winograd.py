"""Launches of `winograd.cu`: 3x3 convolution at stride 1 by a quarter of a direct convolution's multiplications.

Given a checked geometry, a contiguous weight and arrays of whole images (`images.py`), which are read and written where
they lie. Transformed weights are packed for some output channels at a time: this scratch takes at most 10 MB, or 36 C
times one thread's channels where that is more. Transformed tiles stay in shared memory. A NaN or an infinity in an
image makes NaN of the whole 4x4 tile of the output that reads it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cupynn.device import Array, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.conv_plan import on_device
from cupynn.kernels.images import span, whole

FREQUENCIES = 36
PACKED_BYTES = 10 << 20  # part of the third-level cache
SCALED_IMAGES = 4  # of a block at most, as the scales of each stay in shared memory


Registers = tuple[int, int]  # what one thread keeps there: strips, and how many of each


class Target(NamedTuple):
    """The constants of `winograd.cu` that suit one processor."""

    lanes: int  # channels per strip: one vector register on a CPU
    products: tuple[Registers, ...]  # of `convolve`: strips of output channels, tiles
    sums: tuple[Registers, ...]  # of `weight_gradient`: strips of output channels, input channels
    threads: int  # per block
    shared_bytes: int  # what a block of `convolve` takes if it can: part of the second-level cache on a CPU
    chunk: int  # strips of input and of output channels of a block of `weight_gradient`, at most
    tiles: int  # of a block at once, at most
    staged: int  # strips of channels staged at once
    blocks: int  # of `weight_gradient`, where its channels make fewer: partial sums

    def registers(self, choice: tuple[Registers, ...], channels: int) -> Registers:
        """Those that pad this number of output channels least; the first of equals."""
        return min(choice, key=lambda registers: -(-channels // (registers[0] * self.lanes)) * registers[0])


def target(vector_bytes: int, itemsize: int, gpu: bool, threads: int) -> Target:
    """The one table of constants. Accumulators take up to 24 of a CPU's 32, or 10 of 16, vector registers."""
    if gpu:
        products = sums = ((4, 4),)
        return Target(1, products, sums, threads, shared_bytes=40 << 10, chunk=8, tiles=8, staged=4, blocks=128)
    if vector_bytes == 64:
        products, sums, shared_bytes = ((2, 12), (1, 16)), ((2, 8), (1, 8)), 832 << 10
    else:
        products, sums, shared_bytes = ((2, 5),), ((2, 4),), 416 << 10
    lanes = vector_bytes // itemsize
    return Target(lanes, products, sums, threads, shared_bytes, chunk=4, tiles=16, staged=1, blocks=16)


class Plan(NamedTuple):
    """A plan on the device, and what the host needs of it."""

    data: Array  # int32: struct Plan
    shared_bytes: int
    registers: Registers
    units: int  # groups of tiles: each a block, or part of the sums of one
    chunks: int  # of input channels times of output channels
    channels: int  # of the array that is written
    share: int  # output channels whose weights are packed at once


def takes(g) -> bool:
    """Whether geometry `g` is a 3x3 convolution at stride 1."""
    return g.kernel == (3, 3) and g.stride == g.dilation == (1, 1) and g.groups == 1 and max(g.padding) <= 2


def forward(
    x: Array,
    w: Array,
    bias: Array | None,
    g,
    out: Array | None = None,
    add: bool = False,
    scale: Array | None = None,
) -> Array:
    """y (N, O, OH, OW) of geometry `g`, written to `out` if there is one, or with `add` added to what is there.

    scale (N, O/run, C), contiguous: image n has the weight w[o, c] * scale[n, o // run, c], here and in the gradients.
    """
    y = xp_of(x).empty(g.output_shape, x.dtype) if out is None else out
    _convolve(x, w, bias, y, g, "forward", add, scale)
    return y


def input_gradient(
    grad: Array, w: Array, g, out: Array | None = None, add: bool = True, scale: Array | None = None
) -> Array:
    """dx (N, C, H, W) of geometry `g`, added to `out` if there is one, or written to it without `add`."""
    dx = xp_of(grad).empty((g.n, g.c, g.h, g.w), grad.dtype) if out is None else out
    _convolve(grad, w, None, dx, g, "input gradient", add and out is not None, scale)
    return dx


def weight_gradient(grad: Array, x: Array, w: Array, g, scale: Array | None = None) -> Array:
    """dw (O, C, 3, 3) of geometry `g`."""
    t, name, plan = _target(x), runtime.ctype(x), _plan_of(g, x, "weight gradient", scale)
    blocks = max(1, min(plan.units, t.blocks // plan.chunks))
    blocks = -(-plan.units // -(-plan.units // blocks))
    partial = xp_of(x).empty((blocks, *w.shape), x.dtype)
    strips, channels = plan.registers
    kernel = f"weight_gradient<{name}, {t.lanes}, {strips}, {channels}, {_cpp(scale is not None)}>"
    (x, x_pitch), (grad, grad_pitch) = span(x), span(grad)
    args = (x, grad, scale, partial, plan.data, x_pitch, grad_pitch, plan.units)
    runtime.launch("winograd", kernel, (blocks, plan.chunks), t.threads, args, plan.shared_bytes, outputs=(partial,))
    if blocks == 1:
        return partial[0]
    dw, share = xp_of(x).empty(w.shape, w.dtype), 1024
    args = (partial, dw, dw.size, blocks, share)
    runtime.launch("conv", f"reduce<{name}>", -(-dw.size // share), t.threads, args, outputs=(dw,))
    return dw


def instantiations() -> list[str]:
    """Every kernel of `winograd.cu` that is launched on a GPU."""
    t = target(16, 4, True, 128)
    names = []
    for name in ("float", "double"):
        for strips, tiles in t.products:
            names.append(f"pack<{name}, {t.lanes}, {strips}>")
            names += [f"convolve<{name}, {t.lanes}, {strips}, {tiles}, {scaled}>" for scaled in ("false", "true")]
        for strips, channels in t.sums:
            start = f"weight_gradient<{name}, {t.lanes}, {strips}, {channels}"
            names += [f"{start}, {scaled}>" for scaled in ("false", "true")]
    return names


def _convolve(x: Array, w: Array, bias: Array | None, y: Array, g, which: str, accumulate: bool, scale: Array | None):
    """y = the forward pass of x, or the gradient to the input of the gradient x; added to y with `accumulate`."""
    t, name, plan = _target(x), runtime.ctype(x), _plan_of(g, x, which, scale)
    strips, tiles = plan.registers
    wide, read = strips * t.lanes, x.shape[1]
    packed = xp_of(x).empty(min(plan.share, -(-plan.channels // wide) * wide) * read * FREQUENCIES, x.dtype)
    outputs = whole(y) if plan.share >= plan.channels and not accumulate else ()
    (x, x_pitch), (y_span, y_pitch) = span(x), span(y)
    touches = () if outputs else (y_span,)
    pack = f"pack<{name}, {t.lanes}, {strips}>"
    convolve = f"convolve<{name}, {t.lanes}, {strips}, {tiles}, {_cpp(scale is not None)}>"
    for first in range(0, plan.channels, plan.share):
        end = min(plan.channels, first + plan.share)
        blocks = -(-(end - first) // wide)
        part = packed[: blocks * wide * read * FREQUENCIES]
        args = (w, part, read, plan.channels, first, int(which == "input gradient"))
        runtime.launch("winograd", pack, (blocks, 8), t.threads, args, outputs=(part,))
        args = (x, part, bias, scale, y_span, plan.data, x_pitch, y_pitch, first, end, accumulate)
        runtime.launch("winograd", convolve, plan.units, t.threads, args, plan.shared_bytes, outputs, touches)


def _target(x: Array) -> Target:
    return target(runtime.vector_bytes(x), x.dtype.itemsize, runtime.is_gpu(x), runtime.threads(x, gpu=128))


def _cpp(flag: bool) -> str:
    return "true" if flag else "false"


def _plan_of(g, x: Array, which: str, scale: Array | None = None) -> Plan:
    run = 0 if scale is None else g.o // scale.shape[1]
    return _make_plan(g, _target(x), x.dtype.itemsize, which, runtime.device_number(x), run)


@lru_cache(maxsize=2048)
def _make_plan(g, t: Target, itemsize: int, which: str, device: int | None, run: int = 0) -> Plan:
    """How one pass is cut into blocks and chunks. It depends on shapes and the target only, so results do, too.

    run: neighbouring output channels of one scale, 0 where there are no scales.
    """
    x, y, padding = (g.c, g.h, g.w), (g.o, g.oh, g.ow), g.padding
    scales = [g.o // run * g.c, 1, 1, run, g.c] if run else [0] * 5
    if which == "input gradient":
        x, y, padding = y, x, (2 - g.padding[0], 2 - g.padding[1])
        scales[1:] = scales[3:] + scales[1:3]
    tiles_y, tiles_x = -(-y[1] // 4), -(-y[2] // 4)
    spans = -(-tiles_x // t.tiles)
    across = -(-tiles_x // spans)
    bands = -(-tiles_y // min(tiles_y, t.tiles // across))
    band = -(-tiles_y // bands)
    together = t.tiles // (tiles_y * tiles_x)
    sides = -(-g.n // max(1, min(g.n, min(together, SCALED_IMAGES) if run else together)))
    side = -(-g.n // sides)
    tiles, rows, pitch = side * band * across, band * 4 + 2, across * 4 + 2
    staged = t.staged * t.lanes * side * rows * pitch  # elements

    in_strips, out_strips = -(-x[0] // t.lanes), -(-y[0] // t.lanes)
    if which == "weight gradient":
        registers = t.registers(t.sums, y[0])
        wide, high = registers[0], -(-registers[1] // t.lanes)  # strips of one thread
        out_chunk = min(-(-out_strips // wide) * wide, t.chunk)
        in_chunk = min(-(-in_strips // high) * high, t.chunk)
        transformed = tiles * (in_chunk + out_chunk) + 2 + (t.lanes == 1)
        elements = FREQUENCIES * t.lanes * (in_chunk * out_chunk * t.lanes + transformed)
        elements += side * in_chunk * out_chunk * t.lanes**2 if run else 0
    else:
        registers = t.registers(t.products, y[0])
        wide = registers[0]
        staged += t.staged * t.lanes * tiles * (17 if t.lanes == 1 else 16)
        # Strips, transformed, that fit: half of them outputs, but all inputs if that leaves one thread's outputs.
        scale = side * wide * t.lanes**2 if run else 0  # of one strip of inputs and one thread's outputs
        room = (t.shared_bytes // itemsize - staged) // (FREQUENCIES * (tiles + 1) * t.lanes + scale)
        out_chunk = max(wide, min(-(-out_strips // wide), room // 2 // wide) * wide)
        if in_strips + wide <= room:
            out_chunk = min(out_chunk, (room - in_strips) // wide * wide)
        in_chunk = max(1, min(in_strips, room - out_chunk))
        in_chunk = -(-in_strips // -(-in_strips // in_chunk))  # chunks of nearly equal size
        elements = FREQUENCIES * t.lanes * (tiles * (in_chunk + out_chunk) + 1 + out_chunk // wide) + scale * in_chunk
    data = [*x, *padding, rows, pitch, *y, 0, 0, band * 4, across * 4]
    data += [g.n, *y[1:], tiles_y, tiles_x, side, band, bands, across, spans]
    data += [in_chunk * t.lanes, out_chunk * t.lanes, t.staged, *scales]
    data = on_device(device, np.array(data, np.int32))
    share = max(1, PACKED_BYTES // (FREQUENCIES * x[0] * wide * t.lanes * itemsize)) * wide * t.lanes
    units, chunks = sides * bands * spans, -(-in_strips // in_chunk) * -(-out_strips // out_chunk)
    return Plan(data, (elements + staged) * itemsize, registers, units, chunks, y[0], share)
