"""ACNet's block: a convolution trained as three with kernels of different shape, folded to one afterwards.

Ding et al., "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks", 2019.
"""

from __future__ import annotations

from cupynn import ops
from cupynn.nn.batch_norm import BatchNorm2d
from cupynn.nn.contractible import Contractible, kernel_of
from cupynn.nn.conv import Conv2d
from cupynn.ops.arguments import Pair, pair
from cupynn.ops.folding import add_kernels, fold_batch_norm


class ACBlock(Contractible):
    """y = BN(KH x KW convolution) + BN(KH x 1 convolution) + BN(1 x KW convolution), all of x [ACNet, Sec. 3.2].

    The convolutions have no bias; the thin kernels lie over the middle column and row of the large one. In training
    each branch is normalised by its own batch statistics. In evaluation the block is one convolution with bias:
    composition="kernel" runs it as that, "feature" branch by branch.
    State, with the names of the authors' code: `square_conv.weight`, `square_bn.weight`, ..., the same for `ver`
    (KH x 1) and `hor` (1 x KW).

    Raises ValueError as `Conv2d` does, for an unknown composition, and for a kernel with an even side or a side of 1.
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
        composition: str = "kernel",
    ):
        super().__init__(composition)
        self.kernel_size = kh, kw = pair("ACBlock", "kernel_size", kernel_size, 1)
        if kh % 2 == 0 or kw % 2 == 0 or kh == 1 or kw == 1:
            raise ValueError(f"ACBlock: kernel_size must be odd and > 1 on both sides; got {self.kernel_size}")
        self.padding = pair("ACBlock", "padding", padding)
        self.dilation = pair("ACBlock", "dilation", dilation, 1)
        # What a thin kernel is short of on one side: so much less padding, or where that is not enough, less image.
        reach = tuple((size // 2) * step for size, step in zip(self.kernel_size, self.dilation, strict=True))
        self._crop = tuple(max(0, far - near) for far, near in zip(reach, self.padding, strict=True))
        rows, columns = (max(0, near - far) for far, near in zip(reach, self.padding, strict=True))

        def conv(size: Pair, padding: Pair) -> Conv2d:
            return Conv2d(in_channels, out_channels, size, stride, padding, self.dilation, groups, bias=False)

        self.square_conv = conv((kh, kw), self.padding)
        self.square_bn = BatchNorm2d(out_channels)
        self.ver_conv = conv((kh, 1), (self.padding[0], columns))
        self.ver_bn = BatchNorm2d(out_channels)
        self.hor_conv = conv((1, kw), (rows, self.padding[1]))
        self.hor_bn = BatchNorm2d(out_channels)

    @property
    def has_kernel(self) -> bool:
        norms = (self.square_bn, self.ver_bn, self.hor_bn)
        return super().has_kernel and not any(norm.training for norm in norms)

    def kernel(self):
        """(weight, bias) with every batch norm's running statistics."""
        branches = [
            (self.square_conv, self.square_bn),
            (self.ver_conv, self.ver_bn),
            (self.hor_conv, self.hor_bn),
        ]
        folded = [
            fold_batch_norm(*kernel_of(conv), norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
            for conv, norm in branches
        ]
        return add_kernels(folded, self.kernel_size)

    def forward(self, x):
        if self.composition == "kernel" and self.has_kernel:
            square = self.square_conv
            return ops.conv2d(x, *self.kernel(), square.stride, square.padding, square.dilation, square.groups)
        rows, columns = self._crop
        y = self.square_bn(self.square_conv(x))
        y = self.ver_bn(self.ver_conv(x[:, :, :, columns : x.shape[3] - columns] if columns else x), residual=y)
        return self.hor_bn(self.hor_conv(x[:, :, rows : x.shape[2] - rows] if rows else x), residual=y)

    def _plain(self, bias: bool) -> Conv2d:
        conv = self.square_conv
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
        return Conv2d(conv.in_channels, conv.out_channels, *geometry, bias)

    def extra_repr(self) -> str:
        return f"composition={self.composition}"
