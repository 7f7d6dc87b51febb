"""WHE, wide hidden expansion: a hidden layer for every pixel of every group of channels, never held in memory.

    h[i, j] = a[i, j] x[i] + b[i, j] x[j] + c[i, j]
    y[i] = sum_j d[i, j] f(h[i, j])                      i, j in one group of g channels; i = j included

x is (N, C, H, W); a, b, c, d are (C/g, g, g), the group's number first, and float32 where x is float16 or bfloat16.
Nothing of the size of h, g times that of x, is allocated: the backward pass computes h again from x.
[WHE, equations 1 and 2]
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cupynn.device import Array, compute_dtype, is_floating, wide, xp_of
from cupynn.kernels import runtime

MOST = 32  # channels of a group
SLOPE = 0.01  # of leaky ReLU
TUNED = (2, 4, 8, 16)  # group sizes that are constants of the compiled kernel

# name: f(h, xp), f'(h) given f = f(h). At h = 0 the derivatives of relu and leaky_relu are those of the left side.
_ACTIVATIONS = {
    "relu": (lambda h, xp: xp.maximum(h, 0), lambda h, f, xp: (h > 0).astype(h.dtype)),
    "leaky_relu": (
        lambda h, xp: xp.where(h > 0, h, h.dtype.type(SLOPE) * h),
        lambda h, f, xp: xp.where(h > 0, h.dtype.type(1), h.dtype.type(SLOPE)),
    ),
    "elu": (
        lambda h, xp: xp.where(h > 0, h, xp.expm1(xp.minimum(h, 0))),
        lambda h, f, xp: xp.where(h > 0, h.dtype.type(1), f + 1),
    ),
    "tanh": (lambda h, xp: xp.tanh(h), lambda h, f, xp: 1 - f * f),
    "identity": (lambda h, xp: h, lambda h, f, xp: xp.ones_like(h)),
}
ACTIVATIONS = tuple(_ACTIVATIONS)
HOMOGENEOUS = ("relu", "leaky_relu", "identity")  # f(h) = f'(h) h: three sums give the weights' gradients, else four


def forward(x: Array, a: Array, b: Array, c: Array, d: Array, activation: str = "relu") -> Array:
    """y, of x's shape.

    `activation` is relu, leaky_relu (slope 0.01), elu, tanh or identity. Raises ValueError for another one, for
    weights that are not (C/g, g, g) with 1 <= g <= 32, TypeError for dtypes that differ.
    """
    g = _check(x, a, b, c, d, activation)
    if x.size == 0 or not runtime.compiled_for(x, a, b, c, d, narrow=True):
        return reference_forward(wide(x), a, b, c, d, activation).astype(x.dtype, copy=False)
    xp, launch = xp_of(x), _launch_of(x, g)
    x, a, b, c, d = map(xp.ascontiguousarray, (x, a, b, c, d))
    y = xp.empty_like(x)
    per_block = launch.strips * launch.threads * launch.lanes
    runtime.launch(
        "whe",
        f"forward<{launch.constants}, {launch.lanes}, {launch.rows}, {activation.upper()}>",
        (-(-launch.pixels // per_block), x.shape[1] // g),
        launch.threads,
        (x, a, b, c, d, y, np.int64(launch.pixels), x.shape[1], launch.plane, g, launch.strips),
        launch.unit_bytes,
        outputs=(y,),
    )
    return y


def backward(
    grad: Array, x: Array, a: Array, b: Array, c: Array, d: Array, activation: str = "relu"
) -> tuple[Array, Array, Array, Array, Array]:
    """(dx, da, db, dc, dd), given grad = dy, of x's shape.

    With t[i, j] = dy[i] f'(h[i, j]) and sums over the batch's pixels:

        dx[k] = sum_j t[k, j] d[k, j] a[k, j] + sum_i t[i, k] d[i, k] b[i, k]
        da = d sum t x[i]        db = d sum t x[j]        dc = d sum t        dd = sum dy[i] f(h)

    Raises as `forward` does, and for a grad that differs from x in shape or dtype.
    """
    g = _check(x, a, b, c, d, activation)
    _check_grad(grad, x)
    if x.size == 0 or not runtime.compiled_for(grad, x, a, b, c, d, narrow=True):
        dx, *gradients = reference_backward(wide(grad), wide(x), a, b, c, d, activation)
        return dx.astype(x.dtype, copy=False), *gradients
    xp, launch = xp_of(x), _launch_of(x, g)
    grad, x, a, b, c, d = map(xp.ascontiguousarray, (grad, x, a, b, c, d))
    sums = 3 if activation in HOMOGENEOUS else 4
    dx, partial = xp.empty_like(x), xp.empty((launch.blocks, launch.slices, sums, a.size), a.dtype)
    sizes = (x.shape[1], launch.plane, g, launch.tile, launch.pitch, launch.tiles, launch.slices)
    runtime.launch(
        "whe",
        f"backward<{launch.constants}, {launch.sum_lanes}, {launch.sum_strips}, {launch.rows}, {activation.upper()}>",
        (launch.blocks, x.shape[1] // g),
        launch.threads,
        (grad, x, a, b, c, d, dx, partial, np.int64(launch.pixels), *sizes),
        launch.unit_bytes + 2 * g * launch.pitch * a.dtype.itemsize,
        outputs=(dx, partial),
    )
    gradients = xp.empty((4, *a.shape), a.dtype)
    runtime.launch(
        "whe",
        f"reduce<{runtime.ctype(a)}, {launch.sum_lanes}, {activation.upper()}>",
        -(-a.size // (launch.threads * launch.sum_lanes)),
        launch.threads,
        (partial, a, b, c, d, *gradients, a.size, launch.blocks * launch.slices),
        outputs=tuple(gradients),
    )
    return dx, *gradients


def reference_forward(x, a, b, c, d, activation="relu"):
    _, f = _hidden(x, a, b, c, activation)
    return (_weights(d) * f).sum(axis=3).reshape(x.shape)


def reference_backward(grad, x, a, b, c, d, activation="relu"):
    h, f = _hidden(x, a, b, c, activation)
    groups, pixels = _groups(x, a), (0, 4, 5)  # the axes that a weight's gradient is summed over
    grad = _groups(grad, a)[:, :, :, None]
    dh = grad * _weights(d) * _ACTIVATIONS[activation][1](h, f, xp_of(x))
    dx = (dh * _weights(a)).sum(axis=3) + (dh * _weights(b)).sum(axis=2)
    da, db = (dh * groups[:, :, :, None]).sum(axis=pixels), (dh * groups[:, :, None]).sum(axis=pixels)
    return dx.reshape(x.shape), da, db, dh.sum(axis=pixels), (grad * f).sum(axis=pixels)


def cost(shape: tuple[int, ...], g: int, itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass over x of `shape` must cost; a multiply-add counts as two operations.

    Forward: 3 multiply-adds and a maximum per hidden unit. Backward: h (2 multiply-adds), f', and of the five sums
    one addition and four multiply-adds. There are g hidden units per element of x.
    """
    elements = math.prod(shape)
    return {
        "forward": (2 * elements * itemsize, 7 * g * elements),
        "backward": (3 * elements * itemsize, 14 * g * elements),
    }


