"""Convolution at stride 1, 3x3 padded by 1 or 1x1, whose weight has factors of its own for every image:

    y[n, o] = sum_c scale[n, o // run, c] * convolution of x[n, c] by w[o, c]

x (N, C, H, W), w (O, C, KH, KW), y (N, O, H, W), scale (N, O/run, C), contiguous, or None where all are 1. With dropout
of channels, drawn anew for every `run` outputs, the scales are its masks: x is then read once for all outputs.

x, y and gradients may be some channels of wider arrays; results are written to, or added to, an array that is there.
Where x is float16 or bfloat16, so are y and gradients to x, while w, dw and scales are float32. Kernels take these, so
some images at a time are converted.
3x3 kernels go to `winograd.py`, without scales to the method that `conv.py` chooses; 1x1 kernels to `conv_scaled.cu`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cupynn.device import Array, xp_of
from cupynn.kernels import conv, conv_direct, runtime, winograd
from cupynn.kernels.conv_plan import on_device
from cupynn.kernels.images import span, whole

IMAGES = 16  # converted at a time


class Target(NamedTuple):
    """The constants of `conv_scaled.cu` that suit one processor."""

    lanes: int  # pixels, or input channels, per strip: one vector register on a CPU, one element on a GPU
    strips: int  # and output channels that one thread keeps in registers
    channels: int
    threads: int  # per block
    span: int  # pixels of a block at once, at most
    out_chunk: int  # output channels at once, at most
    shared_bytes: int  # of a block: part of the second-level cache on a CPU
    blocks: int  # partial sums of `weight_gradient`


def target(vector_bytes: int, itemsize: int, gpu: bool, threads: int) -> Target:
    """The one table of constants. Sums take 16 of a CPU's 32, or 8 of 16, vector registers."""
    lanes = vector_bytes // itemsize
    if gpu:
        return Target(1, lanes, 8, threads, 64, 32, 40 << 10, 128)
    if vector_bytes == 64:
        return Target(lanes, 2, 8, threads, 256, 128, 640 << 10, 16)
    return Target(lanes, 2, 4, threads, 128, 64, 192 << 10, 16)


class Plan(NamedTuple):
    """A plan on the device, and what the host needs of it."""

    data: Array  # int32: struct Plan
    shared_bytes: int
    parts: int  # of an image, each a block of `multiply`
    chunks: int  # of input channels times of output channels


class Shape(NamedTuple):
    """One 1x1 convolution; run: neighbouring output channels with one scale, 0 where there are no scales."""

    images: int
    ins: int
    outs: int
    plane: int
    run: int


def forward(x: Array, w: Array, y: Array, scale: Array | None = None, add: bool = False) -> None:
    """Write the convolution to y, or add it to y."""
    if x.dtype != w.dtype:
        return _convert(forward, x, w, y, scale, add)
    if not _compiled(x, w, y):
        result = reference_forward(x, w, scale)
        y[...] = y + result if add else result
        return None
    if w.shape[2] == 1:
        return _multiply(x, w, scale, y, "forward", add)
    g = conv.geometry(x.shape, w.shape, 1, 1)
    if _by_winograd(g, x, "forward", scale):
        winograd.forward(x, w, None, g, y, add, scale)
    else:
        conv_direct.forward(x, w, None, g, y, add)
    return None


def input_gradient(grad: Array, w: Array, dx: Array, scale: Array | None = None, add: bool = False) -> None:
    """Write the gradient to x, of the gradient `grad` that arrives at y, to dx, or add it to dx."""
    if grad.dtype != w.dtype:
        return _convert(input_gradient, grad, w, dx, scale, add)
    if not _compiled(grad, w, dx):
        result = reference_backward(grad, dx, w, scale, needs=(True, False))[0]
        dx[...] = dx + result if add else result
        return None
    if w.shape[2] == 1:
        return _multiply(grad, w, scale, dx, "input gradient", add)
    g = conv.geometry(dx.shape, w.shape, 1, 1)
    if _by_winograd(g, grad, "input gradient", scale):
        winograd.input_gradient(grad, w, g, dx, add, scale)
    else:
        conv_direct.input_gradient(grad, w, g, dx, add)
    return None


