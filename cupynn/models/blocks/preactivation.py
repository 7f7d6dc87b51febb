"""Residual blocks with batch norm and ReLU before each convolution. [He et al. 2016, "Identity mappings"]

Where the shape changes the shortcut is a 1x1 convolution of the block's first activation, with no batch norm.
"""

from __future__ import annotations

from cupynn.nn import BatchNorm2d, Conv2d, Module


def projection(inputs: int, outputs: int, stride: int) -> Conv2d | None:
    """The shortcut's convolution, or None where the shortcut is the input itself."""
    return None if inputs == outputs and stride == 1 else Conv2d(inputs, outputs, 1, stride, bias=False)


class PreactivationBasicBlock(Module):
    """F(a) + shortcut, a = ReLU(BN(x)), F: 3x3 with the stride, BN, ReLU, 3x3."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        self.bn1 = BatchNorm2d(inputs)
        self.conv1 = Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(outputs)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x):
        a = self.bn1(x, relu=True)
        shortcut = x if self.downsample is None else self.downsample(a)
        y = self.bn2(self.conv1(a), relu=True)
        return self.conv2(y) + shortcut


class PreactivationBottleneck(Module):
    """F(a) + shortcut, a = ReLU(BN(x)), F: 1x1, BN, ReLU, 3x3 with the stride, BN, ReLU, 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        inner = outputs // 4
        self.bn1 = BatchNorm2d(inputs)
        self.conv1 = Conv2d(inputs, inner, 1, bias=False)
        self.bn2 = BatchNorm2d(inner)
        self.conv2 = Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn3 = BatchNorm2d(inner)
        self.conv3 = Conv2d(inner, outputs, 1, bias=False)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x):
        a = self.bn1(x, relu=True)
        shortcut = x if self.downsample is None else self.downsample(a)
        y = self.bn2(self.conv1(a), relu=True)
        y = self.bn3(self.conv2(y), relu=True)
        return self.conv3(y) + shortcut
