"""Residual blocks of the ImageNet networks: activation after the addition, with what the WHE paper adds to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cupynn import ops
from cupynn.nn import (
    APL,
    ELU,
    BatchNorm2d,
    Conv2d,
    Identity,
    Linear,
    Module,
    Parameter,
    PReLU,
    ReLU,
    Sequential,
    WHEBlock,
    init,
)
from cupynn.nn.containers import relu_of

ACTIVATIONS: dict[str, Callable[[int], Module]] = {
    "relu": lambda channels: ReLU(),
    "prelu": PReLU,
    "elu": lambda channels: ELU(),
    "apl": APL,
}
POSITIONS = ("post_conv", "post_bn")


class DepthwiseBlock(Module):
    """y = x + BN(depthwise 3x3 of x): what WHE blocks are compared with, 9 C + 2 C learned numbers. [WHE, Table 3]"""

    def __init__(self, channels: int):
        self.conv = Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = BatchNorm2d(channels)

    def forward(self, x):
        return self.bn(self.conv(x), residual=x)


class SqueezeExcitation(Module):
    """y = x * sigmoid(fc2(relu(fc1(m)))), m the means of the channels; fc1 C -> C/16, fc2 back, no biases. [SENet]"""

    def __init__(self, channels: int):
        self.fc1 = Linear(channels, channels // 16, bias=False)
        self.fc2 = Linear(channels // 16, channels, bias=False)

    def forward(self, x):
        scale = ops.sigmoid(self.fc2(ops.relu(self.fc1(x.mean(axis=(2, 3))))))
        return x * scale.reshape(*scale.shape, 1, 1)


@dataclass(frozen=True)
class Variant:
    """What all blocks of one network have besides their plain layers; the options of `resnet` say what they mean."""

    whe: int | None = None
    whe_position: str = "post_conv"
    depthwise: bool = False
    squeeze_excitation: bool = False
    activation: str = "relu"
    last_gamma: bool = False

    def __post_init__(self):
        if self.whe_position not in POSITIONS:
            raise ValueError(f"resnet: whe_position must be one of {', '.join(POSITIONS)}; got {self.whe_position!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"resnet: activation must be one of {', '.join(ACTIVATIONS)}; got {self.activation!r}")
        if self.depthwise and self.whe is not None:
            raise ValueError(f"resnet: depthwise=True stands in for WHE blocks, so whe must be None; got {self.whe}")
        if self.whe_position != "post_conv" and self.whe is None and not self.depthwise:
            raise ValueError(f"resnet: whe_position={self.whe_position!r} needs whe or depthwise; got neither")

    def conv3x3(self, inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> tuple[Module, Module]:
        """A convolution and its batch norm; a WHE block (or its stand-in) belongs to the one that it stands behind."""
        conv = Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups, bias=False)
        bn = BatchNorm2d(outputs)
        if self.whe is None and not self.depthwise:
            return conv, bn
        block = DepthwiseBlock(outputs) if self.depthwise else WHEBlock(outputs, self.whe)
        return (Sequential(conv, block), bn) if self.whe_position == "post_conv" else (conv, Sequential(bn, block))

    def activate(self, channels: int) -> Module:
        return ACTIVATIONS[self.activation](channels)

    def rescale(self, channels: int) -> Module:
        return SqueezeExcitation(channels) if self.squeeze_excitation else Identity()

    def last(self, bn: Module) -> Module:
        """The last batch norm of a branch: with last_gamma its weight is 0, and the block starts as its shortcut."""
        if self.last_gamma:
            norm = bn[0] if isinstance(bn, Sequential) else bn
            norm.weight = Parameter(init.constant(norm.weight.shape, 0.0))
        return bn


def activated(bn: Module, activation: Module, x):
    """activation(bn(x)), in one kernel where that is batch norm and ReLU."""
    if relu := relu_of(bn, activation):
        return bn(x, relu=relu)
    return activation(bn(x))


def joined(bn: Module, activation: Module, x, shortcut, rescale: Module | None = None):
    """activation(rescale(bn(x)) + shortcut), in one kernel where that is batch norm and ReLU, with nothing between."""
    if rescale is not None and type(rescale) is not Identity:
        return activation(rescale(bn(x)) + shortcut)
    if relu := relu_of(bn, activation):
        return bn(x, relu=relu, residual=shortcut)
    return activation(bn(x) + shortcut)


def projection(inputs: int, outputs: int, stride: int) -> Module:
    """The shortcut: the input itself, or where its shape is another, a 1x1 convolution and batch norm (option B)."""
    if inputs == outputs and stride == 1:
        return Identity()
    return Sequential(Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs))


class BasicBlock(Module):
    """activation(F(x) + shortcut(x)), F: 3x3 with the stride, BN, activation, 3x3, BN, [SE]. [He et al. 2015, fig. 5]

    inputs, outputs: channels that the block takes and gives. variant decides on SE, the activation and WHE blocks.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, variant: Variant):
        self.conv1, self.bn1 = variant.conv3x3(inputs, outputs, stride)
        self.activation1 = variant.activate(outputs)
        self.conv2, bn2 = variant.conv3x3(outputs, outputs)
        self.bn2 = variant.last(bn2)
        self.rescale = variant.rescale(outputs)
        self.downsample = projection(inputs, outputs, stride)
        self.activation2 = variant.activate(outputs)

    def forward(self, x):
        y = activated(self.bn1, self.activation1, self.conv1(x))
        return joined(self.bn2, self.activation2, self.conv2(y), self.downsample(x), self.rescale)


def plain_block(inputs: int, outputs: int, stride: int) -> Sequential:
    """A `BasicBlock` without its shortcut: twice 3x3, BN, ReLU."""
    return Sequential(
        Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        BatchNorm2d(outputs),
        ReLU(),
        Conv2d(outputs, outputs, 3, padding=1, bias=False),
        BatchNorm2d(outputs),
        ReLU(),
    )


class Bottleneck(Module):
    """activation(F(x) + shortcut(x)), F: 1x1, BN, activation, 3x3, BN, activation, 1x1, BN, [SE].

    inner: channels of the 3x3 convolution, a fourth of the outputs where it is not given. The 3x3 has the stride;
    stride_first=True, the first form of the network: the first 1x1 has it, and both 1x1 have biases.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        variant: Variant,
        inner: int | None = None,
        groups: int = 1,
        stride_first: bool = False,
    ):
        inner = outputs // 4 if inner is None else inner
        first, second = (stride, 1) if stride_first else (1, stride)
        self.conv1 = Conv2d(inputs, inner, 1, first, bias=stride_first)
        self.bn1 = BatchNorm2d(inner)
        self.activation1 = variant.activate(inner)
        self.conv2, self.bn2 = variant.conv3x3(inner, inner, second, groups)
        self.activation2 = variant.activate(inner)
        self.conv3 = Conv2d(inner, outputs, 1, bias=stride_first)
        self.bn3 = variant.last(BatchNorm2d(outputs))
        self.rescale = variant.rescale(outputs)
        self.downsample = projection(inputs, outputs, stride)
        self.activation3 = variant.activate(outputs)

    def forward(self, x):
        y = activated(self.bn1, self.activation1, self.conv1(x))
        y = activated(self.bn2, self.activation2, self.conv2(y))
        return joined(self.bn3, self.activation3, self.conv3(y), self.downsample(x), self.rescale)
