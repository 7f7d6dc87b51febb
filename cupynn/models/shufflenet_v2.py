"""ShuffleNet v2: half of the channels pass a unit untouched, and all are shuffled behind it. [Ma et al. 2018]"""

from __future__ import annotations

from cupynn import ops
from cupynn.models.blocks.conv_bn import conv_bn
from cupynn.models.registry import register
from cupynn.nn import Identity, Linear, MaxPool2d, Module, ReLU, Sequential

# Of stages 2, 3, 4: output channels and units.
STAGES = ((48, 4), (96, 8), (192, 4))


@register("shufflenet_v2")
class ShuffleNetV2(Module):
    """ShuffleNet v2 0.5x: 3x3 of stride 2, BN, ReLU, 3x3 max pool; three stages; 1x1, BN, ReLU; average; linear layer.

    cifar: stride 1 in the first convolution and no max pool, for images of 32 x 32; no paper has trained this one.

    1,366,792 parameters; 1,526,428 with expand="cl", which is all 3x3 convolutions [ExpandNets, Table S10]. As in the
    released code the first convolution's stride is then in its last 1x1. The paper prints 1.41M parameters: those of
    `mixing=False`, where copies of a channel do not mix in the depthwise layers, and its operations are those of a
    stride in the last 1x1 everywhere (`stride_last=True`).

    Weights start as PyTorch's default. Names of layers are torchvision's.
    """

    def __init__(self, classes: int = 1000, in_channels: int = 3, cifar: bool = False):
        self.conv1 = conv_bn(in_channels, 24, 3, 1 if cifar else 2, activation=ReLU)
        self.maxpool = Identity() if cifar else MaxPool2d(3, 2, padding=1)
        channels = 24
        for i, (outputs, count) in enumerate(STAGES, 2):
            units = [Downsample(channels, outputs), *(Unit(outputs) for _ in range(count - 1))]
            setattr(self, f"stage{i}", Sequential(*units))
            channels = outputs
        self.conv5 = conv_bn(channels, 1024, activation=ReLU)
        self.fc = Linear(1024, classes)
        self.input_shape = (in_channels, 32, 32) if cifar else (in_channels, 224, 224)
        self.stages = ("conv1", "stage2", "stage3", "stage4")
        self.expansion_options = {"conv1.0": {"stride_last": True}}

    def forward(self, x):
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        return self.fc(self.conv5(x).mean(axis=(2, 3)))


class Unit(Module):
    """Shuffle(x1, f(x2)): x1 and x2 the halves of the channels, f: 1x1, BN, ReLU, depthwise 3x3, BN, 1x1, BN, ReLU."""

    def __init__(self, channels: int):
        half = channels // 2
        self.branch2 = branch(half, half, 1)

    def forward(self, x):
        half = x.shape[1] // 2
        return shuffled(x[:, :half], self.branch2(x[:, half:]))


class Downsample(Module):
    """Shuffle(g(x), f(x)), f as in `Unit` with stride 2 in its 3x3; g: depthwise 3x3 of stride 2, BN, 1x1, BN, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        half = outputs // 2
        self.branch1 = Sequential(
            *conv_bn(inputs, inputs, 3, 2, groups=inputs), *conv_bn(inputs, half, activation=ReLU)
        )
        self.branch2 = branch(inputs, half, 2)

    def forward(self, x):
        return shuffled(self.branch1(x), self.branch2(x))


def branch(inputs: int, outputs: int, stride: int) -> Sequential:
    """1x1, BN, ReLU, depthwise 3x3 with the stride, BN, 1x1, BN, ReLU."""
    return Sequential(
        *conv_bn(inputs, outputs, activation=ReLU),
        *conv_bn(outputs, outputs, 3, stride, groups=outputs),
        *conv_bn(outputs, outputs, activation=ReLU),
    )


def shuffled(first, second):
    """The channels of both in turn: first's 0, second's 0, first's 1, ...

    This is the shuffle of two groups of channels behind the concatenation, in one copy of the images instead of two.
    """
    n, channels, height, width = first.shape
    pair = [half.reshape(n, channels, 1, height, width) for half in (first, second)]
    return ops.concatenate(pair, axis=2).reshape(n, 2 * channels, height, width)