def weight_gradient(grad: Array, x: Array, w: Array, scale: Array | None = None) -> Array:
    """dw (O, C, KH, KW)."""
    if x.dtype != w.dtype:
        dw = xp_of(x).zeros(w.shape, w.dtype)
        for part in _parts(x):
            some = None if scale is None else scale[part]
            dw += weight_gradient(grad[part].astype(w.dtype), x[part].astype(w.dtype), w, some)
        return dw
    if not _compiled(grad, x, w):
        return reference_backward(grad, x, w, scale, needs=(False, True))[1]
    if w.shape[2] == 1:
        return _weight_gradient(grad, x, w, scale)
    g = conv.geometry(x.shape, w.shape, 1, 1)
    if _by_winograd(g, x, "weight gradient", scale):
        return winograd.weight_gradient(grad, x, w, g, scale)
    return conv_direct.weight_gradient(grad, x, w, g)[0]


def reference_forward(x, w, scale=None):
    """Every run of outputs from an x of its own."""
    padding = w.shape[2] // 2
    runs = _runs(w, scale)
    parts = [conv.reference_forward(_scaled(x, scale, j), w[run], padding=padding) for j, run in enumerate(runs)]
    return xp_of(x).concatenate(parts, axis=1)


def reference_backward(grad, x, w, scale=None, needs=(True, True)):
    """(dx, dw); None for what is not needed. dx needs no more of x than its shape."""
    dx, dw = xp_of(x).zeros_like(x) if needs[0] else None, []
    for j, run in enumerate(_runs(w, scale)):
        scaled = _scaled(x, scale, j) if needs[1] else x
        part, dw_run, _ = conv.reference_backward(
            grad[:, run], scaled, w[run], padding=w.shape[2] // 2, needs=(*needs, False)
        )
        if needs[0]:
            dx += _scaled(part, scale, j)
        dw.append(dw_run)
    return dx, xp_of(x).concatenate(dw) if needs[1] else None


def _convert(compute: Callable, x: Array, w: Array, y: Array, scale: Array | None, add: bool) -> None:
    """compute(x, w, y, scale), with x and y converted to w's dtype, and rounded once."""
    for part in _parts(x):
        result = xp_of(x).empty(y[part].shape, w.dtype)
        compute(x[part].astype(w.dtype), w, result, None if scale is None else scale[part])
        y[part] = (y[part].astype(w.dtype) + result if add else result).astype(y.dtype)


def _parts(x: Array) -> list[slice]:
    return [slice(first, first + IMAGES) for first in range(0, len(x), IMAGES)]


def _runs(w, scale) -> list[slice]:
    run = w.shape[0] if scale is None else w.shape[0] // scale.shape[1]
    return [slice(first, first + run) for first in range(0, w.shape[0], run)]


def _scaled(x, scale, j):
    return x if scale is None else x * scale[:, j, :, None, None]


def _compiled(*arrays: Array) -> bool:
    return arrays[0].size > 0 and runtime.compiled_for(*arrays)


def _by_winograd(g, x: Array, which: str, scale: Array | None) -> bool:
    """Direct and im2col have no scales, and im2col adds to nothing."""
    chosen = conv.method(g, runtime.is_gpu(x), which)
    return scale is not None or chosen == "winograd" or not conv_direct.fits(g, x)


def _multiply(x: Array, w: Array, scale: Array | None, y: Array, which: str, add: bool) -> None:
    """y = the forward pass of x, or the gradient to the input of the gradient x, by a 1x1 kernel; or added to y."""
    t, plan = _plan_of(x, w, scale, which)
    matrix = w.reshape(w.shape[:2])
    w = xp_of(w).ascontiguousarray(matrix if which == "input gradient" else matrix.T)  # (read, written channels)
    outputs = () if add else whole(y)
    (x, x_pitch), (to, y_pitch) = span(x), span(y)
    kernel = f"multiply<{runtime.ctype(x)}, {t.lanes}, {t.strips}, {t.channels}>"
    grid, args = plan.parts * len(y), (x, w, scale, to, plan.data, x_pitch, y_pitch, add)
    touches = () if outputs else (to,)
    runtime.launch("conv_scaled", kernel, grid, t.threads, args, plan.shared_bytes, outputs, touches)


