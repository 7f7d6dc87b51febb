"""SeqResNet for CIFAR in PyTorch, of the SeqConv layers that concatenate."""

from __future__ import annotations

import torch
from torch import nn

from bench.peers.torch_seq_conv import SeqConv


class ConvUnit(nn.Module):
    """(raw, act) of a convolution and its batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        raw = self.conv(x)
        return raw, torch.relu_(self.bn(raw))


class SeqResNet(nn.Module):
    """Raw and act go from layer to layer as lists of the groups' tensors, so that only what is read is concatenated."""

    def __init__(self, widening: int, k: int, bottleneck: bool, dropout: float, classes: int):
        super().__init__()
        self.k, width = k, 16 * widening
        self.init = ConvUnit(3, 16, 3)
        self.head = SeqConv(16, width, k, False, bottleneck)
        options = {"k": k, "bottleneck": bottleneck, "dropout": dropout}
        parts = []
        for number in (1, 2, 3):
            parts.append(nn.ModuleList(SeqConv(number * width, number * width, **options) for _ in "AB"))
            if number < 3:
                wider = (number + 1) * width
                shrink = ConvUnit(wider, wider, 3, 2, wider // k)
                parts.append(nn.ModuleList([SeqConv(number * width, width, **options), shrink]))
        self.trunk = nn.ModuleList(parts)  # block, down-sampling, block, ...
        self.dropout = nn.Dropout2d(dropout)
        self.blender, self.classifier = ConvUnit(3 * width, 3 * width, 1), nn.Linear(3 * width, classes)

    def forward(self, x):
        raws, acts = self.head(self.init(x)[1])
        act = torch.cat(acts, 1)
        for i, (first, second) in enumerate(self.trunk):
            if i % 2 == 0:
                raws, acts = second(torch.cat(first(act)[1], 1), raws)
                act = torch.cat(acts, 1)
            else:
                raw, act = second(torch.cat((act, *first(act)[1]), 1))
                raws = raw.split(self.k, 1)
        _, act = self.blender(self.dropout(act))
        return self.classifier(act.mean((2, 3)))


def cifar_seqresnet(
    widening: int = 4, k: int = 8, bottleneck: bool = False, dropout: float = 0.1, classes: int = 10
) -> nn.Module:
    """SeqResNet or SeqResNet-B with one block in each stage."""
    return SeqResNet(widening, k, bottleneck, dropout, classes)
