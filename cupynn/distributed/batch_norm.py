"""Batch norm by the statistics of the whole batch, all ranks' parts together."""

from __future__ import annotations

import functools

from cupynn.autograd import Function
from cupynn.device import Array, compute_dtype, wide, xp_of
from cupynn.distributed.world import World
from cupynn.kernels import batch_norm as kernel
from cupynn.kernels import cross_layer, runtime
from cupynn.nn import BatchNorm2d, CrossLayerDepthwise, Module, SeqConv2d


class WholeBatch:
    """The batch of which every rank of `world` has a part: its statistics and sums are the same on all ranks.

    Statistics are summed as one row per rank (count, means, variances) of float64; Chan's formula combines them, so a
    large mean costs no digits:  M = sum m_r,  mean = sum m_r mean_r / M,
    variance = sum m_r (var_r + (mean_r - mean)^2) / M.
    """

    def __init__(self, world: World):
        self.world = world

    def statistics(self, x: Array) -> tuple[Array, Array, Array]:
        """(mean, biased variance, count M) of every channel, float32 unless x is float64; the first two are (C,)."""
        xp, channels = xp_of(x), x.shape[1]
        row = xp.empty(1 + 2 * channels, "float64")
        row[0] = x.size // channels
        row[1 : 1 + channels], row[1 + channels :] = _statistics(x)
        table = self.world.table(row)
        counts, means, variances = table[:, :1], table[:, 1 : 1 + channels], table[:, 1 + channels :]
        count = counts.sum()
        mean = (counts * means).sum(axis=0) / count
        variance = (counts * (variances + (means - mean) ** 2)).sum(axis=0) / count
        dtype = compute_dtype(x.dtype)
        return mean.astype(dtype), variance.astype(dtype), count.astype(dtype)

    def sum(self, array: Array) -> None:
        """Replace sums over this rank's part, in place, by those over the whole batch."""
        self.world.sum(array)


class SynchronisedBatchNorm(Function):
    """y = weight * (x - mean) / sqrt(variance + eps) + bias over all M values of a channel on all ranks.

    Statistics are those of `batch`, a `WholeBatch`. Backward sums g and g * xhat over all ranks; gradients of weight
    and bias are this rank's part.
    """

    out = None  # as in BatchNormTraining

    def forward(self, x, weight, bias, *residual):
        self.adds = bool(residual)
        mean, variance, self.count = self.batch.statistics(x)
        y = kernel.forward_eval(x, weight, bias, mean, variance, self.eps, self.relu, self.out, *residual)
        unbiased = variance * (self.count / (self.count - 1))  # several ranks: at least two values
        for running, of_batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            running *= 1 - self.momentum
            running += self.momentum * of_batch
        self.save(x, y if self.relu and residual else None, weight, bias, mean, variance)
        return y

    def backward(self, grad):
        x, y, weight, bias, mean, variance = self.saved
        xp = xp_of(x)
        options = self.eps, self.relu, self.adds
        dx, dweight, dbias, *dresidual = kernel.backward_eval(grad, x, y, weight, bias, mean, variance, *options)
        sums = xp.stack([dbias, dweight])
        self.batch.sum(sums)
        inv_std = 1 / xp.sqrt(variance + variance.dtype.type(self.eps))
        shift, slope = (-inv_std if weight is None else -weight * inv_std) * sums / self.count
        dx = wide(dx)
        cross_layer.centre(dx, wide(x), mean, shift, slope * inv_std)
        return dx.astype(x.dtype, copy=False), dweight, dbias, *dresidual


def _statistics(x):
    """(mean, biased variance) of every channel of this rank's x, which may be one value."""
    if runtime.compiled_for(x, narrow=True):
        return kernel.statistics(x, 1.0)[:2]
    return kernel.reference_forward_train(wide(x), None, None, 1.0)[1:3]


def synchronise_batch_norm(model: Module, world: World) -> Module:
    """Have all batch norm of a model take its statistics over all ranks while training, in place; returns the model.

    Modules stay what they are, with the same parameters, for optimisers and for whoever holds them. Alone, nothing
    changes.
    """
    if world.size == 1:
        return model
    batch = WholeBatch(world)
    for module in model.modules():
        if isinstance(module, (BatchNorm2d, SeqConv2d)):
            module.training_norm = functools.partial(SynchronisedBatchNorm, batch=batch)
        elif isinstance(module, CrossLayerDepthwise):
            module.batch = batch
    return model
