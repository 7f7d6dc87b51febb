"""Residual blocks of the CIFAR networks: shortcuts without parameters, pre-activation with the raw input, WHE, dropout.

Every constructor takes input channels, output channels, the stride, and what makes the shortcut of those three.
"""

from __future__ import annotations

from collections.abc import Callable

from cupynn import ops
from cupynn.device import xp_of
from cupynn.models.blocks.preactivation import PreactivationBasicBlock, PreactivationBottleneck
from cupynn.models.blocks.residual import Variant, activated, joined
from cupynn.nn import Conv2d, Dropout, Identity, Module, ReLU

Shortcut = Callable[[int, int, int], Module]


class PaddedShortcut(Module):
    """Every stride-th pixel of the input, and channels of zeros behind its own: option A of [He et al. 2016]."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        self.new_channels, self.stride = outputs - inputs, stride

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        n, _, height, width = x.shape
        return ops.concatenate([x, xp_of(x.data).zeros((n, self.new_channels, height, width), x.dtype)], axis=1)

    def extra_repr(self) -> str:
        return f"new_channels={self.new_channels}, stride={self.stride}"


def padded(inputs: int, outputs: int, stride: int) -> Module:
    """Option A: the input itself, or where its shape is another, `PaddedShortcut`."""
    return Identity() if inputs == outputs and stride == 1 else PaddedShortcut(inputs, outputs, stride)


def convolved(inputs: int, outputs: int, stride: int) -> Module:
    """The input itself, or where its shape is another, a 1x1 convolution of it, without batch norm."""
    return Identity() if inputs == outputs and stride == 1 else Conv2d(inputs, outputs, 1, stride, bias=False)


class CIFARBasicBlock(Module):
    """relu(F(x) + shortcut(x)), F: 3x3 with the stride, BN, ReLU, dropout, 3x3, BN. [He et al. 2016; WHE, Sec. 4.3]

    first, second: whether the two convolutions have a WHE block.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        shortcut: Shortcut,
        first: Variant,
        second: Variant,
        dropout: float,
    ):
        self.conv1, self.bn1 = first.conv3x3(inputs, outputs, stride)
        self.relu = ReLU()
        self.dropout = Dropout(dropout) if dropout else Identity()
        self.conv2, self.bn2 = second.conv3x3(outputs, outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        y = self.dropout(activated(self.bn1, self.relu, self.conv1(x)))
        return joined(self.bn2, self.relu, self.conv2(y), self.downsample(x))


class RawShortcutBasicBlock(PreactivationBasicBlock):
    """F(x) + shortcut(x), F: BN, ReLU, 3x3 with the stride, BN, ReLU, 3x3. [GluonCV's CIFAR ResNet v2]"""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut):
        super().__init__(inputs, outputs, stride)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        y = self.bn2(self.conv1(self.bn1(x, relu=True)), relu=True)
        return self.conv2(y) + self.downsample(x)


class RawShortcutBottleneck(PreactivationBottleneck):
    """F(x) + shortcut(x), F: BN, ReLU, 1x1, BN, ReLU, 3x3 with the stride, BN, ReLU, 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut):
        super().__init__(inputs, outputs, stride)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        y = self.bn2(self.conv1(self.bn1(x, relu=True)), relu=True)
        y = self.bn3(self.conv2(y), relu=True)
        return self.conv3(y) + self.downsample(x)
