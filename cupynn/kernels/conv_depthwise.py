"""Launches of `depthwise.cu`: the depthwise convolution's three passes, given a checked geometry and contiguous arrays.

The geometry is `conv.geometry`'s with one input channel per group; w may be (C, M, KH, KW) or (C M, 1, KH, KW).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cupynn.device import Array, compute_dtype, wide, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.conv_plan import on_device

TILED = (3, 5, 7)  # square kernels with constants of their own, at strides 1 and 2
ROWS = 4  # of depthwise.cu
CPU = {"tile_bytes": 32 << 10, "elements": 16384, "threads": 1, "blocks": 8}
GPU = {"tile_bytes": 32 << 10, "elements": 1024, "threads": 128, "blocks": 1024}


def fits(g, x: Array) -> bool:
    """Whether a tile of this geometry fits into a block's shared memory. It does not where a row is very long."""
    return all(
        _plan_of(g, x, which).shared_bytes <= runtime.shared_capacity(x) for which in ("forward", "input", "weight")
    )


def forward(x: Array, w: Array, bias: Array | None, g, out: Array | None = None) -> Array:
    """y (N, C M, OH, OW) of geometry `g`, written to `out` if there is one."""
    xp = xp_of(x)
    y = xp.empty(g.output_shape, x.dtype)
    _convolve(xp.ascontiguousarray(x), w, bias, y, g, "forward")
    if out is None:
        return y
    out[...] = y
    return out


def input_gradient(grad: Array, w: Array, g, add_to: Array | None = None) -> Array:
    """dx (N, C, H, W) of geometry `g`, added to `add_to` if there is one."""
    xp, dtype = xp_of(grad), grad.dtype
    if g.o > g.c:  # the kernel adds up several filters' parts in dx, which 16 bits are too few for
        grad = wide(grad)
    dx = xp.empty((g.n, g.c, g.h, g.w), grad.dtype)
    _convolve(xp.ascontiguousarray(grad), w, None, dx, g, "input")
    if add_to is None:
        return dx.astype(dtype, copy=False)
    add_to += dx
    return add_to


