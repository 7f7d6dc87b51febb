"""How the kernels of batch_norm.cu divide an array, and their launches: the compiled passes of batch_norm.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cupynn.device import Array, compute_dtype, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.images import span, whole, with_whole_images

# Elements of one channel that a block reduces, elements that a block normalises, and lanes of a thread's strip; planes
# up to `small` are reduced in rows, `row_chunk` elements by a block.
# On the CPU a chunk must stay in the first two caches, as it is read twice; on the GPU blocks must be many.
CPU = {"chunk": 16384, "elements": 16384, "lanes": 32, "small": 256, "row_chunk": 65536}
GPU = {"chunk": 4096, "elements": 2048, "lanes": 1, "small": 7, "row_chunk": 8192}
WIDTH = 1024  # as in batch_norm.cu
PER_CHANNEL = "combine_statistics", "combine_gradients", "move_running"


class _Launch(NamedTuple):
    """How the kernels divide one array: those that reduce channels, and those that go element by element."""

    reduce: tuple[str, str]  # suffix of the kernels' names, beginning of their template arguments
    chunks: int
    chunk_grid: tuple[int, int]
    chunk_block: tuple[int, int]
    chunk_sizes: tuple[int, int, int, int]  # images, channels, plane, images_per_chunk
    blocks: int
    block: tuple[int, int]
    plane_sizes: tuple[np.int64, int, int, int]  # planes, channels, plane, planes_per_block
    per_channel: tuple[int, int]  # grid and block with a thread per channel


def _launch_of(x):
    table = GPU if runtime.is_gpu(x) else CPU
    t, threads = runtime.ctype(x), runtime.threads(like=x)
    images, channels = x.shape[:2]
    plane, planes = math.prod(x.shape[2:]), images * channels
    across = min(threads, 1 << (plane - 1).bit_length())
    block = across, threads // across
    if plane <= table["small"]:
        reduce, chunk_block, together = ("_in_rows", t), (threads, 1), min(channels, WIDTH // plane)
        images_per_chunk = table["row_chunk"] // (together * plane)
    else:
        reduce, chunk_block, together = ("", f"{t}, {table['lanes']}"), block, 1
        images_per_chunk = table["chunk"] // plane
    # a grid has at most 65535 blocks along its second axis
    images_per_chunk = min(images, max(1, images_per_chunk, -(-images // 65535)))
    planes_per_block, chunks = max(1, table["elements"] // plane), -(-images // images_per_chunk)
    return _Launch(
        reduce,
        chunks,
        (-(-channels // together), chunks),
        chunk_block,
        (images, channels, plane, images_per_chunk),
        -(-planes // planes_per_block),
        block,
        (np.int64(planes), channels, plane, planes_per_block),
        (-(-channels // threads) if threads > 1 else 1, threads),
    )


def _run(kernel: str, arguments: str, grid: Any, block: Any, args: Sequence, outputs: Sequence[Array]) -> None:
    runtime.launch("batch_norm", f"{kernel}<{arguments}>", grid, block, args, outputs=outputs)


def statistics(x: Array, eps: float) -> tuple[Array, Array, Array]:
    """(mean, biased variance, 1 / sqrt(variance + eps)) of every channel of x, each (C,), by compiled kernels."""
    xp, launch = xp_of(x), _launch_of(x)
    x = with_whole_images(x)
    chunk_mean, chunk_squares = chunked = xp.empty((2, launch.chunks, x.shape[1]), compute_dtype(x.dtype))
    args = span(x)[0], chunk_mean, chunk_squares, span(x)[1], *launch.chunk_sizes
    suffix, arguments = launch.reduce
    _run("statistics" + suffix, arguments, launch.chunk_grid, launch.chunk_block, args, tuple(chunked))
    mean, variance, inv_std = xp.empty((3, x.shape[1]), chunk_mean.dtype)
    args = chunk_mean, chunk_squares, mean, variance, inv_std, runtime.scalar(x.dtype, eps), *launch.chunk_sizes
    _run("combine_statistics", runtime.ctype(mean), *launch.per_channel, args, (mean, variance, inv_std))
    return mean, variance, inv_std


def normalise(
    x: Array,
    mean: Array,
    inv_std: Array,
    gamma: Array | None,
    beta: Array | None,
    relu: int,
    out: Array | None,
    residual: Array | None,
) -> Array:
    """f((x - mean) * inv_std * gamma + beta + residual), written to `out` if it is given."""
    xp, launch = xp_of(x), _launch_of(x)
    mean, inv_std, gamma, beta = _contiguous(xp, mean, inv_std, gamma, beta)
    y = xp.empty(x.shape, x.dtype) if out is None else out
    images = [None if image is None else with_whole_images(image) for image in (x, residual, y)]
    (x, more, to), pitches = zip(*map(span, images), strict=True)
    arguments = f"{runtime.ctype(x)}, {int(relu)}, {_cpp(residual is not None)}"
    args = x, mean, inv_std, gamma, beta, more, to, *pitches, *launch.plane_sizes
    _run("normalise", arguments, launch.blocks, launch.block, args, whole(y))
    return y


def backward(
    grad: Array,
    x: Array,
    y: Array | None,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    inv_std: Array,
    relu: int,
    residual: bool,
    training: bool,
) -> tuple[Array, ...]:
    """(dx, dgamma, dbeta), and dresidual with `residual`."""
    xp, launch = xp_of(x), _launch_of(x)
    gamma, beta, mean, inv_std = _contiguous(xp, gamma, beta, mean, inv_std)
    dx = xp.empty(x.shape, x.dtype)
    channels, count = x.shape[1], runtime.scalar(x.dtype, x.size // x.shape[1])
    keep = bool(relu and residual)
    dresidual = xp.empty(x.shape, x.dtype) if keep else grad
    images = [None if image is None else with_whole_images(image) for image in (grad, x, y if keep else None)]
    (grad, x, y), pitches = zip(*map(span, images), strict=True)
    chunk_grad, chunk_product = chunked = xp.empty((2, launch.chunks, channels), mean.dtype)
    suffix, arguments = launch.reduce
    arguments += f", {int(relu)}, {_cpp(keep)}"
    norm, outputs = (mean, inv_std, gamma, beta), (*chunked, dresidual) if keep else tuple(chunked)
    args = grad, x, y, *norm, *chunked, dresidual if keep else None, *pitches, *launch.chunk_sizes
    _run("gradient_sums" + suffix, arguments, launch.chunk_grid, launch.chunk_block, args, outputs)
    dgamma, dbeta = (xp.empty(channels, mean.dtype) for _ in range(2))  # each its own, so that a leaf may keep it
    args = chunk_grad, chunk_product, inv_std, dgamma, dbeta, launch.chunks, channels
    _run("combine_gradients", runtime.ctype(mean), *launch.per_channel, args, (dgamma, dbeta))
    if keep:  # it holds g, so neither grad nor the mask is needed again
        relu, (grad, pitch) = False, span(dresidual)
        pitches = pitch, *pitches[1:]
    arguments = f"{runtime.ctype(dx)}, {int(relu)}, {_cpp(training)}"
    args = grad, x, *norm, dgamma, dbeta, dx, count, *pitches[:2], *launch.plane_sizes
    _run("gradient", arguments, launch.blocks, launch.block, args, (dx,))
    return (dx, dgamma, dbeta, dresidual) if residual else (dx, dgamma, dbeta)


def move_running(
    running_mean: Array, running_var: Array, mean: Array, variance: Array, keep: float, shares: tuple[float, float]
) -> None:
    """running = keep * running + share * batch's, in place: mean and variance of a channel, each with its share."""
    numbers = [runtime.scalar(running_mean.dtype, number) for number in (keep, *shares)]
    size, threads = running_mean.size, runtime.threads(like=running_mean)
    args = running_mean, running_var, *_contiguous(xp_of(mean), mean, variance), np.int64(size), *numbers
    running = running_mean, running_var
    name = f"move_running<{runtime.ctype(mean)}>"
    runtime.launch("batch_norm", name, -(-size // threads), threads, args, touches=running)


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    flags, relus = ("false", "true"), (0, 1, 6)
    kept = [(0, "false"), *((relu, keep) for relu in (1, 6) for keep in flags)]
    expressions = [f"{name}<{t}>" for name in PER_CHANNEL for t in ("float", "double")]
    for t in ("float", "double", "Half", "BFloat16"):
        expressions += [f"normalise<{t}, {relu}, {residual}>" for relu in relus for residual in flags]
        expressions += [f"gradient<{t}, {relu}, {training}>" for relu in relus for training in flags]
        for suffix, arguments in (("", f"{t}, {GPU['lanes']}"), ("_in_rows", t)):
            expressions.append(f"statistics{suffix}<{arguments}>")
            expressions += [f"gradient_sums{suffix}<{arguments}, {relu}, {keep}>" for relu, keep in kept]
    return expressions


def _contiguous(xp, *arrays):
    return [None if array is None else xp.ascontiguousarray(array) for array in arrays]


def _cpp(flag):
    return "true" if flag else "false"
