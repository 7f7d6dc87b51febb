"""Cross-layer depthwise convolution: channel by channel, a weighted sum of preceding layers' outputs. [DelugeNets]

An output that several layers read can be wrapped once in a `LayerOutput`. Then its batch statistics are computed once,
and in backward its readers add to one gradient in place, where otherwise each of them makes an array of its own.
"""

from __future__ import annotations

from cupynn import recording
from cupynn.autograd import Function, Tensor, is_grad_enabled
from cupynn.device import xp_of
from cupynn.kernels import cross_layer as kernel
from cupynn.kernels.batch_norm import move_running


class _Gradient:
    """What the readers of one output have gathered in backward: `array` = sum of their weight * grad, and what batch
    norm's statistics add to it, `shift + slope * (h - mean)`, where they are used."""

    array = shift = slope = None


class _Share(Function):
    """The identity. Its output goes to cross-layer readers only: they add to `gradient.array` in place, and hand it to
    autograd once. The gradient through the batch statistics follows here, once for all readers."""

    def forward(self, h):
        self.save(h)
        return h

    def backward(self, grad):
        (h,), gathered = self.saved, self.gradient
        if gathered.shift is not None:
            kernel.centre(gathered.array, h, gathered.mean, gathered.shift, gathered.slope)
        gathered.array = gathered.shift = gathered.slope = None  # the next backward begins anew
        return grad


class OwnBatch:
    """The batch that batch norm takes its statistics of: the images at hand."""

    def statistics(self, h):
        """(mean, biased variance, count) of every channel of h, the first two (C,)."""
        return *kernel.statistics(h), h.size // h.shape[1]

    def sum(self, array):
        """Add to sums over the images at hand, in place, those over the rest of the batch: there is no rest."""


OWN_BATCH = OwnBatch()


class LayerOutput:
    """A tensor (N, C, H, W) that cross-layer convolutions read, with what they share.

    `statistics(batch)` are the batch's, computed at the first call. Wrap a layer's output once,
    and give the same object to every reader; `tensor` is what other operations take.
    """

    def __init__(self, tensor):
        self.tensor = tensor if isinstance(tensor, Tensor) else Tensor(tensor)
        self._statistics = self._shared = None
        self._gradient = _Gradient()

    def statistics(self, batch=OWN_BATCH):
        """(mean, biased variance, count) of the whole batch that the tensor is of, or a part of."""
        if self._statistics is None:
            self._statistics = self._gradient.mean, *_ = batch.statistics(self.tensor.data)
        return self._statistics

    def for_reader(self):
        """The tensor that a reader takes, and the gradient that it adds to (None where none is recorded)."""
        if not (is_grad_enabled() and self.tensor.requires_grad):
            return self.tensor, None
        if self._shared is None:
            self._shared = _Share(gradient=self._gradient)(self.tensor)
        return self._shared, self._gradient


class CrossLayerDepthwise(Function):
    """y = sum_l weight[l] * inv_std[l] * (h_l - mean[l]) + sum of bias over layers; mean and inv_std may be None.

    `gradients` has a `_Gradient` per input, or None. `batch` is what mean and inv_std are of, over `count` values per
    channel, or None where they are constants.
    """

    def forward(self, weight, bias, *inputs):
        scale = weight if self.inv_std is None else weight * self.inv_std
        self.save(weight, scale, *inputs)
        self.bias_layers = len(inputs) if bias is not None and bias.ndim == 2 else None
        return kernel.forward(inputs, scale, bias if self.bias_layers is None else bias.sum(axis=0), self.mean)

    def backward(self, grad):
        weight, scale, *inputs = self.saved
        xp, gradients = xp_of(grad), self.gradients
        results, outputs, add = [], [], []
        for h, gathered, needed in zip(inputs, gradients, self.needs_grad[2:], strict=True):
            first = needed and (gathered is None or gathered.array is None)
            array = xp.empty(h.shape, h.dtype) if first else gathered.array if needed else None
            if first and gathered is not None:
                gathered.array = array
            results.append(array if first else None)
            outputs.append(array)
            add.append(needed and not first)
        products, total = kernel.backward(grad, inputs, scale, self.mean, outputs, add)
        dweight = products if self.inv_std is None else products * self.inv_std
        if self.batch is not None:
            sums = xp.concatenate([total[None], dweight])
            self.batch.sum(sums)
            shifts, slopes = scale * sums[0] / -self.count, scale * self.inv_std * sums[1:] / -self.count
            for gathered, shift, slope in zip(gradients, shifts, slopes, strict=True):
                if gathered is not None:
                    first = gathered.shift is None
                    gathered.shift = shift if first else gathered.shift + shift
                    gathered.slope = slope if first else gathered.slope + slope
        dbias = total if self.bias_layers is None else xp.broadcast_to(total, weight.shape)
        return dweight, dbias, *results


