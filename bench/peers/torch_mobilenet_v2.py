"""MobileNet v2 for ImageNet or CIFAR in PyTorch, as torchvision writes it."""

from __future__ import annotations

from torch import nn

ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _unit(inputs: int, outputs: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, factor: int, outputs: int, stride: int):
        super().__init__()
        inner = factor * inputs
        widen = [] if factor == 1 else _unit(inputs, inner)
        self.conv = nn.Sequential(*widen, *_unit(inner, inner, 3, stride, inner), *_unit(inner, outputs)[:2])
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.is_residual else self.conv(x)


def mobilenet_v2(classes: int = 1000, cifar: bool = False) -> nn.Module:
    """`cifar`: stride 1 in the first convolution and in the blocks of 24 channels, for 32x32 images."""
    layers, channels = _unit(3, 32, 3, 1 if cifar else 2), 32
    for factor, outputs, count, stride in ROWS:
        for i in range(count):
            strided = i == 0 and not (cifar and outputs == 24)
            layers.append(InvertedResidual(channels, factor, outputs, stride if strided else 1))
            channels = outputs
    layers += [*_unit(channels, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(1280, classes))
