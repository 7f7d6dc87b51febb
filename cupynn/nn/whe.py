"""WHE layers: the plain one, and the block with batch normalisation and a residual that networks are built from."""

from __future__ import annotations

from cupynn import ops
from cupynn.kernels.whe import ACTIVATIONS, MOST
from cupynn.nn import init
from cupynn.nn.arguments import need_positive
from cupynn.nn.batch_norm import BatchNorm2d
from cupynn.nn.module import Module, Parameter


class WHE(Module):
    """`ops.whe` with learned a, b, c, d (channels/g, g, g), g = group_size: 4 g channels numbers. [WHE, equations 1-5]

    All start uniform within 0.1, c too. Raises ValueError for channels that are no multiple of the group size, a group
    size above 32 and an unknown activation.
    """

    def __init__(self, channels: int, group_size: int, activation: str = "relu"):
        channels, group_size = need_positive("WHE", channels=channels, group_size=group_size)
        if group_size > MOST:
            raise ValueError(f"WHE: group_size must be at most {MOST}; got {group_size}")
        if channels % group_size:
            raise ValueError(
                f"WHE: channels must be a multiple of group_size; got channels={channels}, group_size={group_size}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"WHE: activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        self.channels, self.group_size, self.activation = channels, group_size, activation
        shape = (channels // group_size, group_size, group_size)
        self.a, self.b, self.c, self.d = (Parameter(init.uniform(shape, -0.1, 0.1)) for _ in range(4))

    def forward(self, x):
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"WHE: x must be (N, {self.channels}, H, W); it has shape {x.shape}")
        return ops.whe(x, self.a, self.b, self.c, self.d, self.activation)

    def extra_repr(self) -> str:
        return f"{self.channels}, group_size={self.group_size}, activation={self.activation}"


class WHEBlock(Module):
    """y = x + BatchNorm2d(WHE(x)): 4 g channels + 2 channels learned numbers."""

    def __init__(self, channels: int, group_size: int, activation: str = "relu"):
        self.whe = WHE(channels, group_size, activation)
        self.bn = BatchNorm2d(channels)

    def forward(self, x):
        return self.bn(self.whe(x), residual=x)
