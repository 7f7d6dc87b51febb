"""SeqResNet and SeqResNeXt: residual networks of SeqConv layers. [SeqConv]

Between layers go two tensors: raw, what stands before the last batch norm, and act = ReLU(BN(raw)). Layers read act;
a residual block adds its raw input to what its second layer computes before that one's batch norms:

    block:          (_, y) = A(act),   (raw', act') = B(y) + raw;           B's 3x3 convolutions start at 0
    down-sampling:  (_, e) = ext(act), raw' = conv3x3(act and e, stride 2), act' = ReLU(BN(raw'))

A, B and ext are windowed SeqConv layers (`nn.SeqConv2d`). The groups of the 3x3 convolution of a down-sampling are the
next stage's, so that no group of features reads another. Names of layers are those of the authors' code for CIFAR.

Convolutions start uniform within sqrt(6 / fan-out), the linear layer within sqrt(3 / classes), its bias at 0. As in the
authors' code, fan-out is k * k * outputs, groups not considered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from cupynn import ops
from cupynn.models.initialise import initialise, zeros
from cupynn.models.registry import register
from cupynn.nn import BatchNorm2d, Conv2d, Dropout2d, Linear, Module, SeqConv2d, Sequential, init

convolution_start = partial(init.kaiming_uniform, fan_mode="fan_out", nonlinearity="relu")
linear_start = partial(init.kaiming_uniform, fan_mode="fan_out", nonlinearity="linear")


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one width, in groups of k channels; subgroups of a group's 3x3 convolution."""

    width: int
    k: int
    blocks: int
    subgroups: int = 1

    @property
    def groups(self) -> int:
        """Groups of a whole convolution that mixes no two groups of this stage."""
        return self.width // self.k * self.subgroups


@dataclass(frozen=True)
class Variant:
    """What all SeqConv layers of a network but its first have in common; the first is dense and has no dropout."""

    windowed: bool = True
    bottleneck: bool = False
    dropout: float = 0.0

    def layer(self, inputs: int, outputs: int, stage: Stage, zero_init: bool = False) -> SeqConv2d:
        options = (self.windowed, self.bottleneck, stage.subgroups, self.dropout, zero_init)
        return SeqConv2d(inputs, outputs, stage.k, *options)

    def head(self, inputs: int, stage: Stage) -> SeqConv2d:
        return SeqConv2d(inputs, stage.width, stage.k, False, self.bottleneck, stage.subgroups)

    def blocks(self, stage: Stage) -> Sequential:
        return Sequential(*(SeqResidualBlock(stage, self) for _ in range(stage.blocks)))


class ConvUnit(Module):
    """Convolution of stride `stride` without bias, and BN; returns what both give: (raw, ReLU(BN(raw)))."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, groups: int = 1):
        self.conv = Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        initialise(self.conv, convolution=convolution_start)
        self.bn = BatchNorm2d(outputs)

    def forward(self, x):
        raw = self.conv(x)
        return raw, self.bn(raw, relu=True)


class SeqResidualBlock(Module):
    """(raw, act) of two SeqConv layers, raw added in the second."""

    def __init__(self, stage: Stage, variant: Variant):
        self.A = variant.layer(stage.width, stage.width, stage)
        self.B = variant.layer(stage.width, stage.width, stage, zero_init=True)

    def forward(self, features):
        raw, act = features
        return self.B(self.A(act)[1], raw)


class Downsampling(Module):
    """`ext` extends act to the next stage's width, `shrink` halves height and width."""

    def __init__(self, stage: Stage, next_stage: Stage, variant: Variant):
        self.ext = variant.layer(stage.width, next_stage.width - stage.width, stage)
        self.shrink = ConvUnit(next_stage.width, next_stage.width, 3, 2, next_stage.groups)

    def forward(self, features):
        act = features[1]
        return self.shrink(ops.concatenate([act, self.ext(act)[1]], axis=1))


class SeqResNet(Module):
    """Stem; stages, each but the first behind a down-sampling; Blender, a 1x1 convolution with BN and ReLU; global
    average; linear layer.

    stem: layers by their names, each of which reads act of the one before. image_size: height and width of the images
    it was designed for.
    """

    def __init__(
        self,
        stem: Mapping[str, Module],
        stages: Sequence[Stage],
        variant: Variant,
        classes: int,
        in_channels: int,
        image_size: int,
    ):
        for name, layer in stem.items():
            setattr(self, name, layer)
        trunk = ["Stage1"]
        self.Stage1 = variant.blocks(stages[0])
        for number, (stage, next_stage) in enumerate(pairwise(stages), 1):
            trunk += [f"Downsample{number}", f"Stage{number + 1}"]
            setattr(self, trunk[-2], Downsampling(stage, next_stage, variant))
            setattr(self, trunk[-1], variant.blocks(next_stage))
        self.dropout = Dropout2d(variant.dropout)
        self.Blender = ConvUnit(stages[-1].width, stages[-1].width, 1)
        self.Classifier = Linear(stages[-1].width, classes)
        initialise(self.Classifier, linear=linear_start, linear_bias=zeros)
        self.stem, self.trunk = tuple(stem), tuple(trunk)
        self.input_shape = (in_channels, image_size, image_size)
        self.stages = (self.stem, "Stage1", *zip(trunk[1::2], trunk[2::2], strict=True))

    def forward(self, x):
        for name in self.stem:
            raw, x = getattr(self, name)(x)
        features = raw, x
        for name in self.trunk:
            features = getattr(self, name)(features)
        _, x = self.Blender(self.dropout(features[1]))
        return self.Classifier(x.mean(axis=(2, 3)))


