"""Pooling: the largest or the mean value of every window. PyTorch's meanings and sizes."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.kernels import pool
from cupynn.ops.arguments import need_images, pair


class MaxPool2d(Function):
    """y = max over the window; the gradient goes to the first pixel that holds the maximum."""

    def forward(self, x):
        y, indices = pool.max_forward(x, **self.window)
        self.save(indices)
        return y

    def backward(self, grad):
        (indices,) = self.saved
        return pool.max_backward(grad, indices, self.input_shapes[0], **self.window)


class AveragePool2d(Function):
    """y = mean over the window."""

    def forward(self, x):
        return pool.average_forward(x, **self.window)

    def backward(self, grad):
        return pool.average_backward(grad, self.input_shapes[0], **self.window)


class AdaptiveAveragePool2d(Function):
    """y[i] = mean over rows floor(i H / OH) to ceil((i + 1) H / OH); columns likewise."""

    def forward(self, x):
        return pool.adaptive_average_forward(x, self.output_size)

    def backward(self, grad):
        return pool.adaptive_average_backward(grad, self.input_shapes[0])


class AdaptiveMaxPool2d(Function):
    """y[i] = max over the windows of `AdaptiveAveragePool2d`."""

    def forward(self, x):
        y, indices = pool.adaptive_max_forward(x, self.output_size)
        self.save(indices)
        return y

    def backward(self, grad):
        (indices,) = self.saved
        return pool.adaptive_max_backward(grad, indices, self.input_shapes[0])


def _window(operation, kernel_size, stride, padding):
    """What both kinds of pooling tell the kernels of a window; a stride of None is left to them."""
    return {
        "kernel_size": pair(operation, "kernel_size", kernel_size, 1),
        "stride": None if stride is None else pair(operation, "stride", stride, 1),
        "padding": pair(operation, "padding", padding),
    }


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """The largest value of every window of x (N, C, H, W); padding counts as minus infinity, NaN propagates.

    The result is (N, C, OH, OW), OH = floor((H + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1, with ceil
    for floor in `ceil_mode`; stride defaults to kernel_size. Raises ValueError for a window that does not fit and
    for padding of more than half a window.
    """
    window = {
        **_window("max_pool2d", kernel_size, stride, padding),
        "dilation": pair("max_pool2d", "dilation", dilation, 1),
        "ceil_mode": ceil_mode,
    }
    return MaxPool2d(window=window)(x)


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The mean of every window of x (N, C, H, W). `count_include_pad` says whether padding counts in the divisor.

    Sizes and errors are those of `max_pool2d` at dilation 1.
    """
    window = {
        **_window("avg_pool2d", kernel_size, stride, padding),
        "ceil_mode": ceil_mode,
        "count_include_pad": count_include_pad,
    }
    return AveragePool2d(window=window)(x)


def _output_size(operation, x, output_size):
    """output_size as a pair, with each None in it replaced by the size of that axis of x."""
    need_images(operation, x)
    if isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        output_size = tuple(old if new is None else new for new, old in zip(output_size, x.shape[2:], strict=True))
    return pair(operation, "output_size", output_size, 1)


def adaptive_avg_pool2d(x, output_size):
    """The means of OH x OW windows that cover x (N, C, H, W), (OH, OW) = output_size; None keeps that axis's size."""
    return AdaptiveAveragePool2d(output_size=_output_size("adaptive_avg_pool2d", x, output_size))(x)


def adaptive_max_pool2d(x, output_size):
    """The largest values of OH x OW windows that cover x (N, C, H, W), (OH, OW) = output_size; None keeps a size."""
    return AdaptiveMaxPool2d(output_size=_output_size("adaptive_max_pool2d", x, output_size))(x)
