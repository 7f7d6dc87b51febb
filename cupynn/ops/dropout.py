"""Dropout of elements and of whole channels. [Srivastava et al. 2014; Tompson et al. 2015]"""

from __future__ import annotations

import numpy as np

from cupynn import recording
from cupynn.autograd import Function, Tensor
from cupynn.device import generator, is_floating
from cupynn.kernels import dropout as kernel
from cupynn.ops.arguments import need_images


def draw_mask(p, shape, like, dtype=None):
    """keep / (1 - p), where keep is 0 with probability p and else 1: drawn on the host, put where `like` is."""

    def draw():
        keep = generator().random(shape, dtype="float32") >= p
        return (keep * (1 / (1 - p) if p < 1 else 0.0)).astype(dtype or like.dtype)

    return recording.renewed(draw, like)


def _draw_key():
    return generator().integers(2**32, size=2).astype(np.uint32)


class Dropout(Function):
    """y = x * keep / (1 - p), where keep is 0 or 1 for every element. Backward computes keep anew from the key."""

    def forward(self, x):
        self.key = recording.renewed(_draw_key, x) if recording.current() else tuple(_draw_key().tolist())
        return kernel.forward(x, self.p, self.key)

    def backward(self, grad):
        return kernel.forward(grad, self.p, self.key)


class ChannelDropout(Function):
    """y = x * keep / (1 - p), where keep (N, C, 1, 1) is 0 or 1 for every channel of every image."""

    def forward(self, x):
        mask = draw_mask(self.p, (*x.shape[:2], 1, 1), x)
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
