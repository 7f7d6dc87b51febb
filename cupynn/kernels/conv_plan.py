"""How one convolution is cut into blocks, tiles and strips: the numbers that `conv.cu` reads from its plan.

A plan depends on shapes and on the target only, never on the number of cores, so results do not either.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cupynn.device import Array


class Target(NamedTuple):
    """The constants of `conv.cu` that suit one processor."""

    lanes: int  # outputs per strip: one vector register on a CPU, one on a GPU
    tiles: tuple[tuple[int, int], ...]  # strips and output channels that one thread of `convolve` keeps in registers
    gradient_channels: int  # output channels and taps that one thread of `weight_gradient` keeps in registers
    gradient_taps: int
    threads: int  # per block
    tile_bytes: int  # shared memory of a block: part of the second-level cache on a CPU
    task_bytes: int  # what a weight_gradient task rereads: part of the first-level cache on a CPU
    blocks: int  # partial sums of weight_gradient

    def tile(self, out_channels: int) -> tuple[int, int]:
        """The tile that pads this number of channels least; the first of equals."""
        return min(self.tiles, key=lambda tile: -(-out_channels // tile[1]) * tile[1])


def target(vector_bytes: int, itemsize: int, gpu: bool, threads: int) -> Target:
    """The one table of tile constants. Accumulators take up to 24 of a CPU's 32, or 10 of 16, vector registers."""
    lanes = vector_bytes // itemsize
    if gpu:
        return Target(1, ((lanes, 8),), 4, 6, threads, 40 << 10, 40 << 10, 128)
    if vector_bytes == 64:
        return Target(lanes, ((2, 8), (4, 4)), 4, 6, threads, 384 << 10, 36 << 10, 16)
    return Target(lanes, ((2, 4),), 2, 5, threads, 192 << 10, 24 << 10, 16)


class Reading(NamedTuple):
    """A convolution as `conv.cu` sees it: every output of a phase reads one window, through a list of taps."""

    images: int
    groups: int
    in_channels: int  # of one group
    out_channels: int
    size: tuple[int, int]  # of the array that is read
    out_size: tuple[int, int]  # of the array that is written
    read_step: tuple[int, int]
    write_step: tuple[int, int]
    elements: int  # of a kernel
    phases: tuple  # of Phase


class Phase(NamedTuple):
    """Outputs first, first + write_step, ..., `count` each way. Tap k reads at shifts[k] + read_step * output."""

    first: tuple[int, int]
    count: tuple[int, int]
    taps: tuple[int, ...]  # numbers of the kernel's elements, row by row
    shifts: tuple[tuple[int, int], ...]  # row and column


def forward_reading(g) -> Reading:
    """The forward pass of geometry `g`: one phase."""
    (kh, kw), (dh, dw), (ph, pw) = g.kernel, g.dilation, g.padding
    shifts = tuple((i * dh - ph, j * dw - pw) for i in range(kh) for j in range(kw))
    phase = Phase((0, 0), (g.oh, g.ow), tuple(range(kh * kw)), shifts)
    return Reading(g.n, g.groups, g.c_group, g.o_group, (g.h, g.w), (g.oh, g.ow), g.stride, (1, 1), kh * kw, (phase,))


