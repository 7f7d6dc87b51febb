"""A depthwise convolution and the convolution behind it, composed to one kernel (DO-Conv).

Cao et al., "DO-Conv: Depthwise Over-parameterized Convolutional Layer", 2020. Every input channel i has D_mul spatial
kernels D[i, :, s] of M x N taps; a convolution's kernel W' is made of them by weights W, equations 2 to 4:

    W'[o, i, m] = sum_s D[c(o, i), m, s] W[o, i, s]        i < I = C/groups,  m = row * N + column

where c(o, i) = (o // (O/groups)) * I + i is the channel of the image that input i of output o reads. Two ways give the
same layer: "kernel composition" makes W' and runs one convolution with it; "feature composition" runs the depthwise
convolution with D, then a 1x1 convolution with W.

Making W' is C small matrix products, one per input channel, (O/groups, D_mul) times (D_mul, M N): one launch of
`kernels.contract`, which reads W and writes W' where they are.
"""

from __future__ import annotations

from cupynn.autograd import Function
from cupynn.device import Array, xp_of
from cupynn.kernels import contract
from cupynn.kernels.contract import LAYOUTS
from cupynn.ops.arguments import Pair, pair
from cupynn.ops.conv import conv2d
from cupynn.ops.depthwise import depthwise_conv2d


def depthwise_identity(taps: int, depth_multiplier: int, like: Array) -> Array:
    """The constant I (M N, D_mul) for which D = I gives W' = W: identity matrices side by side, as many as fit into
    D_mul >= M N columns, then zeros. dtype and device are those of `like`."""
    xp = xp_of(like)
    identity = xp.eye(taps, depth_multiplier, dtype=like.dtype)
    for start in range(taps, depth_multiplier - taps + 1, taps):
        identity += xp.eye(taps, depth_multiplier, start, dtype=like.dtype)
    return identity


class ComposeKernel(Function):
    """d (C, M N, D_mul), w (O, C/groups, D_mul) -> W' (O, C/groups, M N)."""

    def forward(self, d, w):
        self.save(d, w)
        return contract.compose(d, w, self.groups, self.layout)

    def backward(self, grad):
        return contract.compose_backward(grad, *self.saved, self.groups, self.layout, self.needs_grad)


