"""Batch norm with fixed statistics, and parallel convolutions, as one convolution: differentiable in every factor."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import xp_of
from cupynn.kernels import contract_fold


class FoldBatchNorm(Function):
    """weight, bias, gamma, beta (the last three may be None) -> folded weight and bias."""

    def forward(self, weight, bias, gamma, beta):
        self.save(weight, bias, gamma)
        return contract_fold.fold(weight, bias, gamma, beta, *self.statistics)

    def backward(self, grad, grad_bias):
        gradients = contract_fold.fold_backward(grad, grad_bias, *self.saved, *self.statistics)
        return tuple(value if need else None for value, need in zip(gradients, self.needs_grad, strict=True))


class AddKernels(Function):
    """Kernels (O, I, kh, kw) -> their sum (O, I, *kernel_size), each in the middle of it."""

    def forward(self, *kernels):
        result = xp_of(kernels[0]).zeros((*kernels[0].shape[:2], *self.kernel_size), kernels[0].dtype)
        self.windows = [self._window(*kernel.shape[2:]) for kernel in kernels]
        for window, kernel in zip(self.windows, kernels, strict=True):
            result[window] += kernel
        return result

    def backward(self, grad):
        return tuple(
            xp_of(grad).ascontiguousarray(grad[window]) if need else None
            for window, need in zip(self.windows, self.needs_grad, strict=True)
        )

    def _window(self, height: int, width: int) -> tuple:
        top, left = (self.kernel_size[0] - height) // 2, (self.kernel_size[1] - width) // 2
        return ..., slice(top, top + height), slice(left, left + width)


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
    return FoldBatchNorm(statistics=(running_mean, running_var, eps))(weight, bias, gamma, beta)


def add_kernels(kernels, kernel_size: tuple[int, int]):
    """The sum of the (weight, bias) of parallel convolutions as one of `kernel_size`: smaller kernels stand in the
    middle of it, biases may be None.

    It is the sum of the convolutions where each has the padding that keeps its kernel's middle over the same pixel.
    Raises ValueError for a kernel that is larger or that has no middle in `kernel_size`.
    """
    bias = None
    for w, b in kernels:
        rows, columns = (whole - part for whole, part in zip(kernel_size, w.shape[2:], strict=True))
        if rows < 0 or columns < 0 or rows % 2 or columns % 2:
            raise ValueError(
                f"add_kernels: a kernel must fit into the middle of {tuple(kernel_size)}; it has shape {w.shape}"
            )
        bias = b if bias is None else bias if b is None else bias + b
    return AddKernels(kernel_size=kernel_size)(*(w for w, _ in kernels)), bias
