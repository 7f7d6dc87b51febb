"""Depthwise two-dimensional convolution: every channel is convolved with kernels of its own.

    y[n, c*M + m, p, q] = bias[c*M + m]
        + sum_{i,j} w[c, m, i, j] x[n, c, p*stride + i*dilation - padding, q*stride + j*dilation - padding]

x (N, C, H, W), w (C, M, KH, KW) with the multiplier M, bias (C*M), y (N, C*M, OH, OW); zeros outside x. It is a
convolution with as many groups as channels. Where x is float16 or bfloat16, so are y and gradients to x, while w, bias
and their gradients are float32.
"""

from __future__ import annotations

from cupynn.device import Array, compute_dtype, is_floating, wide, xp_of
from cupynn.kernels import conv, conv_depthwise, runtime


def forward(x: Array, w: Array, bias: Array | None = None, stride=1, padding=0, dilation=1) -> Array:
    """The convolution of every channel of x with its kernels; see the top of this file."""
    g = _geometry(x, w, bias, stride, padding, dilation)
    if not _compiled(g, x, w, bias):
        return reference_forward(wide(x), w, bias, stride, padding, dilation).astype(x.dtype, copy=False)
    contiguous = xp_of(x).ascontiguousarray
    bias = None if bias is None else contiguous(bias)
    return conv_depthwise.forward(contiguous(x), contiguous(w), bias, g)


def backward(grad: Array, x: Array, w: Array, stride=1, padding=0, dilation=1, needs=(True, True, True)):
    """Gradients to x, w and bias of sum(grad * y); None where `needs` says it is not needed."""
    g = _geometry(x, w, None, stride, padding, dilation)
    if grad.shape != g.output_shape or grad.dtype != x.dtype:
        raise ValueError(
            f"depthwise_conv2d backward: grad must be {x.dtype} of shape {g.output_shape}; "
            f"got {grad.dtype} of shape {grad.shape}"
        )
    if not _compiled(g, grad, x, w):
        dx, dw, dbias = reference_backward(wide(grad), wide(x), w, stride, padding, dilation, needs)
        return None if dx is None else dx.astype(x.dtype, copy=False), dw, dbias
    contiguous = xp_of(x).ascontiguousarray
    grad, dx, dw, dbias = contiguous(grad), None, None, None
    if needs[0]:
        dx = conv_depthwise.input_gradient(grad, contiguous(w), g)
    if needs[1]:
        dw, dbias = conv_depthwise.weight_gradient(grad, contiguous(x), w, g)
    elif needs[2]:
        dbias = grad.sum(axis=(0, 2, 3), dtype=w.dtype)
    return dx, dw, dbias if needs[2] else None


def reference_forward(x, w, bias=None, stride=1, padding=0, dilation=1) -> Array:
    """The same, tap by tap: each is a product of a strided view of x with one number per output channel."""
    g = _geometry(x, w, bias, stride, padding, dilation)
    xp = xp_of(x)
    padded = _padded(x, g)
    y = xp.zeros((g.n, g.c, g.o // g.c, g.oh, g.ow), x.dtype)
    for i, j, window in _windows(padded, g):
        y += window[:, :, None] * w[None, :, :, i, j, None, None]
    y = y.reshape(g.output_shape)
    if bias is not None:
        y += bias[:, None, None]
    return y


def reference_backward(grad, x, w, stride=1, padding=0, dilation=1, needs=(True, True, True)):
    """Gradients by the same views: each tap adds to its window of dx, and sums up its window for dw."""
    g = _geometry(x, w, None, stride, padding, dilation)
    xp = xp_of(x)
    padded, split = _padded(x, g), grad.reshape(g.n, g.c, g.o // g.c, g.oh, g.ow)
    dpadded = xp.zeros_like(padded) if needs[0] else padded
    dw = xp.empty(w.shape, w.dtype) if needs[1] else None
    for (i, j, window), (_, _, dwindow) in zip(_windows(padded, g), _windows(dpadded, g), strict=True):
        if needs[0]:
            dwindow += (split * w[None, :, :, i, j, None, None]).sum(axis=2)
        if needs[1]:
            dw[:, :, i, j] = (split * window[:, :, None]).sum(axis=(0, 3, 4))
    dx = dpadded[:, :, g.padding[0] : g.padding[0] + g.h, g.padding[1] : g.padding[1] + g.w] if needs[0] else None
    return dx, dw, grad.sum(axis=(0, 2, 3)) if needs[2] else None


def cost(g: conv.Geometry, itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass of geometry `g` must cost: every array moved once, a multiply-add is two."""
    return conv.cost(g, itemsize)


def instantiations() -> list[str]:
    """Every kernel of `depthwise.cu` that is launched on a GPU."""
    return [name for T in ("float", "double", "Half", "BFloat16") for name in conv_depthwise.instantiations(T)]


def _geometry(x, w, bias, stride, padding, dilation) -> conv.Geometry:
    """Check shapes and dtypes. Raises ValueError or TypeError naming what does not fit."""
    if x.ndim != 4 or w.ndim != 4 or w.shape[0] != x.shape[1]:
        wanted = f"weight must be ({x.shape[1]}, multiplier, KH, KW)" if x.ndim == 4 else "x must be (N, C, H, W)"
        raise ValueError(f"depthwise_conv2d: x has shape {x.shape}, so {wanted}; weight has shape {w.shape}")
    channels, multiplier, kh, kw = w.shape
    g = conv.geometry(x.shape, (channels * multiplier, 1, kh, kw), stride, padding, dilation, channels)
    wanted = compute_dtype(x.dtype)
    if w.dtype != wanted or not is_floating(x.dtype) or (bias is not None and bias.dtype != wanted):
        given = ", ".join(str(a.dtype) for a in (x, w, bias) if a is not None)
        raise TypeError(
            f"depthwise_conv2d: x, weight and bias must share one floating-point dtype; got {given} "
            "(where x is float16 or bfloat16, weight and bias are float32)"
        )
    if bias is not None and bias.shape != (g.o,):
        raise ValueError(
            f"depthwise_conv2d: weight has shape {w.shape}, so bias must be (C * multiplier,) = ({g.o},); "
            f"it has shape {bias.shape}"
        )
    return g


def _compiled(g, *arrays) -> bool:
    return g.n > 0 and runtime.compiled_for(*arrays, narrow=True) and conv_depthwise.fits(g, arrays[0])


def _padded(x, g):
    return xp_of(x).pad(x, ((0, 0), (0, 0), (g.padding[0],) * 2, (g.padding[1],) * 2))


def _windows(padded, g):
    """(i, j, view): what tap (i, j) of the kernel meets, one element per output."""
    for i in range(g.kernel[0]):
        for j in range(g.kernel[1]):
            top, left = i * g.dilation[0], j * g.dilation[1]
            rows = slice(top, top + (g.oh - 1) * g.stride[0] + 1, g.stride[0])
            yield i, j, padded[:, :, rows, left : left + (g.ow - 1) * g.stride[1] + 1 : g.stride[1]]
