"""Launches of `pointwise.cu`: 1x1 convolutions at any stride, without padding, as matrix products.

Given a checked geometry, a contiguous weight and arrays of whole images (`images.py`), which are read and written where
they lie. Sums have a fixed order, which depends on shapes and the target only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cupynn.device import Array, compute_dtype, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.conv_plan import on_device
from cupynn.kernels.images import span, whole


class Target(NamedTuple):
    """The constants of `pointwise.cu` that suit one processor."""

    lanes: int  # columns, or input channels, per strip: one vector register on a CPU, one element on a GPU
    tiles: tuple[tuple[int, int], ...]  # strips, and output channels, that one thread keeps in registers
    threads: int  # per block
    columns: int  # of a block of `weight_gradient` at once; of one of `convolve`, at most 4 times as many
    shared_bytes: int  # what a block takes if it can: part of the second-level cache on a CPU
    blocks: int  # of `weight_gradient`, where its channels make fewer: partial sums

    def tile(self, out_channels: int) -> tuple[int, int]:
        """The tile that pads this number of channels least; the first of equals."""
        return min(self.tiles, key=lambda tile: -(-out_channels // tile[1]) * tile[1])


def target(vector_bytes: int, itemsize: int, gpu: bool, threads: int) -> Target:
    """The one table of constants. Sums take 24 of a CPU's 32, or 12 of 16, vector registers."""
    lanes = vector_bytes // itemsize
    if gpu:
        return Target(1, ((lanes, 8),), threads, columns=64, shared_bytes=40 << 10, blocks=128)
    if vector_bytes == 64:
        return Target(lanes, ((4, 6), (3, 8)), threads, columns=256, shared_bytes=512 << 10, blocks=16)
    return Target(lanes, ((2, 6), (3, 4)), threads, columns=128, shared_bytes=192 << 10, blocks=16)


class Plan(NamedTuple):
    """A plan on the device, and what the host needs of it."""

    data: Array  # int32: struct Plan
    shared_bytes: int
    tile: tuple[int, int]
    blocks: int  # the grid's first axis
    chunks: int  # the grid's second axis
    channel_tiles: int  # of one group
    whole: bool  # whether all channels that are read are staged at once


def takes(g) -> bool:
    """Whether geometry `g` is a 1x1 convolution without padding."""
    return g.kernel == (1, 1) and g.padding == (0, 0) and g.n * g.oh * g.ow < 1 << 31


def fits(g, x: Array) -> bool:
    """Whether it computes geometry `g` for images of x's type. Sums in parts would be rounded to 16 bits in between."""
    if x.dtype.itemsize == 2 and takes(g):
        return all(_plan_of(g, x, which).whole for which in ("forward", "input gradient"))
    return takes(g)


def forward(x: Array, w: Array, bias: Array | None, g, out: Array | None = None) -> Array:
    """y (N, O, OH, OW) of geometry `g`, written to `out` if there is one."""
    y = xp_of(x).empty(g.output_shape, x.dtype) if out is None else out
    _convolve(x, w, bias, y, g, "forward", False, whole(y))
    return y


def input_gradient(grad: Array, w: Array, g, add_to: Array | None = None) -> Array:
    """dx (N, C, H, W) of geometry `g`, added to `add_to` if there is one; 0 where a stride skips pixels."""
    shape, skips = (g.n, g.c, g.h, g.w), (g.h, g.w) != (g.oh, g.ow)
    xp = xp_of(grad)
    dx = add_to if add_to is not None else (xp.zeros if skips else xp.empty)(shape, grad.dtype)
    _convolve(grad, w, None, dx, g, "input gradient", add_to is not None, () if skips else whole(dx))
    return dx


