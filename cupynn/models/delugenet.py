"""DelugeNets: every layer of a block reads all layers before it, channel by channel. [DelugeNets]

A block is made of composite layers F: BN, ReLU, 1x1 (n), BN, ReLU, 3x3 (n), BN, ReLU, 1x1 (2n). What the i-th reads is
the cross-layer convolution of the block's entry h_0 and of all that the composite layers before it gave,

    h_i = F_i(cross_i(h_(i-1), ..., h_0)),          cross_1(h_0) = h_0,

and the block gives the cross-layer convolution of all h. The next block's entry is BN and a 3x3 convolution of stride 2
of that. No layer has an identity shortcut, and no convolution a bias.

The paper's equation 1 has a weight for each layer and channel, and one bias a channel. The authors' code, which the
printed parameter counts confirm, normalises each h by its own statistics first and has as many biases as weights;
that is what is built here. Weights of a cross-layer convolution of L layers start at 1/L (1/(L-1) in the text).
The depth in a network's name counts 3 for each composite layer, and the first convolution and the linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cupynn.models.initialise import he_fan_out, initialise, zeros
from cupynn.models.registry import register
from cupynn.nn import (
    BatchNorm2d,
    Conv2d,
    CrossLayerDepthwise,
    Linear,
    MaxPool2d,
    Module,
    ModuleList,
    ReLU,
    Sequential,
)
from cupynn.ops import LayerOutput

CIFAR_LAYERS = {146: (8, 16, 24), 218: (12, 24, 36)}
PAPER, REPOSITORY = (48, 96, 192, 384), (64, 128, 256, 512)
IMAGENET_LAYERS = {
    143: (PAPER, (6, 11, 14, 16)),
    152: (PAPER, (5, 10, 15, 20)),
    92: (REPOSITORY, (7, 7, 8, 8)),
    104: (REPOSITORY, (7, 8, 9, 10)),
    122: (REPOSITORY, (7, 9, 11, 13)),
}


class CompositeLayer(Module):
    """BN, ReLU, 1x1 (width), BN, ReLU, 3x3 (width) with the stride, BN, ReLU, 1x1 (2 * width)."""

    def __init__(self, inputs: int, width: int, stride: int = 1):
        self.bn1 = BatchNorm2d(inputs)
        self.conv1 = Conv2d(inputs, width, 1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = BatchNorm2d(width)
        self.conv3 = Conv2d(width, 2 * width, 1, bias=False)

    def forward(self, x):
        return self.convolutions(self.bn1(x, relu=True))

    def convolutions(self, x):
        """What follows the first ReLU."""
        x = self.bn2(self.conv1(x), relu=True)
        x = self.bn3(self.conv2(x), relu=True)
        return self.conv3(x)


class CrossLayerBlock(Module):
    """`layers` composite layers, and a cross-layer convolution behind each: of the block's input and all layers so far.

    Weights of the cross-layer convolutions are in the order newest layer first, the block's input last.
    """

    def __init__(self, width: int, layers: int):
        self.layers = ModuleList([CompositeLayer(2 * width, width) for _ in range(layers)])
        self.crosses = ModuleList([CrossLayerDepthwise(2 * width, count + 1) for count in range(1, layers + 1)])

    def forward(self, x):
        outputs = [LayerOutput(x)]
        for layer, cross in zip(self.layers, self.crosses, strict=True):
            outputs.insert(0, LayerOutput(layer(x)))
            x = cross(outputs)
        return x


class DelugeNet(Module):
    """Stem; blocks, each behind the layer that makes its input, its entry; BN, ReLU, global average, linear layer.

    channels: how many the last block gives. image_size: height and width of the images it was designed for.
    """

    def __init__(
        self,
        stem: Module,
        entries: Sequence[Module],
        blocks: Sequence[Module],
        channels: int,
        classes: int,
        in_channels: int,
        image_size: int,
    ):
        self.stem = stem
        self.entries = ModuleList(entries)
        self.blocks = ModuleList(blocks)
        self.bn = BatchNorm2d(channels)
        self.fc = Linear(channels, classes)
        initialise(self, convolution=he_fan_out, linear_bias=zeros)
        self.input_shape = (in_channels, image_size, image_size)
        self.stages = ("stem", *((f"entries.{i}", f"blocks.{i}") for i in range(len(blocks))))

    def forward(self, x):
        x = self.stem(x)
        for entry, block in zip(self.entries, self.blocks, strict=True):
            x = block(entry(x))
        return self.fc(self.bn(x, relu=True).mean(axis=(2, 3)))


def transitions(widths: Sequence[int]) -> list[Sequential]:
    """The entries of all blocks but the first: BN and a 3x3 convolution of stride 2, with no ReLU between them."""
    return [
        Sequential(BatchNorm2d(2 * width), Conv2d(2 * width, 2 * next_width, 3, 2, padding=1, bias=False))
        for width, next_width in pairwise(widths)
    ]


def cifar_layout(name: str, depth: int, wide: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths n and numbers of composite layers of the three blocks."""
    if depth not in CIFAR_LAYERS:
        raise ValueError(f"{name}: depth must be 146 or 218; got {depth!r}")
    return (56, 112, 224) if wide else (32, 64, 128), CIFAR_LAYERS[depth]


