"""The unit of small networks: a convolution, batch norm, and an activation or none."""

from __future__ import annotations

from collections.abc import Callable

from cupynn.nn import BatchNorm2d, Conv2d, Module, Sequential


def conv_bn(
    inputs: int,
    outputs: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], Module] | None = None,
) -> Sequential:
    """activation(BN(convolution)), the convolution without bias and padded by (kernel_size - 1) / 2."""
    layers = [
        Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False),
        BatchNorm2d(outputs),
    ]
    return Sequential(*layers) if activation is None else Sequential(*layers, activation())
