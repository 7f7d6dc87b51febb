"""ExpandNets: a layer trained as a chain of wider linear layers, which contracts to one plain layer exactly.

Guo, Alvarez and Salzmann, "ExpandNets: Linear Over-parameterization to Train Compact Convolutional Networks", 2020.
"""

from __future__ import annotations

from cupynn import ops
from cupynn.device import xp_of
from cupynn.nn.arguments import need_channels, need_positive
from cupynn.nn.containers import ModuleList
from cupynn.nn.contractible import Contractible, kernel_of
from cupynn.nn.conv import Conv2d
from cupynn.nn.linear import Linear
from cupynn.ops.arguments import Pair, pair
from cupynn.ops.contraction import contract_chain

STRATEGIES = ("cl", "ck")


class Expanded(Contractible):
    """A chain of linear layers, `layers`, that computes what one plain layer could.

    composition="kernel" contracts the chain inside the graph and runs one layer with the result: the cost per image is
    the plain layer's. composition="feature" runs layer after layer, as the paper's code does. Both give the same
    outputs and gradients up to rounding. A layer of the chain may itself be contractible, such as a `DOConv2d`.
    """

    groups = 1

    def __init__(self, layers: list[Conv2d] | list[Linear], composition: str):
        super().__init__(composition)
        self.layers = ModuleList(layers)

    def kernel(self):
        weights, biases = zip(*map(kernel_of, self.layers), strict=True)
        return contract_chain(weights, biases, self.groups)

    def forward(self, x):
        if self.composition == "kernel" and self.has_kernel:
            return self._apply(x, *self.kernel())
        for layer in self.layers:
            x = layer(x)
        return x

    def _apply(self, x, weight, bias):
        """The plain layer with the contracted weight and bias."""
        raise TypeError(f"{type(self).__name__} is no layer of its own")


def _widened(layer: str, channels: int, rate: float, groups: int = 1) -> int:
    """rate times the channels, rounded down in every group."""
    width = groups * int(rate * (channels // groups))
    if width < 1:
        raise ValueError(f"{layer}: rate={rate} leaves no channel of {channels} at groups={groups}; it must be larger")
    return width


class ExpandedConv2d(Expanded):
    """A convolution I -> O with a k x k kernel, trained as `layers` with rate r [ExpandNets, Sec. 3.1-3.2]:

    strategy="cl": 1x1 I -> rI, k x k rI -> rO, 1x1 rO -> O; the stride and the dilation are the middle layer's.
    strategy="ck": (k-1)/2 convolutions 3x3, I -> rI -> rO -> ... -> rO -> O, for odd k > 3; the stride is the last
        layer's, the dilation must be 1.

    All padding is the first layer's, also where that is 1x1: its output then has its bias on the border, which is what
    makes the chain equal to one padded convolution everywhere. Every layer has `groups`, and a bias if `bias`.
    first_channels: the first layer's outputs, other than rI.
    stride_last: CL's stride is in the last layer; the same function, at more cost in composition="feature".
    mixing: whether the middle layer of a depthwise CL mixes its r copies of a channel; False gives it rC groups.
    State: `layers.0.weight`, `layers.0.bias`, ... Every layer starts as a `Conv2d` of its own shape does.

    Raises ValueError for an unknown strategy or composition, a kernel CK cannot make, or a rate that leaves no channel.
    """

    def __init__(
        self,
        strategy: str,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        rate: float = 4,
        composition: str = "kernel",
        first_channels: int | None = None,
        stride_last: bool = False,
        mixing: bool = True,
    ):
        name = "ExpandedConv2d"
        in_channels, out_channels, groups = need_channels(name, in_channels, out_channels, groups)
        self.strategy, self.rate = strategy, rate
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(name, "kernel_size", kernel_size, 1)
        self.stride = pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding)
        self.dilation = pair(name, "dilation", dilation, 1)
        first = first_channels or _widened(name, in_channels, rate, groups)
        wide = _widened(name, out_channels, rate, groups)
        if strategy == "cl":
            channels, kernel_sizes = (in_channels, first, wide, out_channels), (1, self.kernel_size, 1)
            dilated, strided = 1, 2 if stride_last else 1
        elif strategy == "ck":
            k = self.kernel_size[0]
            if self.kernel_size != (k, k) or k < 5 or k % 2 == 0 or self.dilation != (1, 1):
                raise ValueError(
                    f'{name}: strategy "ck" needs a square kernel of odd size > 3 and dilation 1; '
                    f"got kernel_size={self.kernel_size}, dilation={self.dilation}"
                )
            count = (k - 1) // 2
            channels = (in_channels, first, *[wide] * (count - 2), out_channels)
            kernel_sizes, dilated, strided = (3,) * count, 0, count - 1
        else:
            raise ValueError(f"{name}: strategy must be one of {STRATEGIES}; got {strategy!r}")
        depthwise = groups == in_channels == out_channels and first == wide
        self.mixing = mixing or strategy != "cl" or not depthwise
        layers = [
            Conv2d(
                channels[i],
                channels[i + 1],
                size,
                stride=self.stride if i == strided else 1,
                padding=self.padding if i == 0 else 0,
                dilation=self.dilation if i == dilated else 1,
                groups=groups if self.mixing or i != 1 else wide,
                bias=bias,
            )
            for i, size in enumerate(kernel_sizes)
        ]
        super().__init__(layers, composition)

    def kernel(self):
        (first, middle, *last), biases = zip(*map(kernel_of, self.layers), strict=True)
        if not self.mixing:  # as a weight of `groups` groups, the middle one is 0 from each copy to the others
            copies = middle.shape[0] // self.groups
            own = xp_of(middle.data).eye(copies, dtype=middle.dtype)[..., None, None]
            middle = (middle.reshape(self.groups, copies, 1, *self.kernel_size) * own).reshape(
                -1, copies, *self.kernel_size
            )
        return contract_chain((first, middle, *last), biases, self.groups)

    def _apply(self, x, weight, bias):
        return ops.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def _plain(self, bias: bool) -> Conv2d:
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        return Conv2d(self.in_channels, self.out_channels, *geometry, bias)

    def extra_repr(self) -> str:
        return f"{self.strategy}, kernel_size={self.kernel_size}, rate={self.rate}, composition={self.composition}"


class ExpandedLinear(Expanded):
    """A fully connected layer I -> O, trained as three: I -> rI, rI -> rO, rO -> O [ExpandNets, Sec. 3.3].

    State: `layers.0.weight`, `layers.0.bias`, ... Raises ValueError as `ExpandedConv2d` does.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, rate: float = 4, composition: str = "kernel"
    ):
        name = "ExpandedLinear"
        in_features, out_features = need_positive(name, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features, self.rate = in_features, out_features, rate
        first, wide = _widened(name, in_features, rate), _widened(name, out_features, rate)
        super().__init__(
            [Linear(in_features, first, bias), Linear(first, wide, bias), Linear(wide, out_features, bias)], composition
        )

    def _apply(self, x, weight, bias):
        return ops.linear(x, weight, bias)

    def _plain(self, bias: bool) -> Linear:
        return Linear(self.in_features, self.out_features, bias)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, composition={self.composition}"