def weight_gradient(grad: Array, x: Array, w: Array, g) -> tuple[Array, Array]:
    """dw (O, C/groups, 1, 1) and dbias (O) of geometry `g`."""
    xp, t, name, plan = xp_of(x), _target(x), runtime.ctype(x), _plan_of(g, x, "weight gradient")
    # dw and dbias side by side, so that one launch adds up both
    partial = xp.empty((plan.blocks, w.size + g.o), w.dtype)
    strips, channels = plan.tile
    kernel = f"weight_gradient<{name}, {t.lanes}, {strips}, {channels}, {t.columns}>"
    by_output = _output_lanes(g, t)
    (vectors, vectors_pitch), (scalars, scalars_pitch) = map(span, (grad, x) if by_output else (x, grad))
    args = (vectors, scalars, partial, plan.data, vectors_pitch, scalars_pitch, by_output)
    grid = plan.blocks, plan.chunks
    runtime.launch("pointwise", kernel, grid, t.threads, args, plan.shared_bytes, outputs=(partial,))
    total = partial[0]
    if plan.blocks > 1:
        total, share = xp.empty(w.size + g.o, w.dtype), 1024
        args = (partial, total, total.size, plan.blocks, share)
        runtime.launch(
            "conv", f"reduce<{runtime.ctype(w)}>", -(-total.size // share), t.threads, args, outputs=(total,)
        )
    dw, dbias = total[: w.size], total[w.size :]
    if by_output:
        dw = xp.ascontiguousarray(dw.reshape(g.groups, g.c_group, g.o_group).swapaxes(1, 2))
    return dw.reshape(w.shape), dbias


def instantiations() -> list[str]:
    """Every kernel of `pointwise.cu` that is launched on a GPU."""
    sizes = {"float": 4, "double": 8, "Half": 4, "BFloat16": 4}  # bytes of what is computed with
    names = []
    for name, size in sizes.items():
        t = target(16, size, True, 128)
        for strips, channels in t.tiles:
            names += [f"pack<{name}, {channels}>"] if name in ("float", "double") else []
            names.append(f"convolve<{name}, {t.lanes}, {strips}, {channels}>")
            names.append(f"weight_gradient<{name}, {t.lanes}, {strips}, {channels}, {t.columns}>")
    return names


def _convolve(
    x: Array, w: Array, bias: Array | None, y: Array, g, which: str, accumulate: bool, outputs: tuple[Array, ...]
) -> None:
    """y = the forward pass of x, or the gradient to the input of the gradient x; added to y with `accumulate`."""
    t, name, plan = _target(x), runtime.ctype(x), _plan_of(g, x, which)
    strips, channels = plan.tile
    read, written = x.shape[1] // g.groups, y.shape[1] // g.groups
    packed = xp_of(x).empty(g.groups * plan.channel_tiles * channels * read, w.dtype)
    grid, args = (plan.channel_tiles, g.groups), (w, packed, read, written, int(which == "input gradient"))
    runtime.launch("pointwise", f"pack<{runtime.ctype(w)}, {channels}>", grid, t.threads, args, outputs=(packed,))
    (x, x_pitch), (y, y_pitch) = span(x), span(y)
    outputs = () if accumulate else outputs
    kernel, grid = f"convolve<{name}, {t.lanes}, {strips}, {channels}>", (plan.blocks, plan.chunks)
    args = (x, packed, bias, y, plan.data, x_pitch, y_pitch, accumulate)
    touches = () if outputs else (y,)
    runtime.launch("pointwise", kernel, grid, t.threads, args, plan.shared_bytes, outputs, touches)


def _output_lanes(g, t: Target) -> bool:
    """Whether the lanes of `weight_gradient` are output channels: few input channels would leave many of them empty."""
    return g.c_group < min(2 * t.lanes, g.o_group)


def _target(x: Array) -> Target:
    return target(runtime.vector_bytes(x), _itemsize(x), runtime.is_gpu(x), runtime.threads(x, gpu=128))


def _itemsize(x: Array) -> int:
    return compute_dtype(x.dtype).itemsize


def _plan_of(g, x: Array, which: str) -> Plan:
    return _make_plan(g, _target(x), _itemsize(x), which, runtime.device_number(x))


@lru_cache(maxsize=2048)
def _make_plan(g, t: Target, itemsize: int, which: str, device: int | None) -> Plan:
    """How one pass is cut into blocks and chunks."""
    columns = g.n * g.oh * g.ow
    image = g.h * g.w, g.stride[0] * g.w, g.stride[1]
    output = g.oh * g.ow, g.ow, 1
    ins, outs, pixels = g.c_group, g.o_group, (image, output)
    if which == "input gradient":
        ins, outs, pixels = outs, ins, (output, image)
    elif which == "weight gradient" and _output_lanes(g, t):
        ins, outs, pixels = outs, ins, (output, image)
    tile = strips, channels = t.tile(outs)
    wide = strips * t.lanes

    def addresses(count: int) -> int:  # bytes of two arrays' addresses, and whether strips lie together
        return count * 16 + count // t.lanes * 2

    def up(number: int, unit: int) -> int:
        return -(-number // unit) * unit

    if which == "weight gradient":
        across = t.columns
        room = (t.shared_bytes - addresses(across)) // itemsize
        out_chunk, in_chunk = up(outs, channels), up(ins, wide)
        pitch, pad = across + t.lanes, int(t.lanes == 1)

        def elements() -> int:
            return out_chunk * pitch + (in_chunk + pad) * across

        while elements() > room and (out_chunk > channels or in_chunk > wide):
            if in_chunk > max(wide, out_chunk):
                in_chunk = up(in_chunk // 2, wide)
            else:
                out_chunk = up(out_chunk // 2, channels)
        chunks = g.groups * -(-ins // in_chunk) * -(-outs // out_chunk)
        spans = -(-columns // across)
        blocks = max(1, min(spans, t.blocks // chunks))
        blocks = -(-spans // -(-spans // blocks))
        shared = elements() * itemsize + addresses(across)
    else:
        room = t.shared_bytes // (itemsize * wide)  # panels of one channel
        in_chunk = -(-ins // -(-ins // max(1, room // 2)))
        across = max(1, min(room // in_chunk, 4 * t.columns // wide, -(-columns // (8 * wide)))) * wide
        out_chunk, chunks, blocks = outs, g.groups, -(-columns // across)
        shared = in_chunk * across * itemsize + addresses(across)
    data = [*pixels[0], *pixels[1], columns, g.oh * g.ow, g.ow, ins, outs, across, in_chunk, out_chunk]
    data = on_device(device, np.array(data, np.int32))
    return Plan(data, shared, tile, blocks, chunks, -(-outs // channels), in_chunk >= ins)
