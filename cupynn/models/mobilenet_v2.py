"""MobileNet v2: inverted residual blocks. [Sandler et al. 2018]"""

from __future__ import annotations

from functools import partial

from cupynn.models.blocks.conv_bn import conv_bn
from cupynn.models.initialise import he_fan_out, initialise, zeros
from cupynn.models.registry import register
from cupynn.nn import Conv2d, Dropout, Flatten, Linear, Module, ReLU6, Sequential, init

# Of each row of blocks: factor of the inner channels, output channels, how many, stride of the first.
ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
CLASSIFIERS = ("linear", "conv")


@register("mobilenet_v2")
class MobileNetV2(Module):
    """3x3 convolution of stride 2, BN, ReLU6; 17 inverted residuals; 1x1 to 1280, BN, ReLU6; average; classifier.

    classifier: "linear", dropout of 0.2 and a linear layer, or "conv", a 1x1 convolution without bias and no dropout,
        GluonCV's, from which DO-Conv takes the network.
    cifar: stride 1 in the first convolution and in the blocks of 24 channels, for images of 32 x 32. ExpandNets
        (Table 2) does not say what it trained on CIFAR; its recipe is that of a known repository of CIFAR networks,
        whose strides these are.

    3,504,872 parameters ("linear"), 3,503,872 ("conv"); 3,666,108 with expand="cl", which is the first convolution and
    the depthwise ones of the four blocks that ImageNet's network gives stride 2 [ExpandNets, Table S10]. The paper's
    text says all blocks that are not residual, which would be 3,862,876; code and printed figure agree on the four. The
    operations printed are those of a stride in the last 1x1 of each expanded layer (`stride_last=True`), the released
    code has it in the middle.

    Convolutions start normal with deviation sqrt(2 / (k * k * outputs)), the linear layer normal with 0.01 and its bias
    0. The layers of expanded convolutions start as PyTorch's do; in the released code they are normal too. Names of
    layers are torchvision's. Raises ValueError for another classifier.
    """

    def __init__(self, classes: int = 1000, in_channels: int = 3, classifier: str = "linear", cifar: bool = False):
        if classifier not in CLASSIFIERS:
            raise ValueError(f"mobilenet_v2: classifier must be one of {', '.join(CLASSIFIERS)}; got {classifier!r}")
        self.features = Sequential(conv_bn(in_channels, 32, 3, 1 if cifar else 2, activation=ReLU6))
        channels, stages, halving = 32, [], []
        for factor, outputs, count, stride in ROWS:
            first = len(self.features)
            stages.append(tuple(f"features.{first + i}" for i in range(count)))
            if stride == 2:
                halving.append(f"features.{first}.conv.1.0")
            if cifar and outputs == 24:
                stride = 1
            for i in range(count):
                self.features.append(InvertedResidual(channels, factor, outputs, stride if i == 0 else 1))
                channels = outputs
        self.features.append(conv_bn(channels, 1280, activation=ReLU6))
        if classifier == "linear":
            self.classifier = Sequential(Dropout(0.2), Linear(1280, classes))
        else:
            self.classifier = Sequential(Conv2d(1280, classes, 1, bias=False), Flatten())
        self.pools_to_image = classifier == "conv"
        initialise(self, convolution=he_fan_out, linear=partial(init.normal, deviation=0.01), linear_bias=zeros)
        self.input_shape = (in_channels, 32, 32) if cifar else (in_channels, 224, 224)
        self.stages = ("features.0", *stages)
        self.expansion_layers = {"cl": ("features.0.0", *halving)}

    def forward(self, x):
        return self.classifier(self.features(x).mean(axis=(2, 3), keepdims=self.pools_to_image))


class InvertedResidual(Module):
    """1x1 to factor * inputs, BN, ReLU6; depthwise 3x3 with the stride, BN, ReLU6; 1x1, BN; + x if shapes are the same.

    There is no first 1x1 at factor 1.
    """

    def __init__(self, inputs: int, factor: int, outputs: int, stride: int):
        inner = factor * inputs
        widen = [] if factor == 1 else [conv_bn(inputs, inner, activation=ReLU6)]
        depthwise = conv_bn(inner, inner, 3, stride, groups=inner, activation=ReLU6)
        self.conv = Sequential(*widen, depthwise, *conv_bn(inner, outputs))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return self.conv(x, residual=x if self.is_residual else None)
