"""Softmax, its logarithm, and the cross-entropy of a classifier."""

from __future__ import annotations

import numpy as np

from cupynn.autograd import Function, widened
from cupynn.device import wide, xp_of
from cupynn.kernels import cross_entropy as kernel


class Softmax(Function):
    """y_k = exp(x_k) / sum_j exp(x_j) along one axis."""

    def forward(self, x):
        dtype, x = x.dtype, wide(x)
        y = xp_of(x).exp(x - x.max(axis=self.axis, keepdims=True))
        y /= y.sum(axis=self.axis, keepdims=True)
        y = y.astype(dtype, copy=False) if dtype.itemsize == 2 else y
        self.save(y)
        return y

    def backward(self, grad):
        y, grad = wide(self.saved[0]), wide(grad)
        return y * (grad - (grad * y).sum(axis=self.axis, keepdims=True))


class LogSoftmax(Function):
    """y_k = x_k - log sum_j exp(x_j) along one axis."""

    def forward(self, x):
        xp, dtype, x = xp_of(x), x.dtype, wide(x)
        y = x - x.max(axis=self.axis, keepdims=True)
        y -= xp.log(xp.exp(y).sum(axis=self.axis, keepdims=True))
        y = y.astype(dtype, copy=False) if dtype.itemsize == 2 else y
        self.save(y)
        return y

    def backward(self, grad):
        y, grad = wide(self.saved[0]), wide(grad)
        return grad - xp_of(y).exp(y) * grad.sum(axis=self.axis, keepdims=True)


class CrossEntropy(Function):
    """loss = -(1/N) sum_n log softmax(logits[n])[targets[n]]."""

    def forward(self, logits, targets):
        if isinstance(targets, np.ndarray) and logits.ndim == 2:  # now: once they are on a GPU the host would wait
            kernel.check_range(targets, logits.shape[1])
        targets = xp_of(logits).array(targets)  # a copy, since a loader may fill its array anew before backward
        loss, probabilities = kernel.forward(logits, targets)
        self.save(probabilities, targets)
        return loss

    def backward(self, grad):
        return kernel.backward(grad, *self.saved), None


def softmax(x, axis=-1):
    """exp(x) / sum(exp(x)) along `axis`; safe for large x, since the largest entry is subtracted first."""
    return Softmax(axis=axis)(x)


def log_softmax(x, axis=-1):
    """log(softmax(x)) along `axis`, without ever taking the logarithm of a rounded-off zero."""
    return LogSoftmax(axis=axis)(x)


def cross_entropy(logits, targets, label_smoothing=0.0):
    """The mean over N of -log softmax(logits)[target], for logits (N, K) and integer targets (N,) in 0 .. K-1.

    label_smoothing: the share s of each target's weight that all K classes get in equal parts,
    (1 - s) cross_entropy - s mean(log softmax(logits)). [Szegedy et al. 2016, Sec. 7]

    Logits of float16 or bfloat16 are made float32 first, and so is the loss.
    Returns a scalar. Raises ValueError for shapes or targets that do not fit and for a share outside 0 .. 1,
    TypeError for targets that are no integers. A wrong target that already lies on a GPU makes the loss NaN instead.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must lie in 0..1; got {label_smoothing!r}")
    logits = widened(logits)
    loss = CrossEntropy()(logits, targets)
    if label_smoothing == 0:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * log_softmax(logits).mean()
