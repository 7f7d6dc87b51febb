"""Batch norm by the statistics of the whole batch, all ranks' parts together."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import xp_of
from cupynn.distributed.world import World
from cupynn.kernels import batch_norm as kernel
from cupynn.kernels import cross_layer, runtime
from cupynn.nn import BatchNorm2d, CrossLayerDepthwise, Module, SeqConv2d


class SynchronisedBatchNorm(Function):
    """y = weight * (x - mean) / sqrt(variance + eps) + bias over all M values of a channel on all ranks.

    Forward sums one row per rank (count, means, variances) of float64; Chan's formula combines them, so a large mean
    costs no digits:  M = sum m_r,  mean = sum m_r mean_r / M,  variance = sum m_r (var_r + (mean_r - mean)^2) / M.
    Backward sums g and g * xhat over all ranks; gradients of weight and bias are this rank's part.
    """

    def forward(self, x, weight, bias):
        xp, channels = xp_of(x), x.shape[1]
        row = xp.empty(1 + 2 * channels, "float64")
        row[0] = x.size // channels
        row[1 : 1 + channels], row[1 + channels :] = _statistics(x)
        table = self.world.table(row)
        counts, means, variances = table[:, :1], table[:, 1 : 1 + channels], table[:, 1 + channels :]
        self.count = counts.sum()
        mean = (counts * means).sum(axis=0) / self.count
        variance = (counts * (variances + (means - mean) ** 2)).sum(axis=0) / self.count
        statistics = mean.astype(x.dtype), variance.astype(x.dtype)
        y = kernel.forward_eval(x, weight, bias, *statistics, self.eps, self.relu)
        unbiased = variance * (self.count / (self.count - 1))  # several ranks: at least two values
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            running *= 1 - self.momentum
            running += (self.momentum * batch).astype(x.dtype)
        self.save(x, y if self.relu else None, weight, *statistics)
        return y

    def backward(self, grad):
        x, y, weight, mean, variance = self.saved
        xp = xp_of(x)
        dx, dweight, dbias = kernel.backward_eval(grad, x, y, weight, mean, variance, self.eps, self.relu)
        sums = xp.stack([dbias, dweight])
        self.world.sum(sums)
        inv_std = 1 / xp.sqrt(variance + x.dtype.type(self.eps))
        shift, slope = (-inv_std if weight is None else -weight * inv_std) * sums / self.count.astype(x.dtype)
        cross_layer.centre(dx, x, mean, shift, slope * inv_std)
        return dx, dweight, dbias


def _statistics(x):
    """(mean, biased variance) of every channel of this rank's x, which may be one value."""
    if runtime.compiled_for(x):
        return kernel.statistics(x, 1.0)[:2]
    return kernel.reference_forward_train(x, None, None, 1.0)[1:3]


class SynchronisedBatchNorm2d(BatchNorm2d):
    """A `BatchNorm2d` that takes its statistics over all ranks while training; made by `synchronise_batch_norm`.

    Names of state, evaluation and ReLU in the same kernel are as they were.
    """

    world = World()

    def forward(self, x, relu: bool = False):
        if not self.training or self.world.size == 1:
            return super().forward(x, relu)
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"BatchNorm2d: x must be (N, {self.num_features}, H, W); it has shape {x.shape}")
        options = {"eps": self.eps, "momentum": self.momentum, "relu": relu, "world": self.world}
        function = SynchronisedBatchNorm(running_mean=self.running_mean, running_var=self.running_var, **options)
        y = function(x, self.weight, self.bias)
        self.num_batches_tracked += 1
        return y


def synchronise_batch_norm(model: Module, world: World) -> Module:
    """Turn every `BatchNorm2d` of a model into a `SynchronisedBatchNorm2d`, in place; returns the model.

    The modules stay the same objects with the same parameters, for optimisers and for whoever holds them. Alone,
    nothing changes.

    Raises ValueError, before anything is changed, for a layer that normalises by itself: `SeqConv2d`, and
    `CrossLayerDepthwise` with norm=True.
    """
    if world.size == 1:
        return model
    for name, module in model.named_modules():
        if isinstance(module, SeqConv2d) or (isinstance(module, CrossLayerDepthwise) and module.norm):
            raise ValueError(
                f"synchronise_batch_norm: {name or 'the model'} is a {type(module).__name__}, whose batch norm is part "
                "of its own kernel and takes its statistics on one rank only; train it without synchronised batch norm"
            )
    for module in model.modules():
        if type(module) is BatchNorm2d:
            module.__class__ = SynchronisedBatchNorm2d
            module.world = world
    return model
