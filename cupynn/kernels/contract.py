"""Contraction: layers that are linear become one, as batches of small matrix products.

Two convolutions in a row, `first` (g P, I, AH, AW) and `second` (g O, P, BH, BW) with g groups, are one with the kernel
(g O, I, AH + BH - 1, AW + BW - 1), the full convolution of theirs [ExpandNets, Appendix D]:

    W[o, i, u] = sum_{p, v} second[o, p, v] first[p, i, u - v]            u, v: taps, two-dimensional

Fully connected layers are convolutions with one tap. DO-Conv's composition is one product for every input channel of
the image [DO-Conv, equations 2 to 4]:

    kernel[o, i, m] = sum_s d[c(o, i), m, s] w[o, i, s]

Gradients are products of the same kind: `multiply` of `contract.cu` makes all of them, each in one launch.
`contract_fold.py` launches that file's other kernels, which fold batch norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cupynn.device import Array, xp_of
from cupynn.kernels import contract_fold, contract_plan, runtime

LAYOUTS = ("paper", "authors")
LARGEST = 2**31 - 2**12  # elements of an array: offsets, also a strip behind its end, are 32 bits
FEW = 100_000  # multiply-adds of a composition that NumPy's BLAS has done on a CPU before a launch has begun


def forward(first: Array, second: Array, groups: int = 1) -> Array:
    """W, the kernel of `first` and then `second`; see the top of this file.

    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ.
    """
    shape = _check(first, second, groups)
    if _blas_is_faster(second) or not _compiled(math.prod(shape), first, second):
        return reference_forward(first, second, groups)
    arrays = {"first": first, "second": second}
    return _multiply("whole", shape, arrays, contract_plan.convolution, groups)


def backward(grad: Array, first: Array, second: Array, groups: int = 1, needs: tuple[bool, bool] = (True, True)):
    """Gradients to first and second of sum(grad * W); None where `needs` says it is not needed.

        dfirst[p, i, a] = sum_{o, v} second[o, p, v] grad[o, i, a + v]
        dsecond[o, p, v] = sum_{i, a} grad[o, i, a + v] first[p, i, a]

    Raises as `forward` does, and for a grad that is not like W.
    """
    _check_grad("contract backward", grad, _check(first, second, groups), first.dtype)
    if _blas_is_faster(second) or not _compiled(grad.size, grad, first, second):
        return reference_backward(grad, first, second, groups, needs)
    arrays = {"first": first, "second": second, "whole": grad}
    return tuple(
        _multiply(name, arrays[name].shape, arrays, contract_plan.convolution, groups) if need else None
        for name, need in zip(("first", "second"), needs, strict=True)
    )


def compose(d: Array, w: Array, groups: int = 1, layout: str = "paper") -> Array:
    """DO-Conv's kernel (O, C/groups, taps) of d (C, taps, S) and w (O, C/groups, S).

    c(o, i) = group * C/groups + i, where the group of output o is o // (O/groups) with layout="paper", and o mod groups
    with "authors". Raises ValueError for shapes that do not fit and another layout, TypeError for dtypes that differ.
    """
    shape = _check_composition(d, w, groups, layout)
    if _are_few(d, w) or not _compiled(math.prod(shape), d, w):
        return reference_compose(d, w, groups, layout)
    return _multiply("kernel", shape, {"d": d, "w": w}, contract_plan.composition, groups, layout)


def compose_backward(
    grad: Array, d: Array, w: Array, groups: int = 1, layout: str = "paper", needs: tuple[bool, bool] = (True, True)
):
    """Gradients to d and w of sum(grad * kernel); None where `needs` says it is not needed.

    Raises as `compose` does, and for a grad that is not like the kernel.
    """
    _check_grad("compose_backward", grad, _check_composition(d, w, groups, layout), w.dtype)
    if _are_few(d, w) or not _compiled(grad.size, grad, d, w):
        return reference_compose_backward(grad, d, w, groups, layout, needs)
    arrays = {"d": d, "w": w, "kernel": grad}
    return tuple(
        _multiply(name, arrays[name].shape, arrays, contract_plan.composition, groups, layout) if need else None
        for name, need in zip(("d", "w"), needs, strict=True)
    )


def reference_forward(first: Array, second: Array, groups: int = 1) -> Array:
    """The definition, tap by tap of second: each is a product of matrices (groups, O, P) (groups, P, I taps)."""
    shape = _check(first, second, groups)
    w = xp_of(first).zeros((groups, shape[0] // groups, *shape[1:]), first.dtype)
    matrix = _matrices(first, groups)
    for factor, window in _windows(_grouped(second, groups), w, first):
        window += runtime.product(factor, matrix).reshape(window.shape)
    return w.reshape(shape)


def reference_backward(grad, first, second, groups=1, needs=(True, True)):
    xp, seconds = xp_of(first), _grouped(second, groups)
    matrix = _matrices(first, groups)
    d_matrix = xp.zeros(matrix.shape, first.dtype) if needs[0] else None
    d_seconds = xp.empty(seconds.shape, second.dtype) if needs[1] else seconds
    grads, turned = _grouped(grad, groups), matrix.swapaxes(1, 2)
    pairs = zip(_windows(seconds, grads, first), _windows(d_seconds, grads, first), strict=True)
    for (factor, window), (d_factor, _) in pairs:
        rows = window.reshape(groups, window.shape[1], matrix.shape[2])
        if needs[0]:
            d_matrix += runtime.product(factor.swapaxes(1, 2), rows)
        if needs[1]:
            d_factor[...] = runtime.product(rows, turned)
    d_first = d_matrix.reshape(first.shape) if needs[0] else None
    return d_first, d_seconds.reshape(second.shape) if needs[1] else None


def reference_compose(d: Array, w: Array, groups: int = 1, layout: str = "paper") -> Array:
    """One matrix product, (O/groups, S) times (S, taps), for each channel of the image."""
    kernel = xp_of(w).empty((*w.shape[:2], d.shape[1]), w.dtype)
    slices = _grouped(d, groups).swapaxes(2, 3)
    _by_channel(kernel, groups, layout)[...] = runtime.multiply(_by_channel(w, groups, layout), slices)
    return kernel


def reference_compose_backward(grad, d, w, groups=1, layout="paper", needs=(True, True)):
    by_channel, dd, dw = _by_channel(grad, groups, layout), None, None
    if needs[0]:
        dd = runtime.multiply(by_channel.swapaxes(2, 3), _by_channel(w, groups, layout)).reshape(d.shape)
    if needs[1]:
        dw = xp_of(w).empty(w.shape, w.dtype)
        _by_channel(dw, groups, layout)[...] = runtime.multiply(by_channel, _grouped(d, groups))
    return dd, dw


def cost(first: tuple[int, ...], second: tuple[int, ...], groups: int = 1, itemsize: int = 4):
    """{"forward", "backward"} of these shapes: (bytes, operations), every array moved once, and one multiply-add, which
    is two operations, for every (o, p, i), pair of taps and pass; backward is to both."""
    taps = math.prod(first[2:]) * math.prod(second[2:])
    size = second[0] * first[1] * (first[2] + second[2] - 1) * (first[3] + second[3] - 1)
    return _cost(math.prod(first), math.prod(second), size, second[0] * second[1] * first[1] * taps, itemsize)


def compose_cost(d: tuple[int, ...], w: tuple[int, ...], itemsize: int = 4):
    """The same of `compose` and `compose_backward`."""
    return _cost(math.prod(d), math.prod(w), math.prod(w[:2]) * d[1], math.prod(w) * d[1], itemsize)


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    return [
        expression
        for t in ("float", "double")
        for expression in (*(f"multiply<{t}, 1, 4, {s}, true>" for s in (1, 4)), *contract_fold.instantiations(t))
    ]


def _multiply(result: str, shape: tuple[int, ...], arrays: dict[str, Array], planner: Callable, *how) -> Array:
    """The array named `result`, from the others: one launch, whose plan `planner` makes."""
    factors = list(arrays.values())[:2]
    like = factors[0]
    device = runtime.device_number(like)
    where = contract_plan.Where(like.dtype.itemsize, runtime.vector_bytes(like), runtime.threads(like), device)
    plan = planner(result, factors[0].shape, factors[1].shape, *how, where)
    xp = xp_of(like)
    x, y = (arrays[name] for name in plan.reads)
    if plan.taps_first:
        x = x.reshape(*x.shape[:2], -1).transpose(2, 0, 1)
    z, operands = xp.empty(shape, like.dtype), [xp.ascontiguousarray(array) for array in (x, y)]
    kernel = f"multiply<{runtime.ctype(like)}, {plan.constants}>"
    runtime.launch(
        "contract", kernel, plan.grid, plan.block, (*operands, z, plan.data), plan.shared_bytes, outputs=(z,)
    )
    return z


def _blas_is_faster(second: Array) -> bool:
    """Whether this is a product of plain matrices on a CPU with short vector registers.

    Beside OpenBLAS on one core, from 32 x 128 x 784 to 64 x 2048 x 512, `multiply` takes 0.5 to 0.7 of its time with
    registers of 64 bytes, 1.0 to 1.9 with 32 bytes, 2 to 4 with 16. Where the second layer has several taps, BLAS
    leaves windows to be added up: of the time of both `multiply` takes 0.3 to 0.6, 0.5 to 0.9, and 0.7 to 1.7.
    """
    if second.shape[2:] != (1, 1) or runtime.is_gpu(second) or runtime.mode() != "compiled":
        return False
    return runtime.compiled_for(second) and runtime.vector_bytes(second) < 64


def _are_few(d: Array, w: Array) -> bool:
    return w.size * d.shape[1] < FEW and runtime.mode() == "compiled" and not runtime.is_gpu(w)


def _cost(first, second, result, products, itemsize):
    return {
        "forward": ((first + second + result) * itemsize, 2 * products),
        "backward": ((2 * first + 2 * second + result) * itemsize, 4 * products),
    }


def _compiled(result_size: int, *arrays: Array) -> bool:
    sizes = (result_size, *(array.size for array in arrays))
    return min(sizes) > 0 and max(sizes) <= LARGEST and runtime.compiled_for(*arrays)


def _windows(seconds, w, first):
    """(second's matrices at a tap, the window of w that `first` lands in with it), tap by tap."""
    for row in range(seconds.shape[3]):
        for column in range(seconds.shape[4]):
            window = w[..., row : row + first.shape[2], column : column + first.shape[3]]
            yield seconds[..., row, column], window


def _matrices(w, groups):
    """(g O, I, KH, KW) as (g, O, I taps)."""
    return w.reshape(groups, w.shape[0] // groups, math.prod(w.shape[1:]))


def _grouped(w, groups):
    return w.reshape(groups, w.shape[0] // groups, *w.shape[1:])


def _by_channel(w, groups, layout):
    """A view (groups, C/groups, O/groups, last) of (O, C/groups, last): what shares a slice of d is a matrix."""
    o, i, last = w.shape
    if layout == "paper":
        return w.reshape(groups, o // groups, i, last).transpose(0, 2, 1, 3)
    return w.reshape(o // groups, groups, i, last).transpose(1, 2, 0, 3)


def _check(first, second, groups) -> tuple[int, ...]:
    """The result's shape, once everything fits."""
    fits = first.ndim == second.ndim == 4 and groups > 0 and second.shape[0] % groups == 0
    if not fits or second.shape[1] * groups != first.shape[0]:
        raise ValueError(
            "contract: first must be (groups * P, I, AH, AW) and second (groups * O, P, BH, BW); got "
            f"groups={groups} and shapes {first.shape} and {second.shape}"
        )
    if first.dtype != second.dtype or first.dtype.kind != "f":
        raise TypeError(
            f"contract: first and second must share one floating-point dtype; got {first.dtype}, {second.dtype}"
        )
    size = (a + b - 1 for a, b in zip(first.shape[2:], second.shape[2:], strict=True))
    return second.shape[0], first.shape[1], *size


def _check_composition(d, w, groups, layout) -> tuple[int, ...]:
    if layout not in LAYOUTS:
        raise ValueError(f"compose: layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    fits = d.ndim == w.ndim == 3 and groups > 0 and w.shape[1] * groups == d.shape[0] and w.shape[0] % groups == 0
    if not fits or w.shape[2] != d.shape[2]:
        raise ValueError(
            f"compose: d must be (C, taps, S), w (O, C/groups, S), and groups divide O; got groups={groups} and "
            f"shapes {d.shape} and {w.shape}"
        )
    if d.dtype != w.dtype or d.dtype.kind != "f":
        raise TypeError(f"compose: d and w must share one floating-point dtype; got {d.dtype}, {w.dtype}")
    return *w.shape[:2], d.shape[1]


def _check_grad(name, grad, shape, dtype) -> None:
    if grad.shape != shape or grad.dtype != dtype:
        raise ValueError(f"{name}: grad must be {dtype} of shape {shape}; got {grad.dtype} of shape {grad.shape}")
