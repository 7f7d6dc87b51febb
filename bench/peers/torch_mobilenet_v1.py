"""MobileNet v1 in PyTorch, plain or with every 3x3 convolution expanded as the ExpandNets authors do: three layers."""

from __future__ import annotations

from torch import nn

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def _convolution(m: int, n: int, stride: int, groups: int, expand: str | None, rate: int) -> list[nn.Module]:
    if expand is None:
        return [nn.Conv2d(m, n, 3, stride, 1, groups=groups, bias=False)]
    wide_in, wide_out, options = rate * m, rate * n, {"groups": groups, "bias": False}
    return [
        nn.Conv2d(m, wide_in, 1, padding=1, **options),
        nn.Conv2d(wide_in, wide_out, 3, stride, **options),
        nn.Conv2d(wide_out, n, 1, **options),
    ]


def mobilenet_v1(classes: int = 1000, expand: str | None = None, rate: int = 4) -> nn.Module:
    """`expand` is None or "cl"."""

    def normed(channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]

    layers = [*_convolution(3, 32, 2, 1, expand, rate), *normed(32)]
    channels = 32
    for outputs, stride in BLOCKS:
        layers += [*_convolution(channels, channels, stride, channels, expand, rate), *normed(channels)]
        layers += [nn.Conv2d(channels, outputs, 1, bias=False), *normed(outputs)]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, classes))
