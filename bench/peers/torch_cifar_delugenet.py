"""DelugeNet for CIFAR in PyTorch: a cross-layer convolution concatenates all earlier outputs of its block.

Batch norm of the concatenation has one mean, variance, weight and bias for each layer and channel, which is the
authors' form; the sum over layers is what is left of the convolution.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

LAYERS = {146: (8, 16, 24), 218: (12, 24, 36)}


def _composite(inputs: int, width: int) -> nn.Module:
    layers = []
    for m, n, k in ((inputs, width, 1), (width, width, 3), (width, 2 * width, 1)):
        layers += [nn.BatchNorm2d(m), nn.ReLU(inplace=True), nn.Conv2d(m, n, k, padding=k // 2, bias=False)]
    return nn.Sequential(*layers)


class CrossLayer(nn.Module):
    """Batch norm of every output, and their sum. Weights start at 1 / layers."""

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.layers, self.norm = layers, nn.BatchNorm2d(layers * channels)
        nn.init.constant_(self.norm.weight, 1 / layers)

    def forward(self, outputs):
        return self.norm(torch.cat(outputs, 1)).unflatten(1, (self.layers, -1)).sum(1)


class Block(nn.Module):
    def __init__(self, width: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(_composite(2 * width, width) for _ in range(layers))
        self.crosses = nn.ModuleList(CrossLayer(2 * width, count + 1) for count in range(1, layers + 1))

    def forward(self, x):
        outputs = [x]
        for layer, cross in zip(self.layers, self.crosses, strict=True):
            outputs.insert(0, layer(x))
            x = cross(outputs)
        return x


class DelugeNet(nn.Module):
    def __init__(self, widths: tuple[int, ...], layers: tuple[int, ...], classes: int):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        transitions = (
            nn.Sequential(nn.BatchNorm2d(2 * m), nn.Conv2d(2 * m, 2 * n, 3, 2, 1, bias=False))
            for m, n in pairwise(widths)
        )
        self.entries = nn.ModuleList([_composite(widths[0], widths[0]), *transitions])
        counts = (layers[0] - 1, *layers[1:])
        self.blocks = nn.ModuleList(Block(width, count) for width, count in zip(widths, counts, strict=True))
        self.bn, self.fc = nn.BatchNorm2d(2 * widths[-1]), nn.Linear(2 * widths[-1], classes)

    def forward(self, x):
        x = self.stem(x)
        for entry, block in zip(self.entries, self.blocks, strict=True):
            x = block(entry(x))
        return self.fc(torch.relu_(self.bn(x)).mean((2, 3)))


def cifar_delugenet(depth: int = 146, classes: int = 10) -> nn.Module:
    """DelugeNet-146 or -218."""
    return DelugeNet((32, 64, 128), LAYERS[depth], classes)
