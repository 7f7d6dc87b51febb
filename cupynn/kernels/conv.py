"""Two-dimensional convolution (cross-correlation), with stride, padding, dilation and groups.

    y[n,o,p,q] = bias[o] + sum_{c,i,j} w[o,c,i,j] x[n, c, p*stride + i*dilation - pad, q*stride + j*dilation - pad]

x (N, C, H, W), w (O, C/groups, KH, KW), bias (O), y (N, O, OH, OW); zeros outside x. Output channel o reads the
input channels of its own group, o // (O/groups). Where x is float16 or bfloat16, so are y and gradients to x, while
w, bias and their gradients are float32.

Six methods compute it: `conv_direct.py` (`conv.cu`, nothing is unfolded), `conv_columns.py` (im2col and a matrix
product), `conv_depthwise.py` (one channel per group), `pointwise.py` (1x1 without padding), `winograd.py` (3x3 at
stride 1, with fewer multiplications) and, on a GPU, `conv_tc.py` (tensor cores, for 16 bits and TF32).
`method` picks one by shape; with CUPYNN_TUNE=1 those that can are timed once per shape, and the fastest stays.
"""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from cupynn.device import Array, compute_dtype, is_floating, wide, xp_of
from cupynn.kernels import conv_columns, conv_depthwise, conv_direct, conv_tc, pointwise, runtime, winograd
from cupynn.kernels.conv_plan import target
from cupynn.kernels.im2col import Pair, output_size, reference_col2im, reference_im2col
from cupynn.kernels.images import with_whole_images


class Geometry(NamedTuple):
    """One convolution's sizes, checked."""

    n: int
    c: int
    h: int
    w: int
    o: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    oh: int
    ow: int

    @property
    def c_group(self) -> int:
        return self.c // self.groups

    @property
    def o_group(self) -> int:
        return self.o // self.groups

    @property
    def pointwise(self) -> bool:
        """Whether the image is its own column matrix."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.o, self.oh, self.ow


def _pair(name: str, value, least: int) -> Pair:
    try:
        pair = tuple(map(operator.index, value)) if isinstance(value, (tuple, list)) else (operator.index(value),) * 2
    except TypeError:
        pair = ()
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"conv2d: {name} must be an integer >= {least} or a pair of them; got {value!r}")
    return pair


@lru_cache(maxsize=4096)
def geometry(x_shape, w_shape, stride=1, padding=0, dilation=1, groups=1) -> Geometry:
    """Check a convolution's shapes and work out its sizes. Raises ValueError naming what does not fit."""
    if len(x_shape) != 4 or len(w_shape) != 4:
        wanted = "x must be (N, C, H, W) and weight (O, C/groups, KH, KW)"
        raise ValueError(f"conv2d: {wanted}; got shapes {x_shape} and {w_shape}")
    stride, padding = _pair("stride", stride, 1), _pair("padding", padding, 0)
    dilation = _pair("dilation", dilation, 1)
    (n, c, h, w), (o, c_group, kh, kw) = x_shape, w_shape
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"conv2d: groups must be a positive integer; got {groups!r}")
    if o % groups:
        raise ValueError(f"conv2d: weight has {o} output channels, which groups={groups} does not divide")
    if c != c_group * groups:
        raise ValueError(
            f"conv2d: weight has shape {w_shape}, so x needs {c_group * groups} channels at groups={groups}; "
            f"x has shape {x_shape}"
        )
    if min(c, o, kh, kw) < 1:
        raise ValueError(f"conv2d: weight has shape {w_shape}; every size must be at least 1")
    oh = output_size(h, kh, stride[0], padding[0], dilation[0])
    ow = output_size(w, kw, stride[1], padding[1], dilation[1])
    if oh < 1 or ow < 1:
        raise ValueError(
            f"conv2d: kernel {(kh, kw)} at dilation {dilation} does not fit into x of shape {x_shape} "
            f"with padding {padding}"
        )
    return Geometry(n, c, h, w, o, (kh, kw), stride, padding, dilation, groups, oh, ow)


def forward(
    x: Array, w: Array, bias: Array | None = None, stride=1, padding=0, dilation=1, groups=1, out: Array | None = None
) -> Array:
    """The convolution of x with w; see the top of this file.

    It is written to `out` if there is one. x and `out` may be some channels of wider arrays: they are not copied.
    """
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    _check(x, w, bias, g)
    _check_target("out", out, g.output_shape, x)
    if not g.n or not runtime.compiled_for(x, w, bias, narrow=True):
        y = reference_forward(wide(x), w, bias, stride, padding, dilation, groups)
        return y.astype(x.dtype, copy=False) if out is None else _assign(out, y)
    contiguous = xp_of(x).ascontiguousarray
    x, w, bias = with_whole_images(x), contiguous(w), None if bias is None else contiguous(bias)
    return _run("forward", g, x, lambda method, out: method.forward(x, w, bias, g, out), out)


