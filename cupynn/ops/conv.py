"""Two-dimensional convolution (cross-correlation) and transposed convolution."""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import xp_of
from cupynn.kernels import conv
from cupynn.ops.arguments import integers, need_images, pair


class Conv2d(Function):
    """y[n, o, p, q] = bias[o] + sum_{c,i,j} x[n, c, p s + i d - padding, q s + j d - padding] w[o, c, i, j]."""

    def forward(self, x, w, bias):
        self.save(x, w)
        return conv.forward(x, w, bias, self.stride, self.padding, self.dilation, self.groups)

    def backward(self, grad):
        x, w = self.saved
        return conv.backward(grad, x, w, self.stride, self.padding, self.dilation, self.groups, needs=self.needs_grad)


class ConvTranspose2d(Function):
    """The gradient of `Conv2d` to its input, as an operation of its own: forward and backward change places."""

    def forward(self, x, w, bias):
        self.save(x, w)
        image = xp_of(x).empty(self.output_shape, x.dtype)  # only its shape is read
        options = (self.stride, self.padding, self.dilation, self.groups)
        y = conv.backward(x, image, w, *options, needs=(True, False, False))[0]
        if bias is not None:
            y += bias[:, None, None]
        return y

    def backward(self, grad):
        x, w = self.saved
        options = (self.stride, self.padding, self.dilation, self.groups)
        dx = conv.forward(grad, w, None, *options) if self.needs_grad[0] else None
        dw = conv.backward(x, grad, w, *options, needs=(False, True, False))[1] if self.needs_grad[1] else None
        return dx, dw, grad.sum(axis=(0, 2, 3), dtype=w.dtype) if self.needs_grad[2] else None


def conv2d(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolve x (N, C, H, W) with w (O, C/groups, KH, KW) and add bias (O); zeros outside x.

    The result is (N, O, OH, OW) with OH = floor((H + 2 padding - dilation (KH - 1) - 1) / stride) + 1. `stride`,
    `padding` and `dilation` are an integer or a pair (rows, columns). Raises ValueError for shapes that do not fit,
    TypeError for dtypes that differ.
    """
    stride, padding = pair("conv2d", "stride", stride, 1), pair("conv2d", "padding", padding)
    dilation = pair("conv2d", "dilation", dilation, 1)
    (groups,) = integers(groups, 1) or (groups,)  # the kernel refuses what is no integer
    return Conv2d(stride=stride, padding=padding, dilation=dilation, groups=groups)(x, w, bias)


def conv_transpose2d(x, w, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution of x (N, C, H, W) with w (C, O/groups, KH, KW); bias (O).

    It spreads every pixel of x over a window of the result (N, O, OH, OW) and sums where windows overlap:
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1. Raises ValueError for shapes that do
    not fit and for an output_padding that is not smaller than the stride.
    """
    name = "conv_transpose2d"
    need_images(name, x)
    stride, padding = pair(name, "stride", stride, 1), pair(name, "padding", padding)
    dilation, output_padding = pair(name, "dilation", dilation, 1), pair(name, "output_padding", output_padding)
    (groups,) = integers(groups, 1) or (groups,)
    if w.ndim != 4 or w.shape[0] != x.shape[1] or groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f"{name}: x has shape {x.shape}, so weight must be ({x.shape[1]}, O/groups, KH, KW) and groups={groups} "
            f"must divide {x.shape[1]}; weight has shape {w.shape}"
        )
    if output_padding[0] >= stride[0] or output_padding[1] >= stride[1]:
        raise ValueError(f"{name}: output_padding must be smaller than stride {stride}; got {output_padding}")
    out_channels = w.shape[1] * groups
    if bias is not None and bias.shape != (out_channels,):
        raise ValueError(
            f"{name}: weight has shape {w.shape}, so bias must be ({out_channels},) at groups={groups}; "
            f"it has shape {bias.shape}"
        )
    height, width = (
        (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (w.shape[2 + i] - 1) + output_padding[i] + 1
        for i in range(2)
    )
    if height < 1 or width < 1:
        raise ValueError(f"{name}: the result would be {height} x {width} pixels; x has shape {x.shape}")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return ConvTranspose2d(**options, output_shape=(x.shape[0], out_channels, height, width))(x, w, bias)
