"""Residual networks for ImageNet: ResNet v1, v1b, v2, Plain, WideResNet, SENet, ResNeXt, with WHE blocks or not.

Stems, stages and classifiers are the same; what differs are the blocks, in `blocks.residual` and
`blocks.preactivation`. Names of layers are torchvision's where it has the network; a WHE block stands behind its
convolution as `conv1.1`, which is `conv1.0` then (`bn1.1` and `bn1.0` behind batch norm).

Layers start as the WHE paper's and torchvision's: convolutions normal with deviation sqrt(2 / (k * k * outputs)), batch
norms as the identity, the linear layer as PyTorch's. GluonCV's scripts, DO-Conv's, draw by another rule (MSRA-PReLU).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from cupynn.models.blocks.preactivation import PreactivationBasicBlock, PreactivationBottleneck
from cupynn.models.blocks.residual import ACTIVATIONS, BasicBlock, Bottleneck, Variant, activated, plain_block
from cupynn.models.initialise import he_fan_out, initialise
from cupynn.models.registry import register
from cupynn.nn import BatchNorm2d, Conv2d, Linear, MaxPool2d, Module, Sequential

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
VERSIONS = ("v1", "v1b", "v2")
Block = Callable[[int, int, int], Module]  # input channels, output channels, stride -> the block


class ResNet(Module):
    """7x7 convolution of stride 2, BN, activation, 3x3 max pool; four stages of blocks; global average; linear layer.

    block makes a block from its input channels, output channels and stride; blocks: how many a stage has;
    widths: output channels of the stages. The first block of all stages but the first halves height and width.
    """

    def __init__(
        self,
        block: Block,
        blocks: Sequence[int],
        widths: Sequence[int],
        classes: int,
        in_channels: int,
        activation: str = "relu",
    ):
        self.conv1 = Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(64)
        self.activation = ACTIVATIONS[activation](64)
        self.maxpool = MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(block, blocks[0], 64, widths[0], 1)
        self.layer2 = stage(block, blocks[1], widths[0], widths[1], 2)
        self.layer3 = stage(block, blocks[2], widths[1], widths[2], 2)
        self.layer4 = stage(block, blocks[3], widths[2], widths[3], 2)
        self.fc = Linear(widths[3], classes)
        initialise(self, convolution=he_fan_out)
        self.input_shape = (in_channels, 224, 224)
        self.stages = ("conv1", "layer1", "layer2", "layer3", "layer4")

    def forward(self, x):
        x = self.maxpool(activated(self.bn1, self.activation, self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(axis=(2, 3)))


def stage(block: Block, count: int, inputs: int, outputs: int, stride: int) -> Sequential:
    """`count` blocks, of which the first has the stride."""
    return Sequential(block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(count - 1)))


class ResNetV2(ResNet):
    """A `ResNet` of pre-activation blocks: batch norm without weight and bias on the image, BN and ReLU at the end."""

    def __init__(self, block: Block, blocks: Sequence[int], widths: Sequence[int], classes: int, in_channels: int):
        self.bn_input = BatchNorm2d(in_channels, affine=False)
        super().__init__(block, blocks, widths, classes, in_channels)
        self.bn_last = BatchNorm2d(widths[3])

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(self.bn_input(x)), relu=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.bn_last(x, relu=True).mean(axis=(2, 3)))


@register("resnet")
def resnet(
    depth: int = 18,
    version: str = "v1b",
    classes: int = 1000,
    in_channels: int = 3,
    whe: int | None = None,
    whe_position: str = "post_conv",
    depthwise: bool = False,
    wide: float = 1.0,
    squeeze_excitation: bool = False,
    activation: str = "relu",
    last_gamma: bool = False,
) -> ResNet:
    """ResNet of 18, 34 (basic blocks), 50, 101 or 152 layers (bottlenecks). [He et al. 2015, 2016; DO-Conv; WHE]

    version: "v1b", torchvision's and the WHE paper's; "v1", whose bottlenecks have the stride in their first
        1x1 convolution, and biases in both (v1 and v1b of 18 and 34 layers are the same); "v2", pre-activation. All as
        GluonCV has them, from which DO-Conv takes its networks.
    whe: group size of the WHE blocks, one behind each 3x3 convolution of the blocks, none behind the stem's and the
        shortcuts'; None: no WHE. whe_position: "post_conv" directly behind the convolution, as the paper's text reads,
        or "post_bn" behind the convolution's batch norm; the paper does not say which, and counts are the same.
    depthwise: `DepthwiseBlock`s in the place of the WHE blocks. [WHE, Table 3]
    wide: factor of all stages' widths; the stem keeps 64 channels. [WHE, Table 2]
    squeeze_excitation: SE on a branch's end, before the addition. [WHE, Table 1]
    activation: "relu", "prelu" (a slope for each channel), "elu" or "apl", everywhere. [WHE, Table 4]
    last_gamma: the weight of each branch's last batch norm starts at 0. GluonCV ignores it in basic blocks of v1b.

    Parameters of v1b: 11,689,512 (18), 21,797,672 (34), 25,557,032 (50), 44,549,160 (101), 60,192,808 (152);
    with whe=16: 11,942,952 (18), 22,296,104 (34).

    Raises ValueError for another depth, version, position or activation, for whe together with depthwise, for a group
    size that does not divide the widths, and for any option after in_channels with version "v2".
    """
    if depth not in BLOCKS:
        raise ValueError(f"resnet: depth must be one of {', '.join(map(str, BLOCKS))}; got {depth!r}")
    if version not in VERSIONS:
        raise ValueError(f"resnet: version must be one of {', '.join(VERSIONS)}; got {version!r}")
    if not (64 * wide >= 1 and float(64 * wide).is_integer()):
        raise ValueError(f"resnet: wide must make 64 * wide a whole number of channels; got {wide!r}")
    variant = Variant(whe, whe_position, depthwise, squeeze_excitation, activation, last_gamma)
    widths = [int(width * wide) * (1 if depth < 50 else 4) for width in (64, 128, 256, 512)]
    if version == "v2":
        plain_options = {**vars(Variant()), "wide": 1.0}
        for option, value in {**vars(variant), "wide": wide}.items():
            if value != plain_options[option]:
                raise ValueError(f"resnet: version 'v2' has no {option}; got {option}={value!r}")
        block = PreactivationBasicBlock if depth < 50 else PreactivationBottleneck
        return ResNetV2(block, BLOCKS[depth], widths, classes, in_channels)
    if depth < 50:
        block = partial(BasicBlock, variant=variant)
    else:
        block = partial(Bottleneck, variant=variant, stride_first=version == "v1")
    return ResNet(block, BLOCKS[depth], widths, classes, in_channels, activation)


@register("plain")
def plain(depth: int = 18, classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet v1 of 18 or 34 layers without shortcuts and their convolutions. [DO-Conv; He et al. 2015]

    11,515,688 parameters (18). Raises ValueError for another depth.
    """
    if depth not in (18, 34):
        raise ValueError(f"plain: depth must be 18 or 34; got {depth!r}")
    return ResNet(plain_block, BLOCKS[depth], (64, 128, 256, 512), classes, in_channels)


