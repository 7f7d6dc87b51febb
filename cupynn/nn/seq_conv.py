"""The SeqConv layers: groups of channels that are made one after another."""

from __future__ import annotations

from cupynn import ops
from cupynn.nn import init
from cupynn.nn.arguments import need_positive
from cupynn.nn.batch_norm import BatchNorm2d
from cupynn.nn.containers import ModuleList
from cupynn.nn.contractible import kernel_of
from cupynn.nn.conv import Conv2d
from cupynn.nn.module import Module, Parameter
from cupynn.ops.batch_norm import BatchNormTraining
from cupynn.ops.seq_conv import NormalisedConv, SeqConvGroup


class _Unit(Module):
    """`conv`, a convolution without bias, and the batch norm `bn` behind it; `pre` is the unit before it, if any."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        groups: int = 1,
        pre: _Unit | None = None,
        zero_init: bool = False,
    ):
        if pre is not None:
            self.pre = pre
        with init.shapes_only():  # its own weight is replaced
            self.conv = Conv2d(
                in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False
            )
        shape = self.conv.weight.shape
        if zero_init:
            weight = init.constant(shape, 0.0)
        else:  # uniform within sqrt(6 / fan-out), as the authors' code; their fan-out does not count groups
            weight = init.kaiming_uniform(shape, fan_mode="fan_out", nonlinearity="relu")
        self.conv.weight = Parameter(weight)
        self.bn = BatchNorm2d(out_channels)

    def stage(self) -> NormalisedConv:
        """What the operation takes of it."""
        weight, bias = kernel_of(self.conv)
        if bias is not None:
            raise ValueError("SeqConv2d: its convolutions have no bias, since batch norm follows")
        return NormalisedConv(weight, self.bn.weight, self.bn.bias, self.bn.running_mean, self.bn.running_var)


class SeqConv2d(Module):
    """out_channels/k groups of k channels, each made from the input and the groups before it by a 3x3 convolution,
    batch norm and ReLU; `ops.seq_conv` has the equations. [SeqConv]

    windowed: a group sees the newest in_channels channels (WSeqConv), else all (SeqConv, a network's first).
    bottleneck: a 1x1 convolution, batch norm and ReLU reduce what a group sees to k channels (SeqConvB, WSeqConvB);
        subgroups then divide the 3x3 convolution (SeqResNeXt).
    dropout: the probability to drop a channel from what a group sees, drawn anew for every group while training.
    zero_init: the 3x3 weights start at 0, as in the second layer of a residual block: raw is then the shortcut.

    Called with x (N, in_channels, H, W) and, in that second layer, the block's raw input (N, out_channels, H, W) as
    shortcut, it returns (raw, act): before the groups' batch norm, and after their ReLU.

    State names are those of the authors' PyTorch code: group J has `f.J.conv.weight` and `f.J.bn.weight`, `.bias`,
    `.running_mean`, `.running_var`, `.num_batches_tracked`; a bottleneck's 1x1 has the same under `f.J.pre`.

    Raises ValueError where k does not divide out_channels, a window is narrower than k, or subgroups do not divide k,
    and for subgroups without a bottleneck.
    """

    training_norm = BatchNormTraining  # what `ops.seq_conv` calls so

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        k: int,
        windowed: bool = True,
        bottleneck: bool = False,
        subgroups: int = 1,
        dropout: float = 0.0,
        zero_init: bool = False,
    ):
        need_positive("SeqConv2d", in_channels=in_channels, out_channels=out_channels, k=k, subgroups=subgroups)
        if out_channels % k:
            raise ValueError(f"SeqConv2d: out_channels must be a multiple of k={k}; got {out_channels}")
        if k % subgroups or (subgroups > 1 and not bottleneck):
            raise ValueError(
                f"SeqConv2d: subgroups must divide k={k}, and be 1 without a bottleneck; got subgroups={subgroups}, "
                f"bottleneck={bottleneck}"
            )
        if windowed and in_channels < k:
            raise ValueError(f"SeqConv2d: in_channels must be at least k={k} with windowed=True; got {in_channels}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"SeqConv2d: dropout must be a probability from 0 to 1; got {dropout!r}")
        self.in_channels, self.out_channels, self.k, self.windowed = in_channels, out_channels, k, windowed
        self.bottleneck, self.subgroups, self.dropout = bottleneck, subgroups, dropout
        self.f = ModuleList()
        for j in range(out_channels // k):
            view = in_channels if windowed else in_channels + j * k
            pre = _Unit(view, k, 1) if bottleneck else None
            self.f.append(_Unit(k if bottleneck else view, k, 3, subgroups, pre, zero_init))

    def forward(self, x, shortcut=None):
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"SeqConv2d: x must be (N, {self.in_channels}, H, W); it has shape {x.shape}")
        groups = [SeqConvGroup(unit.stage(), unit.pre.stage() if self.bottleneck else None) for unit in self.f]
        norm = self.f[0].bn
        options = {"momentum": norm.momentum, "eps": norm.eps, "training_norm": self.training_norm}
        raw, act = ops.seq_conv(
            x, groups, shortcut, self.windowed, self.subgroups, self.dropout, self.training, **options
        )
        if self.training:
            for module in self.modules():
                if isinstance(module, BatchNorm2d):
                    module.num_batches_tracked += 1
        return raw, act

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, k={self.k}, windowed={self.windowed}"
        if self.bottleneck:
            text += f", bottleneck=True, subgroups={self.subgroups}"
        return text if not self.dropout else f"{text}, dropout={self.dropout}"