def _weight_gradient(grad: Array, x: Array, w: Array, scale: Array | None) -> Array:
    t, plan = _plan_of(x, w, scale, "weight gradient")
    images, name = len(x), runtime.ctype(x)
    blocks = -(-images // -(-images // max(1, t.blocks // plan.chunks)))
    partial, dw, share = xp_of(x).empty((blocks, *w.shape), x.dtype), xp_of(x).empty(w.shape, x.dtype), 1024
    (x, x_pitch), (grad, grad_pitch) = span(x), span(grad)
    kernel = f"weight_gradient<{name}, {t.lanes}, {t.strips}, {t.channels}>"
    grid, args = (blocks, plan.chunks), (x, grad, scale, partial, plan.data, x_pitch, grad_pitch)
    runtime.launch("conv_scaled", kernel, grid, t.threads, args, plan.shared_bytes, outputs=(partial,))
    args = (partial, dw, dw.size, blocks, share)
    runtime.launch("conv", f"reduce<{name}>", -(-dw.size // share), t.threads, args, outputs=(dw,))
    return dw


def instantiations() -> list[str]:
    """Every kernel of `conv_scaled.cu` that is launched on a GPU."""
    names = []
    for name, itemsize in (("float", 4), ("double", 8)):
        t = target(16, itemsize, True, 128)
        constants = f"<{name}, {t.lanes}, {t.strips}, {t.channels}>"
        names += [f"multiply{constants}", f"weight_gradient{constants}"]
    return names


def cost(shape: Shape, itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass with a 1x1 kernel must cost: every array moved once, a multiply-add is two."""
    images, ins, outs, plane, run = shape
    scales = images * outs // run * ins if run else 0
    moved = (images * (ins + outs) * plane + ins * outs + scales) * itemsize
    operations = 2 * images * ins * outs * plane
    return {which: (moved, operations) for which in ("forward", "input gradient", "weight gradient")}


def _target(x: Array) -> Target:
    return target(runtime.vector_bytes(x), x.dtype.itemsize, runtime.is_gpu(x), runtime.threads(x, gpu=128))


def _plan_of(x: Array, w: Array, scale: Array | None, which: str) -> tuple[Target, Plan]:
    outs, ins, *_ = w.shape
    shape = Shape(len(x), ins, outs, x.shape[2] * x.shape[3], 0 if scale is None else outs // scale.shape[1])
    t = _target(x)
    return t, _make_plan(shape, t, x.dtype.itemsize, which, runtime.device_number(x))


@lru_cache(maxsize=2048)
def _make_plan(shape: Shape, t: Target, itemsize: int, which: str, device: int | None) -> Plan:
    """How one pass is cut into blocks and chunks. It depends on the shape and the target only, so results do, too."""
    images, ins, outs, plane, run = shape
    image_pitch, scales = (outs // run * ins, [1, 1, run, ins]) if run else (0, [0] * 4)
    if which == "input gradient":
        ins, outs, scales = outs, ins, scales[2:] + scales[:2]
    wide, room = t.strips * t.lanes, t.shared_bytes // itemsize

    def up(number: int, unit: int) -> int:
        return -(-number // unit) * unit

    part = plane
    if which == "weight gradient":
        across = min(t.span, up(plane, t.lanes))
        in_chunk, out_chunk = up(ins, wide), up(outs, t.channels)

        def elements() -> int:
            return (in_chunk + (t.lanes == 1)) * across + out_chunk * (across + t.lanes)

        while elements() > room and (in_chunk > wide or out_chunk > t.channels):
            if in_chunk > max(wide, out_chunk) or out_chunk == t.channels:
                in_chunk = up(in_chunk // 2, wide)
            else:
                out_chunk = up(out_chunk // 2, t.channels)
        shared = elements()
    else:
        across = min(t.span, up(plane, wide))
        in_chunk = min(ins, max(1, room // (across + min(t.out_chunk, up(outs, t.channels)))))
        in_chunk = -(-ins // -(-ins // in_chunk))  # chunks of nearly equal size
        out_chunk = min(up(outs, t.channels), max(1, (room // in_chunk - across) // t.channels) * t.channels)
        shared = in_chunk * (across + out_chunk)
        if images < t.blocks:  # few images: an image makes several blocks, each of which makes the weights again
            part = across
    data = [images, plane, ins, outs, part, across, in_chunk, out_chunk, image_pitch, *scales]
    chunks = -(-ins // in_chunk) * -(-outs // out_chunk)
    return Plan(on_device(device, np.array(data, np.int32)), shared * itemsize, -(-plane // part), chunks)
