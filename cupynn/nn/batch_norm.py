"""The batch normalisation layer."""

from __future__ import annotations

import numpy as np

from cupynn import ops
from cupynn.device import asarray
from cupynn.kernels.batch_norm import Relu
from cupynn.nn import init
from cupynn.nn.arguments import need_positive
from cupynn.nn.module import Module, Parameter
from cupynn.ops.batch_norm import BatchNormTraining


class BatchNorm2d(Module):
    """`ops.batch_norm` over (N, C, H, W), with learned weight and bias (C) and running statistics (C).

    `affine=False` leaves weight and bias out. `momentum` is the share of the new batch in the running statistics.
    A call with `residual` adds that, one with `relu=True` applies ReLU (behind it), with `relu=6` ReLU6, all in the
    same kernel; `Sequential` makes use of it by itself.
    """

    training_norm = BatchNormTraining  # what `ops.batch_norm` calls so

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        (num_features,) = need_positive("BatchNorm2d", num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(init.constant((num_features,), 1.0)) if affine else None
        self.bias = Parameter(init.constant((num_features,), 0.0)) if affine else None
        self.register_buffer("running_mean", init.constant((num_features,), 0.0))
        self.register_buffer("running_var", init.constant((num_features,), 1.0))
        self.register_buffer("num_batches_tracked", asarray(np.zeros((), np.int64)))

    def forward(self, x, relu: Relu = False, residual=None):
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"BatchNorm2d: x must be (N, {self.num_features}, H, W); it has shape {x.shape}")
        statistics = self.running_mean, self.running_var
        options = (self.training, self.momentum, self.eps, relu, residual, self.training_norm)
        y = ops.batch_norm(x, self.weight, self.bias, *statistics, *options)
        if self.training:
            self.num_batches_tracked += 1
        return y

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.weight is not None}"
