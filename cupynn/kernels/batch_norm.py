"""Batch normalisation, per channel over the batch and the plane, and what often follows it, in the same passes.

    y = f(gamma * (x - mean) / sqrt(variance + eps) + beta + residual)

f is max(., 0) with relu=True, min(max(., 0), 6) with relu=6; without a residual there is no such term.
x is (N, C) or (N, C, H, W); gamma, beta, mean, variance are (C,). x, y and gradients may be some channels of wider
arrays, `wide[:, 3:5]`: they are read and written in place. Where x is float16 or bfloat16, so are y and gradients to
x, while all that is (C,) is float32. Training normalises by the batch's own mean and
biased variance; evaluation by the running ones. [Ioffe and Szegedy 2015, algorithm 1]
"""

from __future__ import annotations

import math
from typing import Literal

from cupynn.device import Array, compute_dtype, is_floating, wide, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.batch_norm_launch import CPU, GPU, backward, instantiations, normalise, statistics
from cupynn.kernels.batch_norm_launch import move_running as launch_move_running
from cupynn.kernels.images import with_whole_images

__all__ = [
    "CPU",
    "GPU",
    "Relu",
    "backward_eval",
    "backward_train",
    "cost",
    "forward_eval",
    "forward_train",
    "instantiations",
    "move_running",
    "statistics",
]

Relu = bool | Literal[6]


