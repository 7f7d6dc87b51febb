"""Launches of `conv.cu`: the direct convolution's three passes, given a checked geometry and contiguous arrays."""

from __future__ import annotations

from cupynn.device import Array, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.conv_plan import Target, plans, target


def forward(x: Array, w: Array, bias: Array | None, g) -> Array:
    """y (N, O, OH, OW) of geometry `g`."""
    y = xp_of(x).empty(g.output_shape, x.dtype)
    _convolve(x, w, bias, y, g, "forward")
    return y


def input_gradient(grad: Array, w: Array, g) -> Array:
    """dx (N, C, H, W) of geometry `g`."""
    dx = xp_of(grad).empty((g.n, g.c, g.h, g.w), grad.dtype)
    _convolve(grad, w, None, dx, g, "input")
    return dx


def weight_gradient(grad: Array, x: Array, w: Array, g) -> tuple[Array, Array]:
    """dw (O, C/groups, KH, KW) and dbias (O) of geometry `g`."""
    xp, t, name = xp_of(x), _target(x), runtime.ctype(x)
    plan, _ = plans(g, t, x.dtype.itemsize, "weight", xp)
    # dw and dbias side by side, so that one launch adds up both
    partial = xp.empty((plan.blocks, w.size + g.o), x.dtype)
    total = xp.empty(w.size + g.o, x.dtype)
    kernel = f"weight_gradient<{name}, {t.lanes}, {t.gradient_channels}, {t.gradient_taps}>"
    grid, args = (plan.blocks, plan.chunks), (x, grad, partial, plan.data)
    runtime.launch("conv", kernel, grid, t.threads, args, plan.shared_bytes, outputs=(partial,))
    span = 1024
    args = (partial, total, total.size, plan.blocks, span)
    runtime.launch("conv", f"reduce<{name}>", -(-total.size // span), t.threads, args, outputs=(total,))
    return total[: w.size].reshape(w.shape), total[w.size :]


def instantiations(t: Target, name: str) -> list[str]:
    """Every kernel that a target launches for one scalar type."""
    return [
        f"pack<{name}>",
        *(f"convolve<{name}, {t.lanes}, {strips}, {channels}>" for strips, channels in t.tiles),
        f"weight_gradient<{name}, {t.lanes}, {t.gradient_channels}, {t.gradient_taps}>",
        f"reduce<{name}>",
    ]


def _target(x: Array) -> Target:
    return target(runtime.vector_bytes(x), x.dtype.itemsize, runtime.is_gpu(x), runtime.threads(x, gpu=128))


def _convolve(x: Array, w: Array, bias: Array | None, y: Array, g, which: str) -> None:
    """y = the forward pass of x, or the gradient to the input of the gradient x."""
    xp, t, name = xp_of(x), _target(x), runtime.ctype(x)
    plan, index = plans(g, t, x.dtype.itemsize, which, xp)
    packed = xp.empty(index.shape, x.dtype)
    args = (w, index, packed, index.size)
    runtime.launch("conv", f"pack<{name}>", -(-index.size // 16384), t.threads, args, outputs=(packed,))
    strips, channels = t.tile(g.c_group if which == "input" else g.o_group)
    kernel = f"convolve<{name}, {t.lanes}, {strips}, {channels}>"
    grid, args = (plan.blocks, plan.chunks), (x, packed, bias, y, plan.data)
    runtime.launch("conv", kernel, grid, t.threads, args, plan.shared_bytes, outputs=(y,))
