"""Batch normalisation with running statistics and, as options, what follows it: an addition, ReLU or ReLU6."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import compute_dtype
from cupynn.kernels import batch_norm as kernel


class BatchNormTraining(Function):
    """y = weight * (x - mean) / sqrt(variance + eps) + bias with the batch's own mean and biased variance."""

    out = None  # the array for y, which a function that calls this one may set

    def forward(self, x, weight, bias, *residual):
        self.adds = bool(residual)
        y, mean, variance, inv_std = kernel.forward_train(x, weight, bias, self.eps, self.relu, self.out, *residual)
        _check_running(x, self.running_mean, self.running_var)
        if self.running_mean is not None:
            count = x.size // x.shape[1]
            kernel.move_running(self.running_mean, self.running_var, mean, variance, self.momentum, count)
        self.save(x, y if self.relu and residual else None, weight, bias, mean, inv_std)
        return y

    def backward(self, grad):
        return kernel.backward_train(grad, *self.saved, self.relu, self.adds)


class BatchNormEvaluation(Function):
    """y = weight * (x - running_mean) / sqrt(running_var + eps) + bias; the statistics are constants."""

    out = None

    def forward(self, x, weight, bias, *residual):
        self.adds = bool(residual)
        running = self.running_mean, self.running_var
        y = kernel.forward_eval(x, weight, bias, *running, self.eps, self.relu, self.out, *residual)
        if any(self.needs_grad):  # copies, since training steps before backward would change the running statistics
            statistics = self.running_mean.copy(), self.running_var.copy()
            self.save(x, y if self.relu and residual else None, weight, bias, *statistics)
        return y

    def backward(self, grad):
        return kernel.backward_eval(grad, *self.saved, self.eps, self.relu, self.adds)


def _check_running(x, running_mean, running_var):
    """Refuse statistics that training cannot move, while both are as they were."""
    if running_mean is None and running_var is None:
        return
    for name, values in {"running_mean": running_mean, "running_var": running_var}.items():
        if values is None:
            raise ValueError(f"batch_norm: give running_mean and running_var, or neither; {name} is None")
        if values.shape != (x.shape[1],):
            raise ValueError(
                f"batch_norm: {name} must have shape (C,) = ({x.shape[1]},) for x of shape {x.shape}; "
                f"it has shape {values.shape}"
            )
        wanted = compute_dtype(x.dtype)
        if values.dtype != wanted:
            raise TypeError(f"batch_norm: {name} must be {wanted} where x is {x.dtype}; it is {values.dtype}")


def batch_norm(
    x,
    weight,
    bias,
    running_mean=None,
    running_var=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    relu=False,
    residual=None,
    training_norm=BatchNormTraining,
):
    """Normalise every channel of x (N, C) or (N, C, H, W), scale by weight (C) and shift by bias (C).

    Training uses the batch's mean and biased variance over N, H, W and moves the running statistics (arrays, changed
    in place): running = (1 - momentum) * running + momentum * batch, with the unbiased variance. Otherwise the
    running statistics are used. weight and bias may be None; the running statistics too, while training.
    In the same passes, forward and backward: y + residual, of x's shape; behind that max(y, 0) with relu=True,
    min(max(y, 0), 6) with relu=6. `training_norm` makes another function for training, with BatchNormTraining's
    options.

    Raises ValueError for shapes that do not fit, for one value per channel in training, and for missing statistics,
    TypeError for another dtype than x's (float32 where x is float16 or bfloat16), before anything is changed.
    """
    more = () if residual is None else (residual,)
    if training:
        function = training_norm(
            running_mean=running_mean, running_var=running_var, momentum=momentum, eps=eps, relu=relu
        )
        return function(x, weight, bias, *more)
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm: running_mean and running_var are needed when training=False; got None")
    function = BatchNormEvaluation(running_mean=running_mean, running_var=running_var, eps=eps, relu=relu)
    return function(x, weight, bias, *more)
