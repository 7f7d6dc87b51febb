"""ResNet for CIFAR in PyTorch, option A; WHE blocks as tensor expressions, DO-Conv as its authors write it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bench.peers.torch_whe import whe as whe_expression


class DOConv2d(nn.Module):
    """The authors' layer: the kernel is made by one einsum in every step, the identity is a constant."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int):
        super().__init__()
        self.shape, self.stride, taps = (outputs, inputs, kernel_size, kernel_size), stride, kernel_size**2
        self.W = nn.Parameter(torch.empty(outputs, inputs, taps))
        nn.init.kaiming_uniform_(self.W, a=5**0.5)
        self.D = nn.Parameter(torch.zeros(inputs, taps, taps))
        self.register_buffer("d_diag", torch.eye(taps).repeat(inputs, 1, 1), persistent=False)

    def forward(self, x):
        kernel = torch.einsum("ims,ois->oim", self.D + self.d_diag, self.W).reshape(self.shape)
        return functional.conv2d(x, kernel, None, self.stride, self.shape[2] // 2)


class WHEBlock(nn.Module):
    """x + BN(WHE(x))"""

    def __init__(self, channels: int, g: int):
        super().__init__()
        self.a, self.b, self.c, self.d = (
            nn.Parameter(torch.empty(channels // g, g, g).uniform_(-0.1, 0.1)) for _ in range(4)
        )
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.bn(whe_expression(x, self.a, self.b, self.c, self.d))


def _convolution(inputs: int, outputs: int, stride: int = 1, do: bool = False) -> nn.Module:
    return DOConv2d(inputs, outputs, 3, stride) if do else nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, whe: int | None, dropout: float, do: bool):
        super().__init__()

        def convolution(inputs: int, stride: int) -> nn.Module:
            layer = _convolution(inputs, outputs, stride, do)
            return layer if whe is None else nn.Sequential(layer, WHEBlock(outputs, whe))

        self.conv1, self.bn1 = convolution(inputs, stride), nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2, self.bn2 = convolution(outputs, 1), nn.BatchNorm2d(outputs)
        self.stride, self.new_channels = stride, outputs - inputs

    def forward(self, x):
        y = self.dropout(torch.relu_(self.bn1(self.conv1(x))))
        y = self.bn2(self.conv2(y))
        if self.new_channels:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return torch.relu_(y + x)


def cifar_resnet(
    depth: int = 20, whe: int | None = None, dropout: float = 0.0, expand: str | None = None, classes: int = 10
) -> nn.Module:
    """ResNet v1 of 6 n + 2 layers; `expand` is None or "do"."""
    do = expand == "do"
    layers = [_convolution(3, 16, do=do), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    channels = 16
    for width in (16, 32, 64):
        for i in range((depth - 2) // 6):
            layers.append(BasicBlock(channels, width, 2 if i == 0 and width > 16 else 1, whe, dropout, do))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
