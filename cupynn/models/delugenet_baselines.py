"""Residual networks of composite layers, with which the paper compares its own. [DelugeNets, Table 2]"""

from __future__ import annotations

from cupynn.models.delugenet import CompositeLayer, DelugeNet, cifar_layout, transitions
from cupynn.models.registry import register
from cupynn.nn import Conv2d, Module, ModuleList


class ResidualBlock(Module):
    """`layers` composite layers, each with an identity shortcut: x + F_1(x), and so on."""

    def __init__(self, width: int, layers: int):
        self.layers = ModuleList([CompositeLayer(2 * width, width) for _ in range(layers)])

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


class ProjectedLayer(CompositeLayer):
    """A composite layer with a 1x1 convolution for its shortcut; both read ReLU(BN(x)) and have the stride."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__(inputs, width, stride)
        self.shortcut = Conv2d(inputs, 2 * width, 1, stride, bias=False)

    def forward(self, x):
        x = self.bn1(x, relu=True)
        return self.convolutions(x) + self.shortcut(x)


@register("cifar_delugenet_baseline")
def cifar_delugenet_baseline(
    depth: int = 146, wide: bool = False, shortcut: str = "3x3", classes: int = 10, in_channels: int = 3
) -> DelugeNet:
    """`cifar_delugenet` with sums in the place of the cross-layer convolutions: a pre-activation ResNet.

    shortcut: between blocks, "3x3": BN and a 3x3 convolution of stride 2, as in DelugeNet, and no shortcut around the
        first composite layer of all; or "1x1": each block's first composite layer has a 1x1 convolution around it,
        those of the second and third block with stride 2.

    Parameters with 100 classes, "3x3" and "1x1": 6,500,100 and 6,153,220 (146), 9,552,644 and 9,205,764 (218; the paper
    prints 9.26M, which no variant has), 19,824,828 and 18,763,516 (146, wide).

    Raises ValueError for another depth or shortcut.
    """
    widths, counts = cifar_layout("cifar_delugenet_baseline", depth, wide)
    stem = Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
    if shortcut == "3x3":
        entries = [CompositeLayer(widths[0], widths[0]), *transitions(widths)]
        counts = (counts[0] - 1, *counts[1:])
    elif shortcut == "1x1":
        inputs = (widths[0], *(2 * width for width in widths))
        entries = [ProjectedLayer(inputs[i], width, 2 if i else 1) for i, width in enumerate(widths)]
        counts = tuple(count - 1 for count in counts)
    else:
        raise ValueError(f"cifar_delugenet_baseline: shortcut must be '3x3' or '1x1'; got {shortcut!r}")
    blocks = [ResidualBlock(width, count) for width, count in zip(widths, counts, strict=True)]
    return DelugeNet(stem, entries, blocks, 2 * widths[-1], classes, in_channels, 32)
