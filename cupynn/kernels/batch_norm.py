"""Batch normalisation, per channel over the batch and the plane, with ReLU fused as an option.

    y = gamma * (x - mean) / sqrt(variance + eps) + beta,   then max(y, 0) with relu=True

x is (N, C) or (N, C, H, W); gamma, beta, mean, variance are (C,). x, y and gradients may be some channels of wider
arrays, `wide[:, 3:5]`: they are read and written in place. Where x is float16 or bfloat16, so are y and gradients to
x, while all that is (C,) is float32. Training normalises by the batch's own mean and
biased variance; evaluation by the running ones. [Ioffe and Szegedy 2015, algorithm 1]
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cupynn.device import Array, compute_dtype, is_floating, wide, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.images import span, whole, with_whole_images

# Elements of one channel that a block reduces, elements that a block normalises, and lanes of a thread's strip.
# On the CPU a chunk must stay in the first two caches, as it is read twice; on the GPU blocks must be many.
CPU = {"chunk": 16384, "elements": 16384, "lanes": 32}
GPU = {"chunk": 4096, "elements": 2048, "lanes": 1}


def forward_train(
    x: Array, gamma: Array | None, beta: Array | None, eps: float, relu: bool = False, out: Array | None = None
) -> tuple[Array, Array, Array, Array]:
    """Normalise by the batch's statistics: (y, mean, variance, inv_std), the last three (C,). y is `out`, if given.

    `variance` is the biased one, sum((x - mean)**2) / M with M = N * H * W. A running average wants the unbiased one,
    variance * M / (M - 1).

    Raises ValueError where M < 2 (the variance is not defined) and where a shape does not fit.
    """
    _check(x, gamma=gamma, beta=beta)
    _check_out(out, x)
    count = _count(x)
    if count < 2:
        raise ValueError(
            f"batch_norm: training needs more than one value per channel, N * H * W > 1; x has shape {x.shape}"
        )
    if not runtime.compiled_for(x, gamma, beta, narrow=True):
        y, *rest = reference_forward_train(wide(x), gamma, beta, eps, relu)
        return _into(out, y, x), *rest
    mean, variance, inv_std = statistics(x, eps)
    x = with_whole_images(x)
    return _normalise(x, mean, inv_std, gamma, beta, relu, _launch_of(x), out), mean, variance, inv_std


def statistics(x: Array, eps: float) -> tuple[Array, Array, Array]:
    """(mean, biased variance, 1 / sqrt(variance + eps)) of every channel of x, each (C,), by compiled kernels."""
    xp, t, launch = xp_of(x), runtime.ctype(x), _launch_of(x)
    x = with_whole_images(x)
    chunk_mean, chunk_squares = xp.empty((2, launch.chunks, x.shape[1]), compute_dtype(x.dtype))
    runtime.launch(
        "batch_norm",
        f"statistics<{t}, {launch.lanes}>",
        (x.shape[1], launch.chunks),
        launch.block,
        (span(x)[0], chunk_mean, chunk_squares, span(x)[1], *launch.chunk_sizes),
        outputs=(chunk_mean, chunk_squares),
    )
    mean, variance, inv_std = xp.empty((3, x.shape[1]), chunk_mean.dtype)
    runtime.launch(
        "batch_norm",
        f"combine_statistics<{runtime.ctype(mean)}>",
        *launch.per_channel,
        (chunk_mean, chunk_squares, mean, variance, inv_std, runtime.scalar(x.dtype, eps), *launch.chunk_sizes),
        outputs=(mean, variance, inv_std),
    )
    return mean, variance, inv_std


def forward_eval(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """Normalise by the running statistics: y, of x's shape; it is `out`, if given."""
    _check(x, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    _check_out(out, x)
    if x.size == 0 or not runtime.compiled_for(x, gamma, beta, running_mean, running_var, narrow=True):
        return _into(out, reference_forward_eval(wide(x), gamma, beta, running_mean, running_var, eps, relu), x)
    x = with_whole_images(x)
    return _normalise(x, running_mean, _inv_std(running_var, eps), gamma, beta, relu, _launch_of(x), out)


def backward_train(
    grad: Array, x: Array, y: Array | None, gamma: Array | None, mean: Array, inv_std: Array, relu: bool = False
) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta) of `forward_train`; `y` is its output and only read with relu=True.

    g = grad * (y > 0)            xhat = (x - mean) * inv_std
    dbeta = sum g                 dgamma = sum g * xhat
    dx = gamma * inv_std * (g - dbeta / M - xhat * dgamma / M)
    """
    _check(x, gamma=gamma, mean=mean, inv_std=inv_std)
    _check_grad(grad, x, y, relu)
    if x.size == 0 or not runtime.compiled_for(grad, x, y, gamma, mean, inv_std, narrow=True):
        dx, *sums = reference_backward_train(wide(grad), wide(x), y, gamma, mean, inv_std, relu)
        return dx.astype(x.dtype, copy=False), *sums
    return _backward(grad, x, y, gamma, mean, inv_std, relu, training=True)


def backward_eval(
    grad: Array,
    x: Array,
    y: Array | None,
    gamma: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
    relu: bool = False,
) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta) of `forward_eval`: as in training, but the statistics do not depend on x."""
    _check(x, gamma=gamma, running_mean=running_mean, running_var=running_var)
    _check_grad(grad, x, y, relu)
    if x.size == 0 or not runtime.compiled_for(grad, x, y, gamma, running_mean, running_var, narrow=True):
        dx, *sums = reference_backward_eval(wide(grad), wide(x), y, gamma, running_mean, running_var, eps, relu)
        return dx.astype(x.dtype, copy=False), *sums
    return _backward(grad, x, y, gamma, running_mean, _inv_std(running_var, eps), relu, training=False)