def whe_parameters(channels: int, g: int) -> int:
    """The layer's learned numbers: 4 g C. [WHE]"""
    return 4 * g * channels


def whe_flops(channels: int, g: int, height: int, width: int) -> int:
    """Multiply-adds per image, which the paper counts as one FLOP each: 3 g C H W. [WHE, equations 3 and 5]"""
    return 3 * g * channels * height * width


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    return [
        expression
        for t in ("float", "double", "Half", "BFloat16")
        for activation in map(str.upper, ACTIVATIONS)
        for g in (0, *TUNED)
        for expression in (
            f"forward<{t}, {g}, {_gpu_lanes(t, g)}, {_rows(g)}, {activation}>",
            f"backward<{t}, {g}, 1, 1, {_rows(g)}, {activation}>",
            *([f"reduce<{t}, 1, {activation}>"] if g == 0 and t in ("float", "double") else []),
        )
    ]


class _Launch(NamedTuple):
    """How the kernels of whe.cu divide one array."""

    constants: str  # of the template: scalar type and group size
    pixels: int  # of the batch
    plane: int
    threads: int
    unit_bytes: int  # shared memory for one group's weights
    rows: int  # outputs that a thread computes together; the backward pass takes rows x rows hidden units
    lanes: int  # pixels of a strip, forward
    strips: int  # of a thread, forward
    sum_lanes: int  # one vector register, backward
    sum_strips: int  # vector registers of a strip of dx
    tile: int  # pixels in shared memory at a time
    pitch: int  # elements from one channel of a tile to the next
    tiles: int  # of a block
    blocks: int  # per group
    slices: int  # threads that share the pixels of a tile for the same hidden units