def backward(
    grad: Array,
    x: Array,
    w: Array,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    needs=(True, True, True),
    add_to: Array | None = None,
):
    """Gradients to x, w and bias of sum(grad * y); None where `needs` says it is not needed.

    The gradient to x is added to `add_to` if there is one. grad, x and `add_to` may be some channels of wider arrays.
    """
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    _check(x, w, None, g)
    if grad.shape != g.output_shape or grad.dtype != x.dtype:
        raise ValueError(
            f"conv2d backward: grad must be {x.dtype} of shape {g.output_shape}; got {grad.dtype} of shape {grad.shape}"
        )
    _check_target("add_to", add_to, x.shape, x)
    if not g.n or not runtime.compiled_for(grad, x, w, narrow=True):
        dx, dw, dbias = reference_backward(wide(grad), wide(x), w, stride, padding, dilation, groups, needs)
        if dx is not None:
            dx = dx.astype(x.dtype, copy=False) if add_to is None else _assign(add_to, add_to + dx)
        return dx, dw, dbias
    grad, x, w = with_whole_images(grad), with_whole_images(x), xp_of(x).ascontiguousarray(w)
    dx = dw = dbias = None
    if needs[0]:
        dx = _run("input gradient", g, x, lambda method, add_to: method.input_gradient(grad, w, g, add_to), add_to)
    if needs[1]:
        dw = _run("weight gradient", g, x, lambda method, _: method.weight_gradient(grad, x, w, g))
        if isinstance(dw, tuple):
            dw, dbias = dw
    if not needs[2]:
        dbias = None
    elif dbias is None:
        dbias = grad.sum(axis=(0, 2, 3), dtype=w.dtype)
    return dx, dw, dbias


METHODS = {
    "direct": conv_direct,
    "im2col": conv_columns,
    "depthwise": conv_depthwise,
    "pointwise": pointwise,
    "winograd": winograd,
    "tensor cores": conv_tc,
}
choices: dict[tuple[str, Geometry, str, int], str] = {}
"""Which method each pass of each shape has used in this process: (pass, geometry, dtype, `capability`) -> name."""


def method(
    g: Geometry, gpu: bool = False, which: str = "forward", itemsize: int = 4, tensor_cores: bool = False
) -> str:
    """The name of the method that pass `which` of geometry `g` uses where nothing is measured and its tiles fit.

    `tensor_cores`: whether there are any that may be used, `conv_tc.fits`.
    """
    if tensor_cores and conv_tc.wins(g):
        return "tensor cores"
    if g.c_group == 1 and g.groups > 1:
        return "depthwise"
    if not gpu and pointwise.takes(g) and _pointwise_wins(g, which):
        return "pointwise"
    if g.o_group < 8 and not g.pointwise:
        return "direct"  # too little to multiply for the columns to be worth writing
    if gpu:
        return "im2col"
    if itemsize > 2 and winograd.takes(g) and _winograd_wins(g, which):
        return "winograd"
    weights = g.o * g.c_group * g.kernel[0] * g.kernel[1]
    # A 1x1 kernel has little to gather, and with few outputs packing the weights takes longer than using them.
    return "im2col" if g.kernel == (1, 1) or weights > 8 * g.n * g.o * g.oh * g.ow else "direct"


def _pointwise_wins(g: Geometry, which: str) -> bool:
    """Whether `pointwise.cu` takes less time than columns and BLAS, by timings of 623 shapes on an AVX-512 core.

    A small product takes less time than the launches. BLAS sums up the gradient to the weight image by image.
    """
    return which == "weight gradient" or g.n * g.oh * g.ow * g.o * g.c_group >= 1 << 18