@register("resnext")
def resnext(classes: int = 1000, in_channels: int = 3, last_gamma: bool = False) -> ResNet:
    """ResNeXt-50 32x4d: ResNet-50 v1b whose 3x3 convolutions have 32 groups and twice the width. [DO-Conv]

    25,028,904 parameters. last_gamma as `resnet` has it; GluonCV's flag of that name works the other way round here.
    """

    def block(inputs: int, outputs: int, stride: int) -> Bottleneck:
        return Bottleneck(inputs, outputs, stride, Variant(last_gamma=last_gamma), inner=outputs // 2, groups=32)

    return ResNet(block, BLOCKS[50], (256, 512, 1024, 2048), classes, in_channels)


@register("wide_resnet")
def wide_resnet(
    wide: float = 1.25,
    classes: int = 1000,
    in_channels: int = 3,
    whe: int | None = None,
    whe_position: str = "post_conv",
) -> ResNet:
    """WideResNet-18: ResNet-18 with stages of 1.25 or 1.5 times the width, the stem's stays; options of `resnet`.

    18,089,736 (1.25) and 25,875,816 (1.5) parameters. The paper prints 17.4M and 25.1M, which are those without the
    linear layer. [WHE, Table 2]
    """
    return resnet(18, classes=classes, in_channels=in_channels, whe=whe, whe_position=whe_position, wide=wide)


@register("senet")
def senet(classes: int = 1000, in_channels: int = 3, whe: int | None = None, whe_position: str = "post_conv") -> ResNet:
    """SENet-18: ResNet-18 with squeeze-and-excitation, reduction 16 and no biases; options of `resnet`. [WHE, Table 1]

    11,776,552 parameters; with whe=16: 12,029,992.
    """
    options = {"classes": classes, "in_channels": in_channels, "whe": whe, "whe_position": whe_position}
    return resnet(18, squeeze_excitation=True, **options)
