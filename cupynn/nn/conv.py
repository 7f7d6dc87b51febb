"""The convolution layer."""

from __future__ import annotations

from cupynn import ops
from cupynn.nn import init
from cupynn.nn.arguments import need_channels
from cupynn.nn.module import Module, Parameter
from cupynn.ops.arguments import Pair, pair


class Conv2d(Module):
    """`ops.conv2d` with a learned weight (out_channels, in_channels/groups, KH, KW) and bias (out_channels).

    Both start as PyTorch's do, uniform within 1 / sqrt(fan-in). Raises ValueError for sizes below 1, a negative
    padding, and groups that do not divide both channel counts.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        in_channels, out_channels, groups = need_channels("Conv2d", in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = pair("Conv2d", "stride", stride, 1)
        self.padding = pair("Conv2d", "padding", padding)
        self.dilation = pair("Conv2d", "dilation", dilation, 1)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(init.default_weight(shape))
        self.bias = Parameter(init.default_bias(shape)) if bias else None

    def forward(self, x):
        return ops.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"
