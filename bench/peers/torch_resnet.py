"""ResNet-18 for ImageNet in PyTorch, as torchvision writes it; WHE blocks as tensor expressions."""

from __future__ import annotations

import torch
from torch import nn

from bench.peers.torch_cifar_resnet import WHEBlock


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, whe: int | None):
        super().__init__()

        def convolution(inputs: int, stride: int) -> nn.Module:
            layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            return layer if whe is None else nn.Sequential(layer, WHEBlock(outputs, whe))

        self.conv1, self.bn1 = convolution(inputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = convolution(outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = torch.relu_(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet(depth: int = 18, whe: int | None = None, classes: int = 1000) -> nn.Module:
    """18 layers (depth=18 is the only form); a WHE block of group size `whe` behind each 3x3 convolution."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width in (64, 128, 256, 512):
        for stride in (1 if width == 64 else 2, 1):
            layers.append(BasicBlock(channels, width, stride, whe))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
