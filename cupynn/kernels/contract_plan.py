"""How one launch of `contract.cu` is cut into blocks and panels: the numbers that the kernel reads from its plan.

A plan depends on shapes and on the target only, never on the number of cores, so results do not either.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cupynn.device import Array
from cupynn.kernels.conv_plan import on_device

Taps = tuple[int, int]
Pairs = list[list[tuple[int, int]]]  # of each tap of z: taps of x and y


class Where(NamedTuple):
    """What a plan must know of the processor."""

    itemsize: int
    vector_bytes: int
    threads: int  # of a block
    device: int | None  # a GPU's number


class Target(NamedTuple):
    """The constants of `contract.cu` that suit one processor."""

    lanes: int  # of a strip: one vector register on a CPU
    rows: int  # rows and strips of sums that a thread keeps in registers
    strips: int
    across: int  # threads along columns and rows
    down: int
    staged: bool  # whether x goes through shared memory, too
    near_bytes: int  # shared memory of a block that stages a part of y, and of x
    panel_bytes: int  # of one that stages all of y for several tasks: half a CPU's second-level cache; 0: never
    row_span: int  # rows of a block, times depth and columns; 0: as many as its threads hold
    blocks: int  # wanted, at least


def target(where: Where, columns: int) -> Target:
    """The one table of constants. Sums take 16 of a CPU's 32, or 8 of 16, vector registers."""
    if where.threads > 1:
        across = 16 if where.threads >= 64 else 4
        return Target(1, 4, 4 if columns > across else 1, across, where.threads // across, True, 40 << 10, 0, 0, 1024)
    lanes = where.vector_bytes // where.itemsize
    return Target(lanes, 8 if where.vector_bytes == 64 else 4, 2, 1, 1, False, 128 << 10, 512 << 10, 1 << 15, 4)


class Operand(NamedTuple):
    """An array as a batch of matrices: elements from one to the next of the batch's outer and inner part, of its taps,
    and of the matrix's rows and columns."""

    name: str
    size: int
    outer: int
    inner: int
    tap: int
    row: int
    column: int


class Product(NamedTuple):
    """What one launch computes: z (rows, columns) from x (rows, depth) and y (depth, columns)."""

    outer: int
    inner: int
    rows: int
    depth: int
    columns: int
    x: Operand
    y: Operand
    z: Operand
    taps: int  # of y
    pairs: Pairs


class Plan(NamedTuple):
    reads: tuple[str, str]  # which arrays are x and y
    taps_first: bool  # whether x is (taps, groups * depth, rows) here, not (groups * depth, rows, taps)
    data: Array  # int32: struct Plan of contract.cu, its tasks, their pairs
    constants: str  # of the template, behind the scalar type
    grid: tuple[int, int, int]
    block: tuple[int, int]
    shared_bytes: int


@lru_cache(maxsize=1024)
def convolution(result: str, first: tuple[int, ...], second: tuple[int, ...], groups: int, where: Where) -> Plan:
    """The launch for `whole`, the contracted kernel, or the gradient to `first` or `second`, of shapes first
    (g P, I, AH, AW) and second (g O, P, BH, BW).

    Rows, depth and columns are such that arrays are read and written in their own order:

        second has one tap:  (O, P) (P, I taps), as plain matrices
        first has one tap:   (I, P) (P, taps), for each output
        else:                (I, P) (P, O), for each pair of taps

    Only in the last case, where each k would be a cache line of its own, x is wanted with its taps first.
    """
    (p, i, *a), (o, _, *b) = first, second
    p, o, size = p // groups, o // groups, (a[0] + b[0] - 1, a[1] + b[1] - 1)
    t1, t2, t = math.prod(a), math.prod(b), math.prod(size)

    def operand(name: str, size: int, *strides: int) -> Operand:
        return Operand(name, groups * size, size, 0, *strides)

    if t2 == 1:
        w1, w2 = operand("first", p * i * t, 0, i * t, 1), operand("second", o * p, 0, p, 1)
        w, taps, pairs = operand("whole", o * i * t, 0, i * t, 1), 1, [[(0, 0)]]
        sides = {
            "whole": (o, p, i * t, w2, w1, w),
            "first": (p, o, i * t, _turned(w2), w, w1),
            "second": (o, i * t, p, w, _turned(w1), w2),
        }
    elif t1 == 1:
        w1, w2 = operand("first", p * i, 0, i, 1), operand("second", o * p * t, p * t, t, 1)
        w, taps = operand("whole", o * i * t, i * t, t, 1), o
        pairs = [[(k, k) for k in range(o)]] if result == "first" else [[(0, k)] for k in range(o)]
        sides = {
            "whole": (i, p, t, _turned(w1), w2, w),
            "first": (p, t, i, w2, _turned(w), w1),
            "second": (p, i, t, w1, w, w2),
        }
    else:
        w1, w2 = operand("first", p * i * t1, 1, t1, i * t1), operand("second", o * p * t2, 1, t2, p * t2)
        w, taps = operand("whole", o * i * t, 1, t, i * t), t if result == "second" else t2
        pairs = pairs_of(a, b)[result]
        sides = {
            "whole": (i, p, o, w1._replace(outer=p * i, tap=groups * p * i, row=1, column=i), w2, w),
            "first": (i, o, p, w._replace(outer=o * i, tap=groups * o * i, row=1, column=i), _turned(w2), w1),
            "second": (p, i, o, _turned(w1), w, w2),
        }
    taps_first = t1 > 1 and t2 > 1 and result != "second"
    return _plan(Product(groups, 1, *sides[result], taps, pairs), where)._replace(taps_first=taps_first)


@lru_cache(maxsize=1024)
def composition(result: str, d: tuple[int, ...], w: tuple[int, ...], groups: int, layout: str, where: Where) -> Plan:
    """The launch for DO-Conv's `kernel`, or the gradient to `d` or `w`, of shapes d (C, taps, S) and
    w (O, C/groups, S): one product for every channel."""
    (channels, taps, s), (o, inputs, _) = d, w
    rows, (group, row) = o // groups, (o // groups, 1) if layout == "paper" else (1, groups)

    def by_channel(name: str, last: int) -> Operand:
        return Operand(name, o * inputs * last, group * inputs * last, last, 0, row * inputs * last, 1)

    d_as = Operand("d", channels * taps * s, inputs * taps * s, taps * s, 0, s, 1)
    w_as, kernel = by_channel("w", s), by_channel("kernel", taps)
    sides = {
        "kernel": (rows, s, taps, w_as, _turned(d_as), kernel),
        "d": (taps, rows, s, _turned(kernel), w_as, d_as),
        "w": (rows, taps, s, kernel, d_as, w_as),
    }
    return _plan(Product(groups, inputs, *sides[result], 1, [[(0, 0)]]), where)


def pairs_of(x: Taps, y: Taps) -> dict[str, Pairs]:
    """The pairs of taps that make each tap of a convolution of kernels with x and y taps, and of its gradients."""
    width = x[1] + y[1] - 1
    xs, ys = list(np.ndindex(*x)), list(np.ndindex(*y))
    pairs: dict[str, Pairs] = {
        "whole": [[] for _ in range((x[0] + y[0] - 1) * width)],
        "first": [[] for _ in xs],
        "second": [[] for _ in ys],
    }
    for j, (down, right) in enumerate(ys):
        for i, (top, left) in enumerate(xs):
            sum_of_both = (top + down) * width + left + right
            pairs["whole"][sum_of_both].append((i, j))
            pairs["first"][i].append((sum_of_both, j))
            pairs["second"][j].append((i, sum_of_both))
    return pairs


def _turned(operand):
    """The transposed matrices."""
    return operand._replace(row=operand.column, column=operand.row)


def _plan(p, where):
    t = target(where, p.columns)
    room = t.strips * t.lanes * t.across
    if p.columns <= t.lanes * t.across:
        room = t.lanes * t.across
    pitch, column_blocks, batch = room + (2 if t.lanes == 1 else 0), -(-p.columns // room), p.outer * p.inner

    # Rows of a block: on a CPU so many that staging y is little beside them.
    row_span = t.rows * t.down
    if t.row_span:
        row_span = min(p.rows, max(64, t.row_span // (p.depth * room) // t.rows * t.rows))
    row_blocks = -(-p.rows // row_span)

    # All of y's taps at once where tasks share them and they fit; else some pairs, or some of one pair's depth.
    x_pitch = row_span + 2 if t.staged else 0
    whole = sum(map(len, p.pairs)) > p.taps and p.taps * p.depth * pitch * where.itemsize <= t.panel_bytes
    most = t.near_bytes // where.itemsize // (pitch + x_pitch)
    chunk = p.depth if whole else min(p.depth, most)
    at_once = 0 if whole else min(max(map(len, p.pairs)), most // chunk)
    staged_rows = p.taps * p.depth if whole else at_once * chunk

    tasks = len(p.pairs)
    shares = min(tasks, -(-t.blocks // (batch * column_blocks * row_blocks)))
    task_span = -(-tasks // shares)
    data = [p.rows, p.depth, p.columns, row_span, row_blocks, tasks, task_span, at_once, chunk, p.taps, p.inner]
    data += [p.x.size, p.y.size, *p.x[2:], *p.y[2:], *p.z[2:]]
    first = 0
    for pairs in p.pairs:
        data += [first, first + len(pairs)]
        first += len(pairs)
    data += [tap for pairs in p.pairs for pair in pairs for tap in pair]
    return Plan(
        (p.x.name, p.y.name),
        False,
        on_device(where.device, np.array(data, np.int32)),
        f"{t.lanes}, {t.rows}, {t.strips}, {'true' if t.staged else 'false'}",
        (batch, column_blocks, row_blocks * -(-tasks // task_span)),
        (t.across, t.down),
        staged_rows * (pitch + x_pitch) * where.itemsize,
    )
