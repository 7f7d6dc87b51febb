"""SmallNet, the compact network of ExpandNets' CIFAR experiments [ExpandNets, Sec. 4.1, Appendix A.4]."""

from __future__ import annotations

from cupynn.models.registry import register
from cupynn.nn import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential


@register("smallnet")
class SmallNet(Sequential):
    """`convolutions` times [k x k convolution with bias, batch norm, ReLU, 2x2 max pool], then two linear layers.

    Channels 8, 16, 32 (, 64), hidden features 64. Padding is (k-1)/2; the network of three 3x3 convolutions has none.
    image_size: the height and width of the images, 32 for CIFAR, 28 for MNIST.
    Parameters for 32x32 colour images, 10 classes: 15,050 (k=3), 66,186 (k=7); four convolutions, k=7: 150,346.

    Raises ValueError for an even kernel_size, another number of convolutions, and images too small for the pools.
    """

    def __init__(
        self,
        kernel_size: int = 7,
        convolutions: int = 3,
        classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
    ):
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"smallnet: kernel_size must be odd and at least 3; got {kernel_size}")
        if convolutions not in (3, 4):
            raise ValueError(f"smallnet: convolutions must be 3 or 4; got {convolutions}")
        padding = 0 if (convolutions, kernel_size) == (3, 3) else (kernel_size - 1) // 2
        layers = []
        channels, size = in_channels, image_size
        for width in (8, 16, 32, 64)[:convolutions]:
            layers += [
                Conv2d(channels, width, kernel_size, padding=padding),
                BatchNorm2d(width),
                ReLU(),
                MaxPool2d(2),
            ]
            channels, size = width, (size + 2 * padding - kernel_size + 1) // 2
        if size < 1:
            raise ValueError(f"smallnet: images of {image_size} x {image_size} leave nothing after the last pool")
        layers += [Flatten(), Linear(channels * size * size, 64), ReLU(), Linear(64, classes)]
        super().__init__(*layers)
        self.input_shape = (in_channels, image_size, image_size)
        if convolutions == 3:
            # The paper's code does not widen the image's channels in this network, which its parameter counts confirm.
            self.expansion_options = {"0": {"first_channels": in_channels}}
