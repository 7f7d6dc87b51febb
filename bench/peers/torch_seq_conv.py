"""A windowed SeqConv layer in PyTorch, as its authors write it: every group concatenates what it sees."""

from __future__ import annotations

import torch
from torch import nn


class SeqConv(nn.Module):
    """width/k groups of k channels; with a bottleneck, a 1x1 convolution before each 3x3."""

    def __init__(self, width: int, k: int, bottleneck: bool):
        super().__init__()
        self.k = k

        def unit(channels: int, kernel_size: int) -> list[nn.Module]:
            convolution = nn.Conv2d(channels, k, kernel_size, padding=kernel_size // 2, bias=False)
            return [convolution, nn.BatchNorm2d(k), nn.ReLU()]

        self.f = nn.ModuleList(
            nn.Sequential(*(unit(width, 1) + unit(k, 3) if bottleneck else unit(width, 3))) for _ in range(width // k)
        )

    def forward(self, x):
        view, groups = x, []
        for f in self.f:
            groups.append(f(view))
            view = torch.cat((view[:, self.k :], groups[-1]), 1)
        return torch.cat(groups, 1)


def passes(x, grad, k: int, bottleneck: bool) -> dict:
    """{"forward", "forward + backward"}, in training, on arrays."""
    layer, upstream = SeqConv(x.shape[1], k, bottleneck), torch.from_numpy(grad)
    images = torch.from_numpy(x).requires_grad_()

    def forward():
        with torch.no_grad():
            return layer(images)

    def train():
        images.grad = None
        layer.zero_grad()
        layer(images).backward(upstream)

    return {"forward": forward, "forward + backward": train}