@register("cifar_seqresnet")
def cifar_seqresnet(
    widening: int = 4,
    k: int = 8,
    blocks: int | Sequence[int] = 1,
    bottleneck: bool = False,
    windowed: bool = True,
    dropout: float = 0.1,
    classes: int = 10,
    in_channels: int = 3,
) -> SeqResNet:
    """SeqResNet, and with bottleneck=True SeqResNet-B, for CIFAR: three stages. [SeqConv, Tables 3, 5]

    widening: stages have 16, 32, 48 times as many channels. k: channels of a group. blocks: residual blocks of a stage,
    or of each. windowed=False: dense SeqConv layers everywhere. dropout: of channels, for each group in all SeqConv
    layers but the first, and before the Blender.

    The paper names widening and, in part, k; what it leaves out follows from the authors' code and the printed counts.
    Parameters with 10 classes: 1,233,370 (widening 4, k 8), 7,575,514 (10, 8); with bottleneck 843,834 (7, 16) and
    6,024,794 (20, 32).

    Raises ValueError for sizes below 1, another number of stages, and k that does not divide 16 * widening.
    """
    blocks = [blocks] * 3 if isinstance(blocks, int) else list(blocks)
    if len(blocks) != 3 or not all(isinstance(count, int) and count >= 1 for count in blocks):
        raise ValueError(f"cifar_seqresnet: blocks must be a number from 1, or three of them; got {blocks!r}")
    if widening < 1 or k < 1 or 16 * widening % k:
        raise ValueError(
            "cifar_seqresnet: widening and k must be at least 1, and k must divide 16 * widening; "
            f"got widening={widening!r}, k={k!r}"
        )
    stages = [Stage(16 * widening * number, k, count) for number, count in enumerate(blocks, 1)]
    variant = Variant(windowed, bottleneck, dropout)
    stem = {"Init": ConvUnit(in_channels, 16, 3), "Head": variant.head(16, stages[0])}
    return SeqResNet(stem, stages, variant, classes, in_channels, 32)


def imagenet_network(stages: Sequence[Stage], classes: int, in_channels: int) -> SeqResNet:
    """Bottlenecks and no dropout; the stem halves height and width twice, and has a dense SeqConv layer between."""
    first, variant = stages[0], Variant(bottleneck=True)
    stem = {
        "Init1": ConvUnit(in_channels, 32, 3, 2),
        "Init2": ConvUnit(32, 32, 3),
        "Head": variant.head(32, first),
        "Shrink": ConvUnit(first.width, first.width, 3, 2, first.groups),
    }
    return SeqResNet(stem, stages, variant, classes, in_channels, 224)


@register("seqresnet")
def seqresnet(depth: int = 22, classes: int = 1000, in_channels: int = 3) -> SeqResNet:
    """SeqResNet-B22 or -B42 for ImageNet: stages of 128, 256, 512, 1024 channels. [SeqConv, Tables 2, 4]

    11,859,656 (22) and 25,642,696 (42) parameters. Raises ValueError for another depth.
    """
    layouts = {22: (1, 1, 2, 1), 42: (3, 4, 5, 3)}
    if depth not in layouts:
        raise ValueError(f"seqresnet: depth must be 22 or 42; got {depth!r}")
    layout = zip((128, 256, 512, 1024), (32, 64, 64, 128), layouts[depth], strict=True)
    return imagenet_network([Stage(*stage) for stage in layout], classes, in_channels)


@register("seqresnext")
def seqresnext(classes: int = 1000, in_channels: int = 3) -> SeqResNet:
    """SeqResNeXt-24 for ImageNet: stages of 256, 512, 1024, 2048 channels, 3x3 convolutions in subgroups.
    [SeqConv, Tables 2, 4]

    26,211,784 parameters.
    """
    layout = zip((256, 512, 1024, 2048), (32, 64, 64, 128), (1, 1, 3, 1), (8, 8, 4, 4), strict=True)
    return imagenet_network([Stage(*stage) for stage in layout], classes, in_channels)
