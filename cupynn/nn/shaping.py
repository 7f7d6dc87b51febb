"""Layers without parameters that reshape, drop or pass on what they get."""

from __future__ import annotations

import math

from cupynn import ops
from cupynn.kernels.batch_norm import Relu
from cupynn.nn.module import Module


class Flatten(Module):
    """(N, C, H, W) to (N, C*H*W), channel-major."""

    def forward(self, x):
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Identity(Module):
    """x itself; in the place of a batch norm that has been folded away, what was to follow that: + residual, ReLU."""

    def forward(self, x, relu: Relu = False, residual=None):
        if residual is not None:
            x = x + residual
        if relu:
            x = ops.relu6(x) if relu == 6 else ops.relu(x)
        return x


class _Dropout(Module):
    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p must be a probability from 0 to 1; got {p!r}")
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """Elements dropped with probability p while training."""

    def forward(self, x):
        return ops.dropout(x, self.p, self.training)


class Dropout2d(_Dropout):
    """Whole channels dropped with probability p while training."""

    def forward(self, x):
        return ops.dropout2d(x, self.p, self.training)
