"""SmallNet in PyTorch, layer by layer as in the ExpandNets authors' code: every factor of an expanded layer is run."""

from __future__ import annotations

import itertools

import torch
from torch import nn


def _convolution(m: int, n: int, k: int, expand: str | None, rate: int, first: bool) -> list[nn.Module]:
    padding, wide_in, wide_out = k // 2, 3 if first else rate * m, rate * n
    if expand is None:
        return [nn.Conv2d(m, n, k, padding=padding)]
    if expand == "cl":
        return [nn.Conv2d(m, wide_in, 1, padding=padding), nn.Conv2d(wide_in, wide_out, k), nn.Conv2d(wide_out, n, 1)]
    widths = [m, wide_in, *[wide_out] * ((k - 1) // 2 - 2), n]
    return [nn.Conv2d(a, b, 3, padding=padding if i == 0 else 0) for i, (a, b) in enumerate(itertools.pairwise(widths))]


def smallnet(kernel_size: int = 7, expand: str | None = None, rate: int = 4, classes: int = 10) -> nn.Module:
    """The three-convolution network on 3x32x32 images; `expand` is None, "cl" or "ck"."""
    layers: list[nn.Module] = []
    for i, (m, n) in enumerate([(3, 8), (8, 16), (16, 32)]):
        layers += _convolution(m, n, kernel_size, expand, rate, first=i == 0)
        layers += [nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, classes))


def training_step(model: nn.Module, images, labels):
    """A function that takes one step of SGD with momentum."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    model.train()

    def step():
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step