def forward_train(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
    relu: Relu = False,
    out: Array | None = None,
    residual: Array | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Normalise by the batch's statistics: (y, mean, variance, inv_std), the last three (C,). y is `out`, if given.

    `variance` is the biased one, sum((x - mean)**2) / M with M = N * H * W. A running average wants the unbiased one,
    variance * M / (M - 1).

    Raises ValueError where M < 2 (the variance is not defined) and where a shape does not fit.
    """
    _check(x, gamma=gamma, beta=beta)
    _check_around(x, relu, out, residual)
    count = _count(x)
    if count < 2:
        raise ValueError(
            f"batch_norm: training needs more than one value per channel, N * H * W > 1; x has shape {x.shape}"
        )
    if not runtime.compiled_for(x, gamma, beta, residual, narrow=True):
        y, *rest = reference_forward_train(wide(x), gamma, beta, eps, relu, _wide(residual))
        return _into(out, y, x), *rest
    mean, variance, inv_std = statistics(x, eps)
    return normalise(x, mean, inv_std, gamma, beta, relu, out, residual), mean, variance, inv_std


def forward_eval(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
    relu: Relu = False,
    out: Array | None = None,
    residual: Array | None = None,
) -> Array:
    """Normalise by the running statistics: y, of x's shape; it is `out`, if given."""
    _check(x, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    _check_around(x, relu, out, residual)
    if x.size == 0 or not runtime.compiled_for(x, gamma, beta, running_mean, running_var, residual, narrow=True):
        y = reference_forward_eval(wide(x), gamma, beta, running_mean, running_var, eps, relu, _wide(residual))
        return _into(out, y, x)
    return normalise(x, running_mean, _inv_std(running_var, eps), gamma, beta, relu, out, residual)


def backward_train(
    grad: Array,
    x: Array,
    y: Array | None,
    gamma: Array | None,
    beta: Array | None,
    mean: Array,
    inv_std: Array,
    relu: Relu = False,
    residual: bool = False,
) -> tuple[Array, ...]:
    """(dx, dgamma, dbeta) of `forward_train`, and with residual=True dresidual, which without ReLU is grad itself.
    `y` is the output, read with ReLU and a residual; without one the mask is computed anew from x, gamma and beta.

        g = grad * f'(y)              xhat = (x - mean) * inv_std
        dbeta = sum g                 dgamma = sum g * xhat              dresidual = g
        dx = gamma * inv_std * (g - dbeta / M - xhat * dgamma / M)
    """
    _check(x, gamma=gamma, beta=beta, mean=mean, inv_std=inv_std)
    _check_grad(grad, x, y, relu and residual)
    if x.size == 0 or not runtime.compiled_for(grad, x, y, gamma, beta, mean, inv_std, narrow=True):
        gradients = reference_backward_train(wide(grad), wide(x), y, gamma, beta, mean, inv_std, relu, residual)
        return _narrowed(gradients, x)
    return backward(grad, x, y, gamma, beta, mean, inv_std, relu, residual, training=True)


def backward_eval(
    grad: Array,
    x: Array,
    y: Array | None,
    gamma: Array | None,
    beta: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
    relu: Relu = False,
    residual: bool = False,
) -> tuple[Array, ...]:
    """(dx, dgamma, dbeta) of `forward_eval`, and dresidual: as in training, but the statistics do not depend on x."""
    _check(x, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    _check_grad(grad, x, y, relu and residual)
    if x.size == 0 or not runtime.compiled_for(grad, x, y, gamma, beta, running_mean, running_var, narrow=True):
        norm = gamma, beta, running_mean, running_var
        gradients = reference_backward_eval(wide(grad), wide(x), y, *norm, eps, relu, residual)
        return _narrowed(gradients, x)
    inv_std = _inv_std(running_var, eps)
    return backward(grad, x, y, gamma, beta, running_mean, inv_std, relu, residual, training=False)


def move_running(
    running_mean: Array, running_var: Array, mean: Array, variance: Array, momentum: float, count: int
) -> None:
    """Move running statistics, in place, towards those of a batch with `count` values in a channel:

        running = (1 - momentum) * running + momentum * batch's,          of the unbiased variance

    One launch on a GPU; on the CPU NumPy's few operations on as many numbers as there are channels take no longer.
    """
    running = running_mean, running_var
    shares = momentum, momentum * count / (count - 1)
    here = all(array.flags.c_contiguous for array in running) and running_mean.size
    if here and runtime.is_gpu(mean) and runtime.compiled_for(*running, mean, variance):
        launch_move_running(*running, mean, variance, 1 - momentum, shares)
    else:
        reference_move_running(*running, mean, variance, 1 - momentum, shares)


def reference_move_running(running_mean, running_var, mean, variance, keep, shares):
    running_mean *= keep
    running_mean += shares[0] * mean
    running_var *= keep
    running_var += shares[1] * variance


def reference_forward_train(x, gamma, beta, eps, relu=False, residual=None):
    axes = _axes(x)
    mean = x.mean(axis=axes)
    centred = x - _channels(mean, x)
    variance = (centred * centred).mean(axis=axes)
    mean = mean + centred.mean(axis=axes)  # what rounding left: it matters where |mean| is far above the deviation
    inv_std = 1 / xp_of(x).sqrt(variance + x.dtype.type(eps))
    return _affine(x, mean, inv_std, gamma, beta, relu, residual), mean, variance, inv_std


def reference_forward_eval(x, gamma, beta, running_mean, running_var, eps, relu=False, residual=None):
    return _affine(x, running_mean, _inv_std(running_var, eps), gamma, beta, relu, residual)


def reference_backward_train(grad, x, y, gamma, beta, mean, inv_std, relu=False, residual=False):
    y = y if residual else _affine(x, mean, inv_std, gamma, beta, relu, None)
    grad, xhat, dgamma, dbeta = _sums(grad, x, y, mean, inv_std, relu)
    scale = inv_std if gamma is None else gamma * inv_std
    count = x.dtype.type(max(_count(x), 1))
    dx = _channels(scale, x) * (grad - _channels(dbeta / count, x) - xhat * _channels(dgamma / count, x))
    return (dx, dgamma, dbeta, grad) if residual else (dx, dgamma, dbeta)


def reference_backward_eval(grad, x, y, gamma, beta, running_mean, running_var, eps, relu=False, residual=False):
    inv_std = _inv_std(running_var, eps)
    y = y if residual else _affine(x, running_mean, inv_std, gamma, beta, relu, None)
    grad, _, dgamma, dbeta = _sums(grad, x, y, running_mean, inv_std, relu)
    dx = grad * _channels(inv_std if gamma is None else gamma * inv_std, x)
    return (dx, dgamma, dbeta, grad) if residual else (dx, dgamma, dbeta)


def cost(
    shape: tuple[int, ...], itemsize: int = 4, relu: Relu = False, residual: bool = False
) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass over x of `shape` must cost.

    Forward in training reads x twice (statistics, normalisation) and the residual, and writes y; evaluation reads x
    once. Backward reads grad and x twice and writes dx. With ReLU and a residual its first half reads y for the mask
    and writes the masked gradient, which the second reads in place of grad.
    """
    elements = math.prod(shape)
    mask, more = 1 if relu else 0, 1 if residual else 0
    arrays = 7 if relu and residual else 5
    return {
        "forward_train": ((3 + more) * elements * itemsize, (7 + mask + more) * elements),
        "forward_eval": ((2 + more) * elements * itemsize, (3 + mask + more) * elements),
        "backward_train": (arrays * elements * itemsize, (9 + 2 * mask) * elements),
        "backward_eval": ((arrays - (not mask or more)) * elements * itemsize, (5 + 2 * mask) * elements),
    }


def _wide(array):
    return None if array is None else wide(array)


def _narrowed(gradients, x):
    """Gradients of images in x's dtype; those of gamma and beta stay as they are."""
    return tuple(g.astype(x.dtype, copy=False) if g.shape == x.shape else g for g in gradients)


def _into(out, y, x):
    if out is None:
        return y.astype(x.dtype, copy=False)
    out[...] = y
    return out


def _axes(x):
    return (0, *range(2, x.ndim))


def _count(x):
    return x.size // x.shape[1] if x.shape[1] else 0


def _channels(values, x):
    """(C,) shaped to broadcast along x's channel axis."""
    return values.reshape((-1,) + (1,) * (x.ndim - 2))


def _inv_std(variance, eps):
    return 1 / xp_of(variance).sqrt(variance + variance.dtype.type(eps))


def _affine(x, mean, inv_std, gamma, beta, relu, residual):
    y = (x - _channels(mean, x)) * _channels(inv_std if gamma is None else gamma * inv_std, x)
    if beta is not None:
        y = y + _channels(beta, x)
    if residual is not None:
        y = y + residual
    if relu:
        y = xp_of(x).maximum(y, 0)
    return xp_of(x).minimum(y, 6) if relu == 6 else y


def _sums(grad, x, y, mean, inv_std, relu):
    """The masked gradient, the normalised input, and their two sums per channel."""
    if relu:
        grad = xp_of(x).where((y > 0) & (y < 6) if relu == 6 else y > 0, grad, 0)
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


def _check_around(x, relu, out, residual):
    if relu not in (False, True, 6):
        raise ValueError(f"batch_norm: relu must be False, True or 6, which is ReLU6; got {relu!r}")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"batch_norm: residual must be {x.dtype} of x's shape {x.shape}; "
            f"got {residual.dtype} of shape {residual.shape}"
        )
    if out is None:
        return
    if out.shape != x.shape or out.dtype != x.dtype:
        raise ValueError(
            f"batch_norm: out must be {x.dtype} of x's shape {x.shape}; got {out.dtype} of shape {out.shape}"
        )
    if with_whole_images(out) is not out:
        raise ValueError(f"batch_norm: the images of out must be contiguous; its strides are {out.strides}")


def _check_grad(grad, x, y, needs_y):
    if needs_y and y is None:
        raise ValueError("batch_norm: ReLU and a residual need the forward pass's output y for the mask; y is None")
    for name, values in {"grad": grad, "y": y if needs_y else None}.items():
        if values is None:
            continue
        if values.shape != x.shape:
            raise ValueError(f"batch_norm: {name} must have x's shape {x.shape}; it has shape {values.shape}")
        if values.dtype != x.dtype:
            raise TypeError(f"batch_norm: {name} must be {x.dtype} as x is; it is {values.dtype}")
