"""Batch norm with fixed statistics, folded into the weight and bias of the convolution before it:

    scale = gamma / sqrt(variance + eps)
    folded[o] = scale[o] weight[o]        folded_bias[o] = beta[o] + scale[o] (bias[o] - mean[o])

weight (O, I, KH, KW); bias, gamma and beta (O) may be None, which stands for 0, 1 and 0; mean and variance (O) are
constants. The kernels are in `contract.cu`.
"""

from __future__ import annotations

import math

from cupynn.device import Array, xp_of
from cupynn.kernels import runtime


def fold(weight, bias, gamma, beta, mean: Array, variance: Array, eps: float = 1e-5) -> tuple[Array, Array]:
    """(folded, folded_bias), in one launch.

    Raises ValueError for a vector that is not (O).
    """
    vectors = {"bias": bias, "gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    _check("fold", weight, vectors)
    if not _compiled(weight, *vectors.values()):
        return reference_fold(weight, bias, gamma, beta, mean, variance, eps)
    xp = xp_of(weight)
    folded, folded_bias = xp.empty(weight.shape, weight.dtype), xp.empty(weight.shape[:1], weight.dtype)
    args = *_contiguous(weight, *vectors.values()), runtime.scalar(weight.dtype, eps), folded, folded_bias
    _launch("fold", weight, args, (folded, folded_bias))
    return folded, folded_bias


def fold_backward(grad: Array, grad_bias: Array, weight, bias, gamma, mean: Array, variance: Array, eps: float = 1e-5):
    """Gradients to weight, bias, gamma and beta, given those to folded and folded_bias:

        dweight = scale grad        dbias = scale grad_bias        dbeta = grad_bias
        dgamma = (sum of weight[o] grad[o] + (bias - mean) grad_bias) / sqrt(variance + eps)

    bias and gamma that are None get theirs, too. Raises as `fold` does, and for a grad of another shape.
    """
    vectors = {"bias": bias, "gamma": gamma, "mean": mean, "variance": variance}
    _check("fold_backward", weight, {"grad_bias": grad_bias, **vectors})
    if grad.shape != weight.shape:
        raise ValueError(f"fold_backward: grad must have the weight's shape {weight.shape}; it has shape {grad.shape}")
    if not _compiled(grad, grad_bias, weight, *vectors.values()):
        return reference_fold_backward(grad, grad_bias, weight, bias, gamma, mean, variance, eps)
    xp, dtype = xp_of(weight), weight.dtype
    dw, dbias, dgamma = (xp.empty(shape, dtype) for shape in (weight.shape, weight.shape[:1], weight.shape[:1]))
    arrays = _contiguous(grad, grad_bias, weight, *vectors.values())
    _launch("fold_backward", weight, (*arrays, runtime.scalar(dtype, eps), dw, dbias, dgamma), (dw, dbias, dgamma))
    return dw, dbias, dgamma, grad_bias


def reference_fold(weight, bias, gamma, beta, mean, variance, eps=1e-5):
    scale = _scale(gamma, variance, eps)
    folded_bias = scale * ((0 if bias is None else bias) - mean)
    return weight * scale[:, None, None, None], folded_bias if beta is None else beta + folded_bias


def reference_fold_backward(grad, grad_bias, weight, bias, gamma, mean, variance, eps=1e-5):
    scale, shift = _scale(gamma, variance, eps), (0 if bias is None else bias) - mean
    dgamma = ((weight * grad).sum(axis=(1, 2, 3)) + shift * grad_bias) * _scale(None, variance, eps)
    return grad * scale[:, None, None, None], scale * grad_bias, dgamma, grad_bias


def cost(shape: tuple[int, ...], itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass over a weight of `shape` must cost; what is (O) is left out."""
    size = math.prod(shape)
    return {"forward": (2 * size * itemsize, size), "backward": (3 * size * itemsize, 3 * size)}


def instantiations(name: str) -> list[str]:
    """Every kernel launched on a GPU for one scalar type."""
    return [f"fold<{name}>", f"fold_backward<{name}>"]


def _scale(gamma, variance, eps):
    scale = 1 / xp_of(variance).sqrt(variance + eps)
    return scale if gamma is None else gamma * scale


def _contiguous(*arrays):
    return tuple(None if array is None else xp_of(array).ascontiguousarray(array) for array in arrays)


def _launch(name, weight, args, outputs):
    kernel = f"{name}<{runtime.ctype(weight)}>"
    threads = runtime.threads(like=weight, gpu=128)
    runtime.launch("contract", kernel, weight.shape[0], threads, (*args, math.prod(weight.shape[1:])), outputs=outputs)


def _compiled(weight, *others) -> bool:
    same = all(array is None or array.dtype == weight.dtype for array in others)
    return same and weight.size > 0 and runtime.compiled_for(weight, *others)


def _check(name, weight, vectors) -> None:
    for which, vector in vectors.items():
        if vector is not None and vector.shape != weight.shape[:1]:
            raise ValueError(
                f"{name}: weight has shape {weight.shape}, so {which} must be ({weight.shape[0]},); "
                f"it has shape {vector.shape}"
            )
