"""AlexNet with a global average in the place of its two large linear layers [ExpandNets, Appendix A.5]."""

from __future__ import annotations

from cupynn.models.registry import register
from cupynn.nn import Conv2d, Linear, MaxPool2d, Module, ReLU, Sequential


@register("alexnet")
class AlexNet(Module):
    """Five convolutions with bias and ReLU, three 3x3 max pools of stride 2, global average, linear layer.

    11x11 of stride 4, 64 channels, pool; 5x5, 192, pool; 3x3, 384; 3x3, 256; 3x3, last_channels, pool. last_channels
    is 128, 256 or 512 in the paper. What the paper does not say, the other channels and the last pool, is torchvision's
    network, and so are the names of the layers and PyTorch's initial weights. Images of 63 x 63 or more.

    expand="ck" makes five 3x3 convolutions of the first and two of the second: 60 times the operations for an image
    with composition="feature", since all but the last of the five run on the whole image with 256 channels.

    Parameters for 1000 classes: 2,303,656 (128), 2,726,696 (256), 3,572,776 (512); 1,615,504 more with expand="ck".
    """

    def __init__(self, last_channels: int = 256, classes: int = 1000, in_channels: int = 3):
        self.features = Sequential(
            Conv2d(in_channels, 64, 11, 4, padding=2),
            ReLU(),
            MaxPool2d(3, 2),
            Conv2d(64, 192, 5, padding=2),
            ReLU(),
            MaxPool2d(3, 2),
            Conv2d(192, 384, 3, padding=1),
            ReLU(),
            Conv2d(384, 256, 3, padding=1),
            ReLU(),
            Conv2d(256, last_channels, 3, padding=1),
            ReLU(),
            MaxPool2d(3, 2),
        )
        self.classifier = Linear(last_channels, classes)
        self.input_shape = (in_channels, 224, 224)
        self.stages = ("features.0", "features.3", "features.6", "features.8", "features.10")

    def forward(self, x):
        return self.classifier(self.features(x).mean(axis=(2, 3)))
