"""SmallNet in PyTorch, layer by layer as in the ExpandNets authors' code: every factor of an expanded layer is run."""

from __future__ import annotations

import itertools

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
    """The three-convolution network on 3x32x32 images; `expand` is None, "cl" or "ck", and may end in "+fc"."""
    expand, _, linear = (expand or "").partition("+")
    layers: list[nn.Module] = []
    for i, (m, n) in enumerate([(3, 8), (8, 16), (16, 32)]):
        layers += _convolution(m, n, kernel_size, expand or None, rate, first=i == 0)
        layers += [nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(2)]
    features = (512, 512 * rate, 64 * rate, 64) if linear else (512, 64)
    layers += [nn.Flatten(), *(nn.Linear(a, b) for a, b in itertools.pairwise(features))]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, classes))