def reference_forward_train(x, gamma, beta, eps, relu=False):
    axes = _axes(x)
    mean = x.mean(axis=axes)
    centred = x - _channels(mean, x)
    variance = (centred * centred).mean(axis=axes)
    mean = mean + centred.mean(axis=axes)  # what rounding left: it matters where |mean| is far above the deviation
    inv_std = 1 / xp_of(x).sqrt(variance + x.dtype.type(eps))
    return _affine(x, mean, inv_std, gamma, beta, relu), mean, variance, inv_std


def reference_forward_eval(x, gamma, beta, running_mean, running_var, eps, relu=False):
    return _affine(x, running_mean, _inv_std(running_var, eps), gamma, beta, relu)


def reference_backward_train(grad, x, y, gamma, mean, inv_std, relu=False):
    grad, xhat, dgamma, dbeta = _sums(grad, x, y, mean, inv_std, relu)
    scale = inv_std if gamma is None else gamma * inv_std
    count = x.dtype.type(max(_count(x), 1))
    dx = _channels(scale, x) * (grad - _channels(dbeta / count, x) - xhat * _channels(dgamma / count, x))
    return dx, dgamma, dbeta


def reference_backward_eval(grad, x, y, gamma, running_mean, running_var, eps, relu=False):
    inv_std = _inv_std(running_var, eps)
    grad, _, dgamma, dbeta = _sums(grad, x, y, running_mean, inv_std, relu)
    return grad * _channels(inv_std if gamma is None else gamma * inv_std, x), dgamma, dbeta


