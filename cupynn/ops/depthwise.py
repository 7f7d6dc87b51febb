"""Depthwise convolution: every channel is convolved with kernels of its own."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.kernels import depthwise
from cupynn.ops.arguments import need_images, pair


class DepthwiseConv2d(Function):
    """y[n, cM + m, p, q] = bias[cM + m] + sum_{i,j} x[n, c, p s + i d - padding, q s + j d - padding] w[c, m, i, j]."""

    def forward(self, x, w, bias):
        self.save(x, w)
        return depthwise.forward(x, w, bias, self.stride, self.padding, self.dilation)

    def backward(self, grad):
        x, w = self.saved
        return depthwise.backward(grad, x, w, self.stride, self.padding, self.dilation, needs=self.needs_grad)


def depthwise_conv2d(x, w, bias=None, stride=1, padding=0, dilation=1):
    """Convolve every channel of x (N, C, H, W) with its own kernels w (C, M, KH, KW), and add bias (C M).

    The result is (N, C M, OH, OW); its channel c M + m comes from channel c of x and w[c, m]. `stride`, `padding` and
    `dilation` are an integer or a pair (rows, columns). Raises ValueError for shapes that do not fit, TypeError for
    dtypes that differ.
    """
    name = "depthwise_conv2d"
    need_images(name, x)
    options = {"stride": pair(name, "stride", stride, 1), "padding": pair(name, "padding", padding)}
    return DepthwiseConv2d(**options, dilation=pair(name, "dilation", dilation, 1))(x, w, bias)
