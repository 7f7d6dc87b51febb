"""Dropout of elements and of whole channels. [Srivastava et al. 2014; Tompson et al. 2015]"""

from __future__ import annotations

from cupynn.autograd import Function, Tensor
from cupynn.device import generator, is_floating, xp_of
from cupynn.kernels import dropout as kernel
from cupynn.ops.arguments import need_images


class Dropout(Function):
    """y = x * keep / (1 - p), where keep is 0 or 1 for every element. Backward computes keep anew from the key."""

    def forward(self, x):
        self.key = tuple(generator().integers(2**32, size=2).tolist())
        return kernel.forward(x, self.p, self.key)

    def backward(self, grad):
        return kernel.forward(grad, self.p, self.key)


class ChannelDropout(Function):
    """y = x * keep / (1 - p), where keep (N, C, 1, 1) is 0 or 1 for every channel of every image."""

    def forward(self, x):
        keep = generator().random((*x.shape[:2], 1, 1), dtype="float32") >= self.p
        mask = xp_of(x).asarray(keep * (1 / (1 - self.p) if self.p < 1 else 0.0), dtype=x.dtype)
        self.save(mask)
        return x * mask

    def backward(self, grad):
        (mask,) = self.saved
        return grad * mask


def _dropout(name, function, x, p, training):
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must be a probability from 0 to 1; got {p!r}")
    if not is_floating(x.dtype):
        raise TypeError(f"{name}: x must be floating point, since 1/(1 - p) is no integer; it is {x.dtype}")
    if not training or p == 0:
        return x if isinstance(x, Tensor) else Tensor(x)
    return function(p=p)(x)


def dropout(x, p=0.5, training=True):
    """Set each element of x to 0 with probability p and multiply the others by 1/(1 - p). Not training: x itself.

    The host's generator draws a key, from which every element's fate follows: a seed gives the same on every device.
    """
    return _dropout("dropout", Dropout, x, p, training)


def dropout2d(x, p=0.5, training=True):
    """As `dropout`, but each channel of each image of x (N, C, H, W) is kept or dropped whole."""
    need_images("dropout2d", x)
    return _dropout("dropout2d", ChannelDropout, x, p, training)
