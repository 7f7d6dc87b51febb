"""The fully connected layer."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import wide
from cupynn.kernels.runtime import product


class Linear(Function):
    """y = x w^T + bias."""

    def forward(self, x, w, bias):
        self.save(x, w)
        y = product(wide(x), w.T)
        if bias is not None:
            y += bias
        return y.astype(x.dtype, copy=False) if x.dtype.itemsize == 2 else y

    def backward(self, grad):
        (x, w), grad = self.saved, wide(grad)
        x = wide(x)
        rows = grad.reshape(-1, w.shape[0])
        dx = product(grad, w) if self.needs_grad[0] else None
        dw = product(rows.T, x.reshape(-1, w.shape[1])) if self.needs_grad[1] else None
        return dx, dw, rows.sum(axis=0) if self.needs_grad[2] else None


def linear(x, w, bias=None):
    """y = x w^T + bias, for x (..., I), w (O, I), bias (O) and y (..., O). Where x is float16 or bfloat16, so is y.

    Raises ValueError for other shapes.
    """
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ValueError(
            f"linear: x must be (..., I) and weight (O, I) with the same I; x has shape {x.shape}, weight {w.shape}"
        )
    if bias is not None and bias.shape != w.shape[:1]:
        raise ValueError(f"linear: weight has shape {w.shape}, so bias must be ({w.shape[0]},); it has {bias.shape}")
    return Linear()(x, w, bias)