def cross_layer_depthwise(inputs, weight, bias=None):
    """y[n, c] = bias[c] + sum_l weight[l, c] * inputs[l][n, c], with weight (L, C) and bias (C). [DelugeNets, eq. 1]

    `inputs` are L (1 to 64) tensors, arrays or `LayerOutput`s of one shape (N, C, H, W). They are read where they are.
    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ.
    """
    tensors, gradients = _read(inputs, "cross_layer_depthwise")
    function = CrossLayerDepthwise(gradients=gradients, mean=None, inv_std=None, batch=None)
    if bias is not None and bias.ndim != 1:
        raise ValueError(f"cross_layer_depthwise: bias must be (C,); it has shape {bias.shape}")
    return function(weight, bias, *tensors)


def cross_layer_batch_norm(
    inputs, weight, bias, running_mean, running_var, training=False, momentum=0.1, eps=1e-5, batch=OWN_BATCH
):
    """y = sum_l batch_norm(inputs[l]; weight[l], bias[l]), the DelugeNets authors' form of the cross-layer convolution.

    All of weight, bias, running_mean, running_var are (L, C). Training normalises every input by its own batch mean and
    biased variance, which a `LayerOutput` keeps for its other readers, and moves the running statistics (arrays,
    changed in place): running = (1 - momentum) * running + momentum * batch, with the unbiased variance. Otherwise the
    running statistics are used. `batch` is the batch of which the inputs may be a part.
    Raises ValueError for shapes that do not fit and for one value per channel in training.
    """
    name = "cross_layer_batch_norm"
    wanted = (len(inputs), weight.shape[-1])
    arrays = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    for argument, array in arrays.items():
        if array.shape != wanted:
            raise ValueError(f"{name}: {argument} must be (L, C) = {wanted}; it has shape {array.shape}")
    if training:
        inputs = [h if isinstance(h, LayerOutput) else LayerOutput(h) for h in inputs]
        tensors, gradients = _read(inputs, name)
        kernel.check([h.data for h in tensors], weight.data if isinstance(weight, Tensor) else weight)
        means, variances, (count, *_) = zip(*(h.statistics(batch) for h in inputs), strict=True)
        mean, variance = recording.stack(means), recording.stack(variances)
        move_running(running_mean, running_var, mean, variance, momentum, count)
    else:
        tensors, gradients = _read(inputs, name)
        mean, variance = running_mean.copy(), running_var  # training may move it before backward
        batch = count = None
    inv_std = 1 / xp_of(variance).sqrt(variance + variance.dtype.type(eps))
    function = CrossLayerDepthwise(gradients=gradients, mean=mean, inv_std=inv_std, batch=batch, count=count)
    return function(weight, bias, *tensors)


def _read(inputs, name):
    """(tensors, gradients) of the inputs, of whatever kind they are."""
    if isinstance(inputs, (Tensor, LayerOutput)) or not len(inputs):
        raise ValueError(f"{name}: inputs must be a list of 1 to {kernel.MOST_LAYERS} layers' outputs; got {inputs!r}")
    read = [h.for_reader() if isinstance(h, LayerOutput) else (h, None) for h in inputs]
    return [tensor for tensor, _ in read], [gradient for _, gradient in read]