def _launch_of(x, g):
    t, gpu, tuned = runtime.ctype(x), runtime.is_gpu(x), g if g in TUNED else 0
    itemsize = compute_dtype(x.dtype).itemsize
    plane, rows, vector = math.prod(x.shape[2:]), _rows(tuned), runtime.vector_bytes(x) // itemsize
    pixels, groups = x.shape[0] * plane, x.shape[1] // g
    threads = runtime.threads(like=x, gpu=128 if tuned else 256 // itemsize)
    if gpu:
        # an odd pitch: neighbouring threads read neighbouring channels, which then lie in different banks
        lanes, strips, sum_lanes, sum_strips = _gpu_lanes(t, tuned), 1, 1, 1
        tile = threads * max(1, 16 // tuned if tuned else 1)
        pitch, most_blocks = tile + 1, 2048
    else:
        lanes, sum_lanes, sum_strips = 4 * vector, vector, 2
        strips = max(1, 65536 // (g * g * lanes * threads))  # about 20 microseconds
        tile = pitch = 256
        most_blocks = 256
    # At least 4 tiles, so that `partial` is small beside x. The number of blocks depends on shapes only.
    all_tiles = -(-pixels // tile)
    tiles = max(4, -(-all_tiles // max(1, most_blocks // groups)))
    units = (g // rows) ** 2
    return _Launch(
        f"{t}, {tuned}",
        pixels,
        plane,
        threads,
        4 * g * g * itemsize,
        rows,
        lanes,
        strips,
        sum_lanes,
        sum_strips,
        tile,
        pitch,
        tiles,
        -(-all_tiles // tiles),
        max(1, threads // units),
    )


def _rows(tuned):
    return 2 if tuned else 1


def _gpu_lanes(t, tuned):
    """Pixels of a strip that fit in a GPU thread's registers with the group's channels."""
    return 1 if tuned == 0 else 2 if t == "double" else 4


def _groups(x, a):
    """x as (N, groups, g, H, W)."""
    return x.reshape(x.shape[0], *a.shape[:2], *x.shape[2:])


def _weights(w):
    """A weight (groups, i, j) shaped to broadcast along hidden units (N, groups, i, j, H, W)."""
    return w[None, :, :, :, None, None]


def _hidden(x, a, b, c, activation):
    """Hidden units (N, groups, i, j, H, W), before and after the activation."""
    x = _groups(x, a)
    h = _weights(a) * x[:, :, :, None] + _weights(b) * x[:, :, None] + _weights(c)
    return h, _ACTIVATIONS[activation][0](h, xp_of(x))


def _check(x, a, b, c, d, activation):
    """The group size, once everything fits."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"whe: activation must be one of {', '.join(ACTIVATIONS)}; it is {activation!r}")
    if not is_floating(x.dtype):
        raise TypeError(f"whe: x must be float16, bfloat16, float32 or float64; it is {x.dtype}")
    if x.ndim != 4:
        raise ValueError(f"whe: x must have shape (N, C, H, W); it has shape {x.shape}")
    if a.ndim != 3 or a.shape[1] != a.shape[2] or not 1 <= a.shape[1] <= MOST:
        raise ValueError(f"whe: a must have shape (C/g, g, g) with g from 1 to {MOST}; it has shape {a.shape}")
    g = a.shape[1]
    if x.shape[1] % g:
        raise ValueError(f"whe: a has shape {a.shape}, so x needs a multiple of g={g} channels; x has shape {x.shape}")
    want = (x.shape[1] // g, g, g)
    for name, weight in {"a": a, "b": b, "c": c, "d": d}.items():
        if weight.shape != want:
            raise ValueError(
                f"whe: {name} must have shape (C/g, g, g) = {want} for x of shape {x.shape} and g={g}; "
                f"it has shape {weight.shape}"
            )
        if weight.dtype != compute_dtype(x.dtype):
            wanted = compute_dtype(x.dtype)
            raise TypeError(f"whe: {name} must be {wanted} where x is {x.dtype}; it is {weight.dtype}")
    return g


def _check_grad(grad, x):
    if grad.shape != x.shape:
        raise ValueError(f"whe: grad must have x's shape {x.shape}; it has shape {grad.shape}")
    if grad.dtype != x.dtype:
        raise TypeError(f"whe: grad must be {x.dtype} as x is; it is {grad.dtype}")
