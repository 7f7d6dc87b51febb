"""Batch norm with fixed statistics, and parallel convolutions, as one convolution: differentiable in every factor."""

from __future__ import annotations

from cupynn import autograd
from cupynn.autograd import Tensor
from cupynn.device import xp_of


def fold_batch_norm(weight, bias, gamma, beta, running_mean, running_var, eps: float = 1e-5):
    """(weight, bias) of the convolution that computes a convolution and the batch norm behind it, in evaluation mode:

        scale = gamma / sqrt(running_var + eps)
        weight'[o] = scale[o] weight[o]        bias'[o] = beta[o] + scale[o] (bias[o] - running_mean[o])

    weight (O, I, KH, KW); bias, gamma and beta (O) may be None; the running statistics, arrays (O), are constants.
    Raises ValueError where the statistics are not (O).
    """
    if running_mean.shape != weight.shape[:1] or running_var.shape != weight.shape[:1]:
        raise ValueError(
            f"fold_batch_norm: weight has shape {weight.shape}, so running_mean and running_var must be "
            f"({weight.shape[0]},); they have shapes {running_mean.shape} and {running_var.shape}"
        )
    scale = Tensor(1 / xp_of(running_var).sqrt(running_var + eps))
    if gamma is not None:
        scale = gamma * scale
    shift = (0 if bias is None else bias) - Tensor(running_mean)
    folded_bias = scale * shift if beta is None else beta + scale * shift
    return weight * scale.reshape(-1, 1, 1, 1), folded_bias


def add_kernels(kernels, kernel_size: tuple[int, int]):
    """The sum of the (weight, bias) of parallel convolutions as one of `kernel_size`: smaller kernels stand in the
    middle of it, biases may be None.

    It is the sum of the convolutions where each has the padding that keeps its kernel's middle over the same pixel.
    Raises ValueError for a kernel that is larger or that has no middle in `kernel_size`.
    """
    weight = bias = None
    for w, b in kernels:
        rows, columns = (whole - part for whole, part in zip(kernel_size, w.shape[2:], strict=True))
        if rows < 0 or columns < 0 or rows % 2 or columns % 2:
            raise ValueError(
                f"add_kernels: a kernel must fit into the middle of {tuple(kernel_size)}; it has shape {w.shape}"
            )
        if rows or columns:
            w = autograd.pad(w, ((0, 0), (0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2)))
        weight = w if weight is None else weight + w
        bias = b if bias is None else bias if b is None else bias + b
    return weight, bias