def compose_kernel(d, w, kernel_size: Pair, groups: int = 1, layout: str = "paper"):
    """The kernel W' (O, C/groups, M, N) of d (C, M*N, D_mul) and w (O, C/groups, D_mul), differentiable in both.

    layout="authors" takes the slice of channel (o mod groups) * C/groups + i, as the authors' PyTorch code does. It is
    another function only where groups > 1 and O/groups > 1, and no feature composition equals it there.
    Raises ValueError for shapes that do not fit and for an unknown layout.
    """
    _check("compose_kernel", d, w, kernel_size, groups)
    if layout not in LAYOUTS:
        raise ValueError(f"compose_kernel: layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    return ComposeKernel(groups=groups, layout=layout)(d, w).reshape(*w.shape[:2], *kernel_size)


def compose_features(x, d, w, kernel_size: Pair, bias=None, stride=1, padding=0, dilation=1, groups: int = 1):
    """What a convolution of x (N, C, H, W) with `compose_kernel(d, w, kernel_size, groups)` gives, by a depthwise
    convolution with d, then a 1x1 convolution with w.

    The maps in between, (N, C*D_mul, OH, OW), have channel i*D_mul + s from channel i and kernel s.
    Raises ValueError for shapes that do not fit.
    """
    _check("compose_features", d, w, kernel_size, groups)
    channels, _, multiplier = d.shape
    kernels = d.transpose(0, 2, 1).reshape(channels, multiplier, *kernel_size)
    features = depthwise_conv2d(x, kernels, None, stride, padding, dilation)
    return conv2d(features, w.reshape(w.shape[0], -1, 1, 1), bias, groups=groups)


def depthwise_separable_conv2d(
    x, depthwise, pointwise, bias=None, stride=1, padding=0, dilation=1, composition: str = "kernel"
):
    """A depthwise convolution with `depthwise` (C, multiplier, KH, KW), then a 1x1 one with `pointwise`
    (O, C*multiplier, 1, 1) and `bias` (O).

    composition="kernel" runs it as one convolution with the composed kernel (O, C, KH, KW), "feature" as written: the
    same function, a by-product of DO-Conv. `choose_composition` tells which takes fewer operations.
    Raises ValueError for shapes that do not fit and for an unknown composition.
    """
    name = "depthwise_separable_conv2d"
    if depthwise.ndim != 4 or pointwise.shape[1:] != (depthwise.shape[0] * depthwise.shape[1], 1, 1):
        raise ValueError(
            f"{name}: depthwise must be (C, multiplier, KH, KW) and pointwise (O, C*multiplier, 1, 1); they have "
            f"shapes {depthwise.shape} and {pointwise.shape}"
        )
    channels, multiplier, *kernel_size = depthwise.shape
    if composition == "feature":
        return conv2d(depthwise_conv2d(x, depthwise, None, stride, padding, dilation), pointwise, bias)
    if composition != "kernel":
        raise ValueError(f'{name}: composition must be "kernel" or "feature"; got {composition!r}')
    d = depthwise.reshape(channels, multiplier, -1).transpose(0, 2, 1)
    kernel = compose_kernel(d, pointwise.reshape(-1, channels, multiplier), tuple(kernel_size))
    return conv2d(x, kernel, bias, stride, padding, dilation)


def composition_macs(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Pair,
    output_size: int | Pair,
    images: int = 1,
    depth_multiplier: int | None = None,
    groups: int = 1,
) -> dict[str, int]:
    """Multiply-accumulates of a forward pass by each composition, as the paper counts them for one image:

        kernel:  D_mul M N C O/groups  +  O M N C/groups H W images
        feature: (D_mul M N C  +  O D_mul C/groups) H W images

    H, W: `output_size`. The kernel is composed once per step, however many images there are.
    depth_multiplier: D_mul, M N if None.
    """
    taps = _product(pair("composition_macs", "kernel_size", kernel_size, 1))
    pixels = _product(pair("composition_macs", "output_size", output_size, 1)) * images
    multiplier = taps if depth_multiplier is None else depth_multiplier
    inputs = in_channels // groups
    return {
        "kernel": multiplier * taps * inputs * out_channels + out_channels * taps * inputs * pixels,
        "feature": (multiplier * taps * in_channels + out_channels * multiplier * inputs) * pixels,
    }


def choose_composition(*layer, **options) -> str:
    """The composition that has the fewer `composition_macs`, which takes the same arguments: "kernel" or "feature";
    "kernel" where they are equal, since it keeps no maps in between."""
    macs = composition_macs(*layer, **options)
    return "kernel" if macs["kernel"] <= macs["feature"] else "feature"


def _product(numbers: Pair) -> int:
    return numbers[0] * numbers[1]


def _check(operation: str, d, w, kernel_size: Pair, groups: int) -> None:
    if d.ndim != 3 or d.shape[1] != _product(kernel_size):
        raise ValueError(
            f"{operation}: kernel_size={tuple(kernel_size)}, so d must be (C, {_product(kernel_size)}, D_mul); "
            f"it has shape {d.shape}"
        )
    channels, _, multiplier = d.shape
    if groups < 1 or channels % groups or w.ndim != 3 or w.shape[0] % groups:
        raise ValueError(
            f"{operation}: w must be (O, C/groups, D_mul), and groups must divide O and C={channels}; "
            f"got groups={groups} and w of shape {w.shape}"
        )
    if w.shape[1:] != (channels // groups, multiplier):
        raise ValueError(
            f"{operation}: d has shape {d.shape}, so w must be (O, {channels // groups}, {multiplier}) at "
            f"groups={groups}; it has shape {w.shape}"
        )