def _winograd_wins(g: Geometry, which: str) -> bool:
    """Whether Winograd's method takes less time than the others, by timings of 635 shapes on an AVX-512 core.

    Per pair of channels a tile costs 36 products, and as much as 24 more to transform it; a direct convolution costs 9
    per pixel. Packing the weights costs as much as 1400 products; the gradient to the weight does not do it.
    """
    if min(g.c, g.o) < 16 or min(g.oh, g.ow) < 4:
        return False
    tiles = g.n * -(-g.oh // 4) * -(-g.ow // 4)
    return which == "weight gradient" or 60 * tiles + 1400 < 9 * g.n * g.oh * g.ow


def methods(g: Geometry, x: Array) -> list[str]:
    """The names of the methods that can compute geometry `g` on the device of x."""
    names = ["im2col"]
    if conv_direct.fits(g, x):
        names.append("direct")
    if g.c_group == 1 and g.groups > 1 and conv_depthwise.fits(g, x):
        names.append("depthwise")
    if pointwise.fits(g, x):
        names.append("pointwise")
    if winograd.takes(g) and x.dtype.itemsize > 2:
        names.append("winograd")
    if conv_tc.fits(g, x):
        names.append("tensor cores")
    return names


def _run(which: str, g: Geometry, x: Array, compute: Callable, target: Array | None = None) -> Any:
    """compute(method, target) by the method chosen for this pass and shape; while methods are timed, without target."""
    key = which, g, dtype_key(x), runtime.capability(x)
    name = choices.get(key)
    if name is None:
        possible = methods(g, x)
        if os.environ.get("CUPYNN_TUNE") == "1":
            name = min(possible, key=lambda name: _seconds(lambda: compute(METHODS[name], None), x))
        else:
            first = method(g, runtime.is_gpu(x), which, x.dtype.itemsize, "tensor cores" in possible)
            wanted = first, "direct", "im2col"
            name = next(name for name in wanted if name in possible)
        choices[key] = name
    return compute(METHODS[name], target)


def dtype_key(x: Array) -> str:
    """The dtype in the keys of `choices`: a letter, which is shared by types that are not NumPy's own."""
    return x.dtype.char if x.dtype.kind == "f" else x.dtype.name


def _seconds(call: Callable, x: Array) -> float:
    """The shortest of three runs, after one that compiles."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        if runtime.is_gpu(x):
            xp_of(x).cuda.Device().synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _assign(to: Array, values: Array) -> Array:
    to[...] = values
    return to


def _check_target(name: str, array: Array | None, shape: tuple[int, ...], x: Array) -> None:
    """Raise ValueError unless a result of this shape can be written to `array`, if there is one."""
    if array is None:
        return
    if array.shape != shape or array.dtype != x.dtype:
        raise ValueError(f"conv2d: {name} must be {x.dtype} of shape {shape}; got {array.dtype} of shape {array.shape}")
    if with_whole_images(array) is not array:
        raise ValueError(f"conv2d: the images of {name} must be contiguous; its strides are {array.strides}")


def _check(x: Array, w: Array, bias: Array | None, g: Geometry) -> None:
    """Raise TypeError or ValueError unless the arrays' dtypes agree and bias is (O,)."""
    wanted = compute_dtype(x.dtype)
    if w.dtype != wanted or not is_floating(x.dtype) or (bias is not None and bias.dtype != wanted):
        given = ", ".join(str(a.dtype) for a in (x, w, bias) if a is not None)
        raise TypeError(
            f"conv2d: x, weight and bias must share one floating-point dtype; got {given} "
            "(where x is float16 or bfloat16, weight and bias are float32)"
        )
    if bias is not None and bias.shape != (g.o,):
        raise ValueError(f"conv2d: bias must have shape ({g.o},), one per output channel; got {bias.shape}")


def instantiations() -> list[str]:
    """Every kernel of `conv.cu` that is launched on a GPU."""
    sizes = {"float": 4, "double": 8, "Half": 4, "BFloat16": 4}  # bytes of what is computed with
    return [name for T, size in sizes.items() for name in conv_direct.instantiations(target(16, size, True, 128), T)]


def cost(g: Geometry, itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass of geometry `g` must cost: every array moved once, a multiply-add is two."""
    x, y = g.n * g.c * g.h * g.w, g.n * g.o * g.oh * g.ow
    w = g.o * g.c_group * g.kernel[0] * g.kernel[1]
    operations = 2 * y * w // g.o
    moved = (x + y + w) * itemsize
    return {which: (moved, operations) for which in ("forward", "input gradient", "weight gradient")}


def reference_forward(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Array:
    """The same by im2col and one matrix product per image and group."""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    columns = reference_im2col(x, g.kernel, g.stride, g.padding, g.dilation)
    columns = columns.reshape(g.n, g.groups, w[0].size, g.oh * g.ow)
    y = (w.reshape(g.groups, g.o_group, -1) @ columns).reshape(g.output_shape)
    if bias is not None:
        y += bias[:, None, None]
    return y


def reference_backward(grad, x, w, stride=1, padding=0, dilation=1, groups=1, needs=(True, True, True)):
    """Gradients by the transposed products: columns' gradient w^T grad, weight's gradient grad columns^T."""
    xp = xp_of(x)
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    dx = dw = dbias = None
    rows = grad.reshape(g.n, g.groups, g.o_group, g.oh * g.ow)
    if needs[0]:
        columns = w.reshape(g.groups, g.o_group, -1).transpose(0, 2, 1) @ rows
        dx = reference_col2im(
            columns.reshape(g.n, g.groups * w[0].size, g.oh * g.ow), x.shape, g.kernel, g.stride, g.padding, g.dilation
        )
    if needs[1]:
        columns = reference_im2col(x, g.kernel, g.stride, g.padding, g.dilation)
        columns = columns.reshape(g.n, g.groups, w[0].size, g.oh * g.ow)
        dw = xp.zeros((g.groups, g.o_group, columns.shape[2]), w.dtype)
        for n in range(g.n):
            dw += rows[n] @ columns[n].transpose(0, 2, 1)
        dw = dw.reshape(w.shape)
    if needs[2]:
        dbias = grad.sum(axis=(0, 2, 3))
    return dx, dw, dbias