def cost(shape: tuple[int, ...], itemsize: int = 4, relu: bool = False) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass over x of `shape` must cost.

    Forward in training reads x twice (statistics, normalisation) and writes y; backward reads grad and x twice
    (and y twice for ReLU's mask) and writes dx. Evaluation reads once.
    """
    elements = math.prod(shape)
    mask = 1 if relu else 0
    return {
        "forward_train": (3 * elements * itemsize, (7 + mask) * elements),
        "forward_eval": (2 * elements * itemsize, (3 + mask) * elements),
        "backward_train": ((5 + 2 * mask) * elements * itemsize, (9 + 2 * mask) * elements),
        "backward_eval": ((4 + 2 * mask) * elements * itemsize, (5 + 2 * mask) * elements),
    }


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    flags, lanes = ("false", "true"), GPU["lanes"]
    return [
        expression
        for t in ("float", "double", "Half", "BFloat16")
        for expression in (
            f"statistics<{t}, {lanes}>",
            *([f"combine_statistics<{t}>", f"combine_gradients<{t}>"] if t in ("float", "double") else []),
            *(f"normalise<{t}, {relu}>" for relu in flags),
            *(f"gradient_sums<{t}, {lanes}, {relu}>" for relu in flags),
            *(f"gradient<{t}, {relu}, {training}>" for relu in flags for training in flags),
        )
    ]


class _Launch(NamedTuple):
    """How the kernels of batch_norm.cu divide one array."""

    lanes: int
    block: tuple[int, int]
    chunks: int
    chunk_sizes: tuple[int, int, int, int]  # images, channels, plane, images_per_chunk
    blocks: int
    plane_sizes: tuple[np.int64, int, int, int]  # planes, channels, plane, planes_per_block
    per_channel: tuple[int, int]  # grid and block with a thread per channel


def _launch_of(x):
    table = GPU if runtime.is_gpu(x) else CPU
    images, channels = x.shape[:2]
    plane, planes = math.prod(x.shape[2:]), images * channels
    threads = runtime.threads(like=x)
    across = min(threads, 1 << (plane - 1).bit_length())
    # a grid has at most 65535 blocks along its second axis
    images_per_chunk = min(images, max(1, table["chunk"] // plane, -(-images // 65535)))
    planes_per_block = max(1, table["elements"] // plane)
    return _Launch(
        table["lanes"],
        (across, threads // across),
        -(-images // images_per_chunk),
        (images, channels, plane, images_per_chunk),
        -(-planes // planes_per_block),
        (np.int64(planes), channels, plane, planes_per_block),
        (-(-channels // threads) if threads > 1 else 1, threads),
    )


def _normalise(x, mean, inv_std, gamma, beta, relu, launch, out):
    xp = xp_of(x)
    mean, inv_std, gamma, beta = _contiguous(xp, mean, inv_std, gamma, beta)
    y = xp.empty(x.shape, x.dtype) if out is None else out
    (x, x_pitch), (to, y_pitch) = span(x), span(y)
    runtime.launch(
        "batch_norm",
        f"normalise<{runtime.ctype(x)}, {_cpp(relu)}>",
        launch.blocks,
        launch.block,
        (x, mean, inv_std, gamma, beta, to, x_pitch, y_pitch, *launch.plane_sizes),
        outputs=whole(y),
    )
    return y


def _backward(grad, x, y, gamma, mean, inv_std, relu, training):
    xp, t, launch = xp_of(x), runtime.ctype(x), _launch_of(x)
    gamma, mean, inv_std = _contiguous(xp, gamma, mean, inv_std)
    dx = xp.empty(x.shape, x.dtype)
    count = runtime.scalar(x.dtype, _count(x))
    images = [None if image is None else with_whole_images(image) for image in (grad, x, y if relu else None)]
    (grad, x, y), pitches = zip(*map(span, images), strict=True)
    channels = dx.shape[1]
    chunk_grad, chunk_product = xp.empty((2, launch.chunks, channels), mean.dtype)
    runtime.launch(
        "batch_norm",
        f"gradient_sums<{t}, {launch.lanes}, {_cpp(relu)}>",
        (channels, launch.chunks),
        launch.block,
        (grad, x, y, mean, chunk_grad, chunk_product, *pitches, *launch.chunk_sizes),
        outputs=(chunk_grad, chunk_product),
    )
    dgamma, dbeta = xp.empty((2, channels), mean.dtype)
    runtime.launch(
        "batch_norm",
        f"combine_gradients<{runtime.ctype(mean)}>",
        *launch.per_channel,
        (chunk_grad, chunk_product, inv_std, dgamma, dbeta, launch.chunks, channels),
        outputs=(dgamma, dbeta),
    )
    runtime.launch(
        "batch_norm",
        f"gradient<{t}, {_cpp(relu)}, {_cpp(training)}>",
        launch.blocks,
        launch.block,
        (grad, x, y, mean, inv_std, gamma, dgamma, dbeta, dx, count, *pitches, *launch.plane_sizes),
        outputs=(dx,),
    )
    return dx, dgamma, dbeta


def _into(out, y, x):
    if out is None:
        return y.astype(x.dtype, copy=False)
    out[...] = y
    return out


def _contiguous(xp, *arrays):
    return [None if array is None else xp.ascontiguousarray(array) for array in arrays]


def _cpp(flag):
    return "true" if flag else "false"


def _axes(x):
    return (0, *range(2, x.ndim))


def _count(x):
    return x.size // x.shape[1] if x.shape[1] else 0


def _channels(values, x):
    """(C,) shaped to broadcast along x's channel axis."""
    return values.reshape((-1,) + (1,) * (x.ndim - 2))


def _inv_std(variance, eps):
    return 1 / xp_of(variance).sqrt(variance + variance.dtype.type(eps))


def _affine(x, mean, inv_std, gamma, beta, relu):
    y = (x - _channels(mean, x)) * _channels(inv_std if gamma is None else gamma * inv_std, x)
    if beta is not None:
        y = y + _channels(beta, x)
    return xp_of(x).maximum(y, 0) if relu else y


def _sums(grad, x, y, mean, inv_std, relu):
    """The masked gradient, the normalised input, and their two sums per channel."""
    if relu:
        grad = grad * (y > 0)
    xhat = (x - _channels(mean, x)) * _channels(inv_std, x)
    return grad, xhat, (grad * xhat).sum(axis=_axes(x)), grad.sum(axis=_axes(x))


def _check(x, **per_channel):
    if not is_floating(x.dtype):
        raise TypeError(f"batch_norm: x must be float16, bfloat16, float32 or float64; it is {x.dtype}")
    if x.ndim not in (2, 4):
        raise ValueError(f"batch_norm: x must have shape (N, C) or (N, C, H, W); it has shape {x.shape}")
    for name, values in per_channel.items():
        if values is None:
            continue
        if values.shape != (x.shape[1],):
            raise ValueError(
                f"batch_norm: {name} must have shape (C,) = ({x.shape[1]},) for x of shape {x.shape}; "
                f"it has shape {values.shape}"
            )
        if values.dtype != compute_dtype(x.dtype):
            wanted = compute_dtype(x.dtype)
            raise TypeError(f"batch_norm: {name} must be {wanted} where x is {x.dtype}; it is {values.dtype}")


def _check_out(out, x):
    if out is None:
        return
    if out.shape != x.shape or out.dtype != x.dtype:
        raise ValueError(
            f"batch_norm: out must be {x.dtype} of x's shape {x.shape}; got {out.dtype} of shape {out.shape}"
        )
    if with_whole_images(out) is not out:
        raise ValueError(f"batch_norm: the images of out must be contiguous; its strides are {out.strides}")


def _check_grad(grad, x, y, relu):
    if relu and y is None:
        raise ValueError("batch_norm: relu=True needs the forward pass's output y for the mask; y is None")
    for name, values in {"grad": grad, "y": y if relu else None}.items():
        if values is None:
            continue
        if values.shape != x.shape:
            raise ValueError(f"batch_norm: {name} must have x's shape {x.shape}; it has shape {values.shape}")
        if values.dtype != x.dtype:
            raise TypeError(f"batch_norm: {name} must be {x.dtype} as x is; it is {values.dtype}")
