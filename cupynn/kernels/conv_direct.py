"""Launches of `conv.cu`: the direct convolution's three passes, given a checked geometry, a contiguous weight and
arrays of whole images (`images.py`), which are read and written where they lie."""

from __future__ import annotations

from cupynn.device import Array, compute_dtype, xp_of
from cupynn.kernels import runtime
from cupynn.kernels.conv_plan import Plan, Target, plan, target
from cupynn.kernels.images import span, whole

PASSES = "forward", "input gradient", "weight gradient"


def fits(g, x: Array) -> bool:
    """Whether a tile of this geometry fits into a block's shared memory. It does not where a row is very long.

    In 16 bits it must have all input channels: with several chunks of them sums would be rounded in between.
    """
    t = _target(x)
    if x.dtype.itemsize == 2 and not all(_plan(g, t, x, which).whole for which in PASSES[:2]):
        return False
    return all(_plan(g, t, x, which).shared_bytes <= runtime.shared_capacity(x) for which in PASSES)


def forward(x: Array, w: Array, bias: Array | None, g, out: Array | None = None, add: bool = False) -> Array:
    """y (N, O, OH, OW) of geometry `g`, written to `out` if there is one, or with `add` added to what is there."""
    y = xp_of(x).empty(g.output_shape, x.dtype) if out is None else out
    _convolve(x, w, bias, y, g, "forward", add)
    return y


def input_gradient(grad: Array, w: Array, g, out: Array | None = None, add: bool = True) -> Array:
    """dx (N, C, H, W) of geometry `g`, added to `out` if there is one, or written to it without `add`."""
    dx = xp_of(grad).empty((g.n, g.c, g.h, g.w), grad.dtype) if out is None else out
    _convolve(grad, w, None, dx, g, "input gradient", add and out is not None)
    return dx


def weight_gradient(grad: Array, x: Array, w: Array, g) -> tuple[Array, Array]:
    """dw (O, C/groups, KH, KW) and dbias (O) of geometry `g`."""
    xp, t, name = xp_of(x), _target(x), runtime.ctype(x)
    p = _plan(g, t, x, "weight gradient")
    # dw and dbias side by side, so that one launch adds up both
    partial = xp.empty((p.blocks, w.size + g.o), w.dtype)
    total = xp.empty(w.size + g.o, w.dtype)
    kernel = f"weight_gradient<{name}, {t.lanes}, {t.gradient_channels}, {t.gradient_taps}>"
    (x, x_pitch), (grad, grad_pitch) = span(x), span(grad)
    grid, args = (p.blocks, p.chunks), (x, grad, partial, p.data, x_pitch, grad_pitch)
    runtime.launch("conv", kernel, grid, t.threads, args, p.shared_bytes, outputs=(partial,))
    share = 1024
    args = (partial, total, total.size, p.blocks, share)
    runtime.launch("conv", f"reduce<{runtime.ctype(w)}>", -(-total.size // share), t.threads, args, outputs=(total,))
    return total[: w.size].reshape(w.shape), total[w.size :]


def instantiations(t: Target, name: str) -> list[str]:
    """Every kernel that a target launches for images of one scalar type."""
    return [
        *(f"pack<{name}, {channels}>" for _, channels in t.tiles if name in ("float", "double")),
        *(f"convolve<{name}, {t.lanes}, {strips}, {channels}>" for strips, channels in t.tiles),
        f"weight_gradient<{name}, {t.lanes}, {t.gradient_channels}, {t.gradient_taps}>",
        *([f"reduce<{name}>"] if name in ("float", "double") else []),
    ]


def _itemsize(x: Array) -> int:
    return compute_dtype(x.dtype).itemsize


def _target(x: Array) -> Target:
    return target(runtime.vector_bytes(x), _itemsize(x), runtime.is_gpu(x), runtime.threads(x, gpu=128))


def _plan(g, t: Target, x: Array, which: str) -> Plan:
    return plan(g, t, _itemsize(x), which, runtime.device_number(x))


def _convolve(x: Array, w: Array, bias: Array | None, y: Array, g, which: str, accumulate: bool = False) -> None:
    """y = the forward pass of x, or the gradient to the input of the gradient x; added to y with `accumulate`."""
    t, name = _target(x), runtime.ctype(x)
    p = _plan(g, t, x, which)
    strips, channels = t.tile(g.c_group if which == "input gradient" else g.o_group)
    packed = xp_of(x).empty(p.packed, w.dtype)
    grid, args = (p.channel_tiles, g.groups), (w, packed, p.data, int(which == "input gradient"))
    runtime.launch("conv", f"pack<{runtime.ctype(w)}, {channels}>", grid, t.threads, args, outputs=(packed,))
    kernel = f"convolve<{name}, {t.lanes}, {strips}, {channels}>"
    outputs = () if accumulate else whole(y)
    (x, x_pitch), (y, y_pitch) = span(x), span(y)
    grid, args = (p.blocks, p.chunks), (x, packed, bias, y, p.data, x_pitch, y_pitch, accumulate)
    runtime.launch(
        "conv", kernel, grid, t.threads, args, p.shared_bytes, outputs=outputs, touches=() if outputs else (y,)
    )
