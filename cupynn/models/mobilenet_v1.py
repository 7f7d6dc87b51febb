"""MobileNet v1: depthwise 3x3 convolutions, each followed by a 1x1. [Howard et al. 2017]"""

from __future__ import annotations

from cupynn.models.blocks.conv_bn import conv_bn
from cupynn.models.registry import register
from cupynn.nn import Linear, Module, ReLU, Sequential, WHEBlock

# Output channels and stride of each block.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
PLACES = ("pointwise", "depthwise")


@register("mobilenet_v1")
class MobileNetV1(Module):
    """3x3 convolution of stride 2, BN, ReLU; 13 `separable` blocks; global average; linear layer.

    whe: group size of WHE blocks, one directly behind each 1x1 convolution (whe_after="pointwise") or each depthwise
        one ("depthwise"), before its batch norm; None: no WHE. The paper states neither place nor group size, and no
        choice gives both figures of its Table 1: 4.3M parameters fit g=4, 44M operations are nearest with g=8 behind
        depthwise convolutions.
    cifar: stride 1 in the first convolution, for images of 32 x 32. ExpandNets (Table 2) does not say what it trained
        on CIFAR; its recipe is that of a known repository of CIFAR networks, of which this is the network.

    4,231,976 parameters; 4,958,348 with expand="cl", which is all 3x3 convolutions [ExpandNets, Table S10]. The
    operations printed there are those of a stride in the last 1x1 of each expanded layer (`stride_last=True`), the
    released code has it in the middle. GluonCV's network, in DO-Conv, is the same. Weights start as PyTorch's
    default, names of layers are those of ExpandNets' code.

    Raises ValueError for another place of WHE, one without WHE, and a group size that does not divide the channels.
    """

    def __init__(
        self,
        classes: int = 1000,
        in_channels: int = 3,
        whe: int | None = None,
        whe_after: str = "pointwise",
        cifar: bool = False,
    ):
        if whe_after not in PLACES:
            raise ValueError(f"mobilenet_v1: whe_after must be one of {', '.join(PLACES)}; got {whe_after!r}")
        if whe is None and whe_after != "pointwise":
            raise ValueError(f"mobilenet_v1: whe_after={whe_after!r} needs whe, the group size; got whe=None")
        self.model = Sequential(conv_bn(in_channels, 32, 3, 1 if cifar else 2, activation=ReLU))
        channels, stages = 32, {}
        for i, (outputs, stride) in enumerate(BLOCKS, 1):
            self.model.append(separable(channels, outputs, stride, whe, whe_after))
            stages.setdefault(outputs, []).append(f"model.{i}")
            channels = outputs
        self.fc = Linear(channels, classes)
        self.input_shape = (in_channels, 32, 32) if cifar else (in_channels, 224, 224)
        self.stages = ("model.0", *map(tuple, stages.values()))

    def forward(self, x):
        return self.fc(self.model(x).mean(axis=(2, 3)))


def separable(inputs: int, outputs: int, stride: int, whe: int | None, whe_after: str) -> Sequential:
    """Depthwise 3x3 with the stride, BN, ReLU, 1x1, BN, ReLU; with WHE, one convolution is (convolution, WHE block)."""
    depthwise = conv_bn(inputs, inputs, 3, stride, groups=inputs, activation=ReLU)
    pointwise = conv_bn(inputs, outputs, activation=ReLU)
    if whe is not None:
        place, channels = (pointwise, outputs) if whe_after == "pointwise" else (depthwise, inputs)
        place[0] = Sequential(place[0], WHEBlock(channels, whe))
    return Sequential(*depthwise, *pointwise)