@register("cifar_delugenet")
def cifar_delugenet(depth: int = 146, wide: bool = False, classes: int = 10, in_channels: int = 3) -> DelugeNet:
    """DelugeNet for CIFAR: a 3x3 convolution and three blocks. [DelugeNets, Tables 1, 2]

    Blocks have 8, 16, 24 composite layers (depth 146) or 12, 24, 36 (218) and widths n = 32, 64, 128; wide: 56, 112,
    224. The first block's first composite layer reads the stem alone, and what it gives is the block's entry h_0.

    Parameters: 6,686,250 (146), 9,981,738 (218), 20,150,658 (146, wide), with 10 classes. The paper prints 6.69M, which
    is that, and 10.00M and 20.19M, which are those for 100 classes.

    Raises ValueError for another depth.
    """
    widths, layers = cifar_layout("cifar_delugenet", depth, wide)
    stem = Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
    entries = [CompositeLayer(widths[0], widths[0]), *transitions(widths)]
    counts = (layers[0] - 1, *layers[1:])
    blocks = [CrossLayerBlock(width, count) for width, count in zip(widths, counts, strict=True)]
    return DelugeNet(stem, entries, blocks, 2 * widths[-1], classes, in_channels, 32)


@register("delugenet")
def delugenet(depth: int = 92, classes: int = 1000, in_channels: int = 3) -> DelugeNet:
    """DelugeNet for ImageNet: 7x7 convolution of stride 2, BN, ReLU, max pool, and four blocks. [DelugeNets, Table 3]

    depth 143 and 152 are the paper's, with widths n = 48, 96, 192, 384; 92, 104, 122 the authors' repository's, with
    64, 128, 256, 512. The first block's entry is a 1x1 convolution. The stem has 64 channels as in the repository; the
    paper does not say.

    Parameters: 43,589,928 (143), 51,725,928 (152), 43,404,072 (92), 51,353,896 (104), 63,620,392 (122).

    Raises ValueError for another depth.
    """
    if depth not in IMAGENET_LAYERS:
        raise ValueError(f"delugenet: depth must be one of {', '.join(map(str, IMAGENET_LAYERS))}; got {depth!r}")
    widths, counts = IMAGENET_LAYERS[depth]
    convolution = Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
    stem = Sequential(convolution, BatchNorm2d(64), ReLU(), MaxPool2d(3, 2, padding=1))
    entries = [Conv2d(64, 2 * widths[0], 1, bias=False), *transitions(widths)]
    blocks = [CrossLayerBlock(width, count) for width, count in zip(widths, counts, strict=True)]
    return DelugeNet(stem, entries, blocks, 2 * widths[-1], classes, in_channels, 224)
