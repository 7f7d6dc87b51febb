"""DO-Conv: a convolution whose kernel is made of a depthwise and a conventional one while it is trained.

Cao et al., "DO-Conv: Depthwise Over-parameterized Convolutional Layer", 2020.
"""

from __future__ import annotations

from cupynn import ops
from cupynn.nn import init
from cupynn.nn.arguments import need_channels, need_positive
from cupynn.nn.contractible import Contractible
from cupynn.nn.conv import Conv2d
from cupynn.nn.module import Parameter
from cupynn.ops.arguments import Pair, pair
from cupynn.ops.do_composition import LAYOUTS, compose_features, compose_kernel, depthwise_identity

INITIAL = ("identity", "he")


class DOConv2d(Contractible):
    """A convolution with the kernel W'[o, i, m] = sum_s (D' + I)[c, m, s] W[o, i, s] [DO-Conv, eq. 2-4], where c is the
    image's channel that input i of output o reads; groups=1 is DO-Conv, groups=in_channels DO-DConv, else DO-GConv.

    State: `D` (in_channels, KH*KW, D_mul), which is D' = D - I, so that weight decay pulls D to the identity; `W`
    (out_channels, in_channels/groups, D_mul); `bias` (out_channels). The identity I (`ops.do_composition`) is no state.
    depth_multiplier: D_mul, KH*KW if None, never less. A 1x1 kernel has no D: W (O, I/groups, 1) is the kernel.
    initial="identity" starts with D' = 0, so W' = W at D_mul = KH*KW, and W as `Conv2d`'s weight of the same size;
    "he" starts with D itself random, by He's rule for KH*KW inputs.

    Names and shapes are those of the authors' PyTorch code, whose files also hold the constant I, as `d_diag`: leave it
    out of what `load_state_dict` gets. layout="authors" is for its grouped layers, which take other slices of D where
    groups > 1 and out_channels > groups (`ops.do_composition.compose_kernel`); they have no feature composition.

    Raises ValueError as `Conv2d` does, for a D_mul below KH*KW, and for an unknown composition, layout or start.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        depth_multiplier: int | None = None,
        composition: str = "kernel",
        initial: str = "identity",
        layout: str = "paper",
    ):
        name = "DOConv2d"
        in_channels, out_channels, groups = need_channels(name, in_channels, out_channels, groups)
        if initial not in INITIAL or layout not in LAYOUTS:
            raise ValueError(
                f"{name}: initial must be one of {INITIAL} and layout one of {LAYOUTS}; got {initial!r}, {layout!r}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.layout = layout
        super().__init__(composition)
        self.kernel_size = pair(name, "kernel_size", kernel_size, 1)
        self.stride = pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding)
        self.dilation = pair(name, "dilation", dilation, 1)
        taps = self.kernel_size[0] * self.kernel_size[1]
        if depth_multiplier is None or taps == 1:
            depth_multiplier = taps
        (depth_multiplier,) = need_positive(name, depth_multiplier=depth_multiplier)
        if depth_multiplier < taps:
            raise ValueError(
                f"{name}: depth_multiplier must be at least KH*KW = {taps}, or W' could not be any kernel; "
                f"got {depth_multiplier}"
            )
        shape = (out_channels, in_channels // groups, depth_multiplier)
        self.W = Parameter(init.default_weight(shape))
        self.D = None
        if taps > 1:
            start = init.constant((in_channels, taps, depth_multiplier), 0.0)
            if initial == "he":
                draws = init.kaiming_normal((in_channels * depth_multiplier, taps))
                start = draws.reshape(in_channels, depth_multiplier, taps).swapaxes(1, 2)
                start = start - depthwise_identity(taps, depth_multiplier, start)
            self.D = Parameter(start)
        self.bias = Parameter(init.default_bias(shape)) if bias else None

    @property
    def compositions(self) -> tuple[str, ...]:
        ambiguous = self.layout == "authors" and 1 < self.groups < self.out_channels
        return ("kernel",) if ambiguous else super().compositions

    def depthwise(self):
        """D = D' + I (in_channels, KH*KW, D_mul), differentiable."""
        _, taps, depth_multiplier = self.D.shape
        return self.D + depthwise_identity(taps, depth_multiplier, self.D.data)

    def kernel(self):
        if self.D is None:
            return self.W.reshape(*self.W.shape, 1), self.bias
        return compose_kernel(self.depthwise(), self.W, self.kernel_size, self.groups, self.layout), self.bias

    def forward(self, x):
        if self.composition == "kernel" or self.D is None:
            return ops.conv2d(x, *self.kernel(), self.stride, self.padding, self.dilation, self.groups)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return compose_features(x, self.depthwise(), self.W, self.kernel_size, self.bias, *geometry)

    def load_kernel(self, weight, bias=None) -> None:
        """Start from a plain convolution's weight (O, I/groups, KH, KW) and bias: W' = weight, D' = 0.

        Where D_mul > KH*KW, the weight stands in W's first KH*KW columns and the others are 0.
        Raises ValueError for a weight of another shape, or a bias where the layer has none or the other way round.
        """
        wanted = (*self.W.shape[:2], *self.kernel_size)
        if weight.shape != wanted or (bias is None) != (self.bias is None):
            raise ValueError(
                f"DOConv2d.load_kernel: weight must be {wanted}, and bias {'None' if self.bias is None else 'an array'}"
                f"; got weight of shape {weight.shape} and bias {'None' if bias is None else bias.shape}"
            )
        self.W.data[...] = 0
        self.W.data[..., : wanted[2] * wanted[3]] = weight.reshape(*wanted[:2], -1)
        if self.D is not None:
            self.D.data[...] = 0
        if bias is not None:
            self.bias.data[...] = bias

    def _plain(self, bias: bool) -> Conv2d:
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        return Conv2d(self.in_channels, self.out_channels, *geometry, bias)

    def extra_repr(self) -> str:
        return f"{Conv2d.extra_repr(self)}, depth_multiplier={self.W.shape[2]}, composition={self.composition}" + (
            f", layout={self.layout}" if self.layout != "paper" else ""
        )