def weight_gradient(grad: Array, x: Array, w: Array, g) -> tuple[Array, Array]:
    """dw, of w's shape, and dbias (C M) of geometry `g`."""
    xp, name, plan = xp_of(x), runtime.ctype(x), _plan_of(g, x, "weight")
    # dw and dbias side by side, so that one launch adds up both
    count = w.size + g.o
    partial, total = xp.empty((plan.grid[0], count), w.dtype), xp.empty(count, w.dtype)
    rows = tap_rows(plan.kernel[0], runtime.vector_bytes(x), runtime.is_gpu(x))
    kernel = f"weight_gradient<{name}, {plan.lanes}, {_constants(plan)}, {rows}>"
    args = (xp.ascontiguousarray(x), xp.ascontiguousarray(grad), partial, plan.data)
    runtime.launch("depthwise", kernel, plan.grid, plan.block, args, plan.shared_bytes, outputs=(partial,))
    span, threads = 1024, runtime.threads(like=x)
    args = (partial, total, count, plan.grid[0], span)
    runtime.launch("depthwise", f"reduce<{runtime.ctype(w)}>", -(-count // span), threads, args, outputs=(total,))
    return total[: w.size].reshape(w.shape), total[w.size :]


def instantiations(name: str) -> list[str]:
    """Every kernel launched on a GPU for images of one scalar type."""
    constants = [(k, k, s) for k in TILED for s in (1, 2)] + [(0, 0, 0)]
    names = [f"convolve<{name}, 1, {kh}, {kw}, {s}, 1>" for kh, kw, s in constants]
    names += [f"weight_gradient<{name}, 1, {kh}, {kw}, {s}, {tap_rows(kh, 16, True)}>" for kh, kw, s in constants]
    return [*names, f"reduce<{name}>"] if name in ("float", "double") else names


def tap_rows(kernel_rows: int, vector_bytes: int, gpu: bool) -> int:
    """Kernel rows whose sums a thread of `weight_gradient` keeps in registers: of those a CPU has 16 or 32."""
    if gpu or vector_bytes == 64:
        return {0: 1, 3: 3, 5: 5, 7: 3}[kernel_rows]
    return {0: 1, 3: 3, 5: 2, 7: 1}[kernel_rows]


class _Plan(NamedTuple):
    data: Array  # int32: struct Plan of depthwise.cu, then the kernel columns' offsets
    shared_bytes: int
    grid: tuple[int, ...]
    block: tuple[int, int, int]
    lanes: int
    images: int  # side by side in a strip
    kernel: tuple[int, int, int]  # constants KH, KW, STRIDE


def _constants(plan):
    return ", ".join(map(str, plan.kernel))


def _convolve(x, w, bias, y, g, which):
    plan = _plan_of(g, x, which)
    kernel = f"convolve<{runtime.ctype(x)}, {plan.lanes}, {_constants(plan)}, {plan.images}>"
    args = (x, w, bias, y, plan.data)
    runtime.launch("depthwise", kernel, plan.grid, plan.block, args, plan.shared_bytes, outputs=(y,))


def _plan_of(g, x, which):
    gpu = runtime.is_gpu(x)
    threads = runtime.threads(like=x, gpu=GPU["threads"])
    itemsize = compute_dtype(x.dtype).itemsize
    lanes = 1 if gpu else runtime.vector_bytes(x) // itemsize
    return _make_plan(g, which, itemsize, lanes, threads, gpu, runtime.device_number(x))


@lru_cache(maxsize=1024)
def _make_plan(g, which, itemsize, lanes, threads, gpu, device):
    """How one pass is cut into tiles and blocks. It depends on shapes and the target only, so results do, too."""
    (kh, kw), (dh, dw) = g.kernel, g.dilation
    multiplier, table = g.o // g.c, GPU if gpu else CPU
    size, out_size, step, spread, padding = (g.h, g.w), (g.oh, g.ow), g.stride, (1, 1), g.padding
    if which == "input":
        size, out_size, step, spread = out_size, size, (1, 1), g.stride
        padding = (dh * (kh - 1) - padding[0], dw * (kw - 1) - padding[1])
    tiled = kh == kw and kh in TILED and g.dilation == (1, 1) and step in ((1, 1), (2, 2))
    kernel = (kh, kw, step[0]) if tiled else (0, 0, 0)
    # Where a row of outputs is shorter than a vector, several images fill it, or a shorter vector is used.
    images = lanes // out_size[1]
    if which == "weight" or not tiled or images not in (2, 4) or images * out_size[1] != lanes or g.n < images:
        images = 1
        while lanes > 16 // itemsize and lanes // 2 >= out_size[1]:
            lanes //= 2

    strips = -(-out_size[1] * images // lanes)
    shifts = [j * dw for j in range(kw)]
    phases = step[1] if tiled else 1 + max(s % step[1] for s in shifts)
    phase_pitch = strips * lanes + max(s // step[1] for s in shifts) * images

    def tile_of(band):
        return ((band - 1) * step[0] + (kh - 1) * dh + 1) * phases * phase_pitch

    band = out_size[0]
    while band > ROWS and tile_of(band) * itemsize > table["tile_bytes"]:
        band = -(-band // 2 // ROWS) * ROWS
    bands = -(-out_size[0] // band)

    across = min(threads, 32, 1 << (strips - 1).bit_length())
    down = min(threads // across, 1 << (-(-band // ROWS) - 1).bit_length())
    sums = (kh * kw + 1) * lanes * itemsize if which == "weight" else 0  # bytes that each thread adds up in
    while gpu and across * down > 1 and sums * across * down > table["tile_bytes"]:
        across, down = (across, down // 2) if down > 1 else (across // 2, down)
    teams = max(1, threads // across // down) if sums * threads <= table["tile_bytes"] or not gpu else 1
    teams = min(teams, 64)  # a GPU takes no more threads along a block's third axis
    while teams > 1 and teams * tile_of(band) * itemsize > table["tile_bytes"]:
        teams //= 2

    plane, planes = images * out_size[0] * out_size[1], g.c if which == "input" else g.o
    group, shared = 0, teams * tile_of(band)
    if which == "weight":
        # neighbouring filters of an image together, until a block reads whole pages and gives every team its plane
        group = min(g.o, max(teams, 1 if gpu else min(1024 // plane, (256 << 10) // sums)))
        share = min(g.n, max(1, table["elements"] * 2 // (plane * group)))
        grid = (-(-g.n // share), -(-g.o // group))
        shared += group * sums * across * down // itemsize
    else:
        tasks = -(-g.n // images) * planes * bands
        share = max(1, min(table["elements"] * bands // plane, -(-tasks // table["blocks"] // teams)))
        grid = (-(-tasks // (share * teams)),)
    data = [g.o, g.n, planes, multiplier if which == "input" else 1, 1 if which == "input" else multiplier]
    data += [*size, *out_size, kh, kw, *step, dh, *padding, *spread, which == "input", band, bands]
    data += [phases, phase_pitch, tile_of(band), share, group]
    for phase in range(phases):
        # column k of this part is column k * step + phase - padding of the plane, spread out
        ahead = padding[1] - phase
        to = max(0, -(-ahead // step[1])) if spread[1] == 1 else max(ahead, ahead % spread[1])
        first = to * step[1] - ahead if spread[1] == 1 else (to - ahead) // spread[1]
        room = -(-(phase_pitch // images - to) // spread[1])
        count = max(0, min(room, -(-(size[1] - first) // step[1])))
        data += [phase * phase_pitch + to * images, first, count]
    data += [s % step[1] * phase_pitch + s // step[1] for s in shifts]
    data = on_device(device, np.array(data, np.int32))
    return _Plan(data, shared * itemsize, grid, (across, down, teams), lanes, images, kernel)