def input_gradient_reading(g) -> Reading:
    """The gradient to the input of geometry `g`: a phase for each remainder of a pixel's coordinates modulo stride."""
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = g.kernel, g.dilation, g.padding, g.stride
    phases = []
    for y in range(min(sh, g.h)):
        for x in range(min(sw, g.w)):
            rows = [(i, (y + ph - i * dh) // sh) for i in range(kh) if (y + ph - i * dh) % sh == 0]
            columns = [(j, (x + pw - j * dw) // sw) for j in range(kw) if (x + pw - j * dw) % sw == 0]
            taps = tuple(i * kw + j for i, _ in rows for j, _ in columns)
            shifts = tuple((a, b) for _, a in rows for _, b in columns)
            phases.append(Phase((y, x), (-(-(g.h - y) // sh), -(-(g.w - x) // sw)), taps, shifts))
    return Reading(
        g.n, g.groups, g.o_group, g.c_group, (g.oh, g.ow), (g.h, g.w), (1, 1), g.stride, kh * kw, tuple(phases)
    )


class Plan(NamedTuple):
    """A plan on the device, and what the host needs of it."""

    data: Array  # int32: struct Plan, the phases, the taps
    shared_bytes: int
    blocks: int  # the grid's first axis
    chunks: int  # the grid's second axis
    channel_tiles: int  # of one group
    packed: int  # elements of the packed weights
    whole: bool  # whether a tile has all input channels


# What writing one strip costs, in multiply-adds of a strip: whole, cut short, and scattered over 2, 4, ... images.
# Estimated from timings on an AVX-512 core; only the order of the choices matters.
_WHOLE, _CUT, _SCATTERED = 12, 32, {2: 32, 4: 64, 8: 96, 16: 96}


def _interleave(r: Reading, lanes: int) -> int:
    """Images side by side in a strip: the number with the least work."""

    def work(count: int) -> int:
        total = 0
        for p in r.phases:
            strips = -(-r.images // count) * p.count[0] * -(-p.count[1] * count // lanes)
            write = _SCATTERED[count] if count > 1 else _CUT if p.count[1] % lanes else _WHOLE
            total += strips * (r.in_channels * len(p.taps) + write)
        return total

    return min((1 << k for k in range(lanes.bit_length())), key=work)


def make_plan(r: Reading, t: Target, itemsize: int, gradient: bool, device: int | None) -> Plan:
    """Choose bands, channels per chunk and image groups per stack so that a block's tiles fit into its memory."""
    side = _interleave(r, t.lanes)
    tile_strips, tile_channels = t.tile(r.out_channels)
    all_shifts = [s for p in r.phases for s in p.shifts] or [(0, 0)]  # none: an image smaller than the stride
    low = [min(s[axis] for s in all_shifts) for axis in (0, 1)]
    high = [max(s[axis] for s in all_shifts) for axis in (0, 1)]
    step_y, step_x = r.read_step
    all_rows = max(p.count[0] for p in r.phases)
    lane_columns = max(-(-p.count[1] * side // t.lanes) for p in r.phases) * t.lanes
    remainders = 1 + max((s[1] - low[1]) % step_x for s in all_shifts)
    column_pitch = lane_columns + (high[1] - low[1]) // step_x * side
    odd = int(gradient and t.lanes == 1)  # neighbouring rows begin in other banks of a GPU's shared memory
    row_pitch, gradient_pitch = remainders * column_pitch | odd, lane_columns | odd

    def tile_rows(band: int) -> int:
        return (band - 1) * step_y + high[0] - low[0] + 1

    def plane_bytes(band: int) -> int:  # of one channel, in both tiles
        extra = band * gradient_pitch if gradient else 0
        return itemsize * (tile_rows(band) * row_pitch + extra * t.gradient_channels)

    images = -(-r.images // side)
    strips_per_line = lane_columns // t.lanes
    band = all_rows
    while band > 1 and (
        plane_bytes(band) > t.tile_bytes
        or (plane_bytes(band) * r.in_channels > t.tile_bytes and tile_rows(band) > 3 * tile_rows(1))
        or (images * -(-all_rows // band) * r.groups < 16 and band > 4)
    ):
        band = -(-band // 2)
    bands = -(-all_rows // band)
    input_plane = tile_rows(band) * row_pitch * itemsize
    gradient_plane = band * gradient_pitch * itemsize
    in_chunk, out_chunk = max(1, min(r.in_channels, t.tile_bytes // input_plane)), r.out_channels
    # Image groups side by side until the strips of one row fill whole runs: a run then skips taps outside the image.
    # Those of a GPU's thread lie in several rows anyway.
    stack = 1 if t.lanes == 1 else tile_strips // math.gcd(tile_strips, strips_per_line)
    stack = max(1, min(stack, t.tile_bytes // (in_chunk * input_plane), images // 8))
    blocks, chunks = -(-images // stack) * bands, r.groups
    shared = stack * in_chunk * input_plane
    if gradient:
        tile = t.gradient_channels
        out_chunk = min(-(-r.out_channels // tile), t.tile_bytes // 2 // gradient_plane // tile) * tile
        out_chunk = max(tile, out_chunk)
        in_chunk = max(1, min(r.in_channels, (t.tile_bytes - out_chunk * gradient_plane) // input_plane))
        unit = in_chunk * input_plane + out_chunk * gradient_plane
        units = images * bands
        weights = r.groups * r.out_channels * r.in_channels * len(all_shifts) * itemsize
        stack = max(1, min(t.tile_bytes // unit, t.task_bytes // (input_plane + tile * gradient_plane)))
        blocks = max(1, min(max(t.blocks // 2, min(t.blocks, units // stack)), units, (64 << 20) // weights))
        share = -(-units // blocks)
        blocks, stack = -(-units // share), min(stack, share)
        shared = stack * unit
        chunks = r.groups * -(-r.in_channels // in_chunk) * -(-r.out_channels // out_chunk)

    (h, w), (oh, ow) = r.size, r.out_size
    channels_read, channels_written = r.groups * r.in_channels, r.groups * r.out_channels
    data = [r.images, channels_read, h, w, step_x, -low[0], -low[1], side, tile_rows(band), row_pitch, column_pitch]
    data += [r.images, channels_written, oh, ow, 1, 0, 0, side, band, gradient_pitch, lane_columns]
    data += [r.groups, r.in_channels, r.out_channels, oh, ow, step_y, *r.write_step, band, bands]
    channel_tiles = -(-r.out_channels // tile_channels)
    weight_bytes = itemsize * channel_tiles * tile_channels * r.in_channels * max(len(p.taps) for p in r.phases)
    runs = -(-band * strips_per_line * stack // tile_strips)
    # What streams past the first-level cache: all weights for every run, or the whole tile for every channel tile.
    # On a GPU neighbouring threads take neighbouring pixels.
    channels_inside = t.lanes > 1 and runs * weight_bytes < channel_tiles * shared
    data += [in_chunk, out_chunk, stack, channels_inside, r.elements, len(r.phases)]
    padded_channels = r.groups * channel_tiles * tile_channels
    first_tap = first_weight = 0
    for p in r.phases:
        data += [*p.count, *p.first, first_tap, len(p.taps), first_weight]
        first_tap += len(p.taps)
        first_weight += padded_channels * r.in_channels * len(p.taps)
    for tap, (y, x) in [pair for p in r.phases for pair in zip(p.taps, p.shifts, strict=True)]:
        row, shift = y - low[0], x - low[1]
        data += [row * row_pitch + shift % step_x * column_pitch + shift // step_x * side, row, tap]
    return Plan(
        on_device(device, np.array(data, np.int32)),
        shared,
        blocks,
        chunks,
        channel_tiles,
        first_weight,
        in_chunk >= r.in_channels,
    )


def on_device(device: int | None, array: np.ndarray) -> Array:
    """A small table where a kernel reads it: on GPU number `device`, or where it is."""
    if device is None:
        return array
    import cupy

    with cupy.cuda.Device(device):
        return cupy.asarray(array)


@lru_cache(maxsize=2048)
def plan(g, t: Target, itemsize: int, which: str, device: int | None) -> Plan:
    """The plan of one pass of geometry `g` ("forward", "input gradient" or "weight gradient"), made once per shape.

    `device` is a GPU's number, or None for the CPU: where the plan lies.
    """
    reading = input_gradient_reading(g) if which == "input gradient" else forward_reading(g)
    return make_plan(reading, t, itemsize, which == "weight gradient", device)
