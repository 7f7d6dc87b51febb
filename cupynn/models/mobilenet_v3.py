"""MobileNet v3, large: inverted residuals of chosen sizes, with squeeze-and-excitation. [Howard et al. 2019]"""

from __future__ import annotations

from dataclasses import dataclass

from cupynn import ops
from cupynn.models.blocks.conv_bn import conv_bn
from cupynn.models.initialise import he_fan_out, initialise
from cupynn.models.registry import register
from cupynn.nn import Conv2d, Dropout, Flatten, Hardswish, Module, ReLU, Sequential


@dataclass(frozen=True)
class Block:
    kernel_size: int
    inner: int
    outputs: int
    squeeze: bool
    activation: type[Module]
    stride: int


BLOCKS = (
    Block(3, 16, 16, False, ReLU, 1),
    Block(3, 64, 24, False, ReLU, 2),
    Block(3, 72, 24, False, ReLU, 1),
    Block(5, 72, 40, True, ReLU, 2),
    Block(5, 120, 40, True, ReLU, 1),
    Block(5, 120, 40, True, ReLU, 1),
    Block(3, 240, 80, False, Hardswish, 2),
    Block(3, 200, 80, False, Hardswish, 1),
    Block(3, 184, 80, False, Hardswish, 1),
    Block(3, 184, 80, False, Hardswish, 1),
    Block(3, 480, 112, True, Hardswish, 1),
    Block(3, 672, 112, True, Hardswish, 1),
    Block(5, 672, 160, True, Hardswish, 2),
    Block(5, 960, 160, True, Hardswish, 1),
    Block(5, 960, 160, True, Hardswish, 1),
)


@register("mobilenet_v3")
class MobileNetV3(Module):
    """3x3 convolution of stride 2, BN, hardswish; 15 blocks; 1x1 to 960, BN, hardswish; average; classifier.

    The classifier is GluonCV's, from which DO-Conv takes the network: 1x1 convolution to 1280 without bias and batch
    norm, hardswish, dropout of 0.2, 1x1 convolution with bias. That is torchvision's but for the first one's bias.
    cifar: stride 1 in the first convolution and in the blocks of 24 channels, for images of 32 x 32, as `mobilenet_v2`
        has it; no paper has trained this one.

    5,481,752 parameters; 7,468,067 with expand="do", which learns 625 numbers more for each channel of the 5x5
    depthwise convolutions. [DO-Conv, Table 3]

    Convolutions start normal with deviation sqrt(2 / (k * k * outputs)). Names of layers are torchvision's.
    """

    def __init__(self, classes: int = 1000, in_channels: int = 3, cifar: bool = False):
        self.features = Sequential(conv_bn(in_channels, 16, 3, 1 if cifar else 2, activation=Hardswish))
        channels, stages = 16, {}
        for i, block in enumerate(BLOCKS, 1):
            stride = 1 if cifar and block.outputs == 24 else block.stride
            self.features.append(InvertedResidual(channels, block, stride))
            stages.setdefault(block.outputs, []).append(f"features.{i}")
            channels = block.outputs
        self.features.append(conv_bn(channels, 960, activation=Hardswish))
        self.classifier = Sequential(
            Conv2d(960, 1280, 1, bias=False), Hardswish(), Dropout(0.2), Conv2d(1280, classes, 1), Flatten()
        )
        initialise(self, convolution=he_fan_out)
        self.input_shape = (in_channels, 32, 32) if cifar else (in_channels, 224, 224)
        self.stages = ("features.0", *map(tuple, stages.values()))

    def forward(self, x):
        return self.classifier(self.features(x).mean(axis=(2, 3), keepdims=True))


class InvertedResidual(Module):
    """1x1, BN, f; depthwise k x k with the stride, BN, f; [SE]; 1x1, BN; + x if shapes are the same.

    There is no first 1x1 where inner and output channels are as many.
    """

    def __init__(self, inputs: int, block: Block, stride: int):
        inner, outputs = block.inner, block.outputs
        layers = [] if inner == outputs else [conv_bn(inputs, inner, activation=block.activation)]
        layers.append(conv_bn(inner, inner, block.kernel_size, stride, inner, block.activation))
        if block.squeeze:
            layers.append(SqueezeExcitation(inner))
        self.block = Sequential(*layers, conv_bn(inner, outputs))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return self.block(x, residual=x if self.is_residual else None)


class SqueezeExcitation(Module):
    """y = x * hardsigmoid(fc2(relu(fc1(m)))), m the means of the channels; fc1 C -> C/4, next multiple of 8, fc2 back.

    Both are 1x1 convolutions with biases.
    """

    def __init__(self, channels: int):
        squeezed = -(-(channels // 4) // 8) * 8
        self.fc1 = Conv2d(channels, squeezed, 1)
        self.fc2 = Conv2d(squeezed, channels, 1)

    def forward(self, x):
        scale = self.fc1(x.mean(axis=(2, 3), keepdims=True))
        return x * ops.hardsigmoid(self.fc2(ops.relu(scale)))
