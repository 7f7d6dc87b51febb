"""NumPy's own functions on tensors: which of ours answers for which of NumPy's.

What is in no table raises TypeError, so that a gradient is never dropped without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cupynn.autograd import functions as F
from cupynn.autograd.tensor import Tensor

_UFUNCS: dict[np.ufunc, Callable] = {
    np.add: F.add,
    np.subtract: F.subtract,
    np.multiply: F.multiply,
    np.divide: F.divide,
    np.power: F.power,
    np.matmul: F.matmul,
    np.negative: F.negative,
    np.positive: lambda x: x,
    np.square: F.square,
    np.exp: F.exp,
    np.log: F.log,
    np.sqrt: F.sqrt,
    np.absolute: F.abs,
    np.fabs: F.abs,
    np.sin: F.sin,
    np.cos: F.cos,
    np.tanh: F.tanh,
    np.maximum: F.maximum,
    np.minimum: F.minimum,
}

# ufunc.reduce, whose axis is 0 where ours is all of them.
_REDUCTIONS: dict[np.ufunc, Callable] = {np.add: F.sum, np.maximum: F.max, np.minimum: F.min}


def _reduction(ours: Callable) -> Callable:
    # NumPy's third place is dtype, ours is another: what follows axis has to be named.
    return lambda x, axis=None, **options: ours(x, axis=axis, **options)


def _pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Tensor:
    if mode != "constant":
        raise TypeError(f'numpy.pad: on a tensor the mode is "constant"; got {mode!r}')
    return F.pad(x, pad_width, constant_values)


def _clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Tensor:
    return F.clip(x, a_min if min is None else min, a_max if max is None else max)


_FUNCTIONS: dict[Callable, Callable] = {
    np.sum: _reduction(F.sum),
    np.mean: _reduction(F.mean),
    np.var: _reduction(F.var),
    np.max: _reduction(F.max),
    np.min: _reduction(F.min),
    np.amax: _reduction(F.max),
    np.amin: _reduction(F.min),
    np.reshape: F.reshape,
    np.transpose: F.transpose,
    np.ravel: lambda x: F.flatten(x),
    np.squeeze: F.squeeze,
    np.expand_dims: F.expand_dims,
    np.broadcast_to: F.broadcast_to,
    np.concatenate: F.concatenate,
    np.stack: F.stack,
    np.pad: _pad,
    np.where: F.where,
    np.clip: _clip,
    np.einsum: F.einsum,
}

# Counts, places, truth values, shapes carry no gradient by nature: plain arrays come out.
_WITHOUT_GRADIENT: tuple[Callable, ...] = (
    *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal),
    *(np.isnan, np.isinf, np.isfinite, np.signbit, np.logical_and, np.logical_or, np.logical_not),
    *(np.argmax, np.argmin, np.argsort, np.count_nonzero, np.any, np.all, np.shape, np.ndim, np.size),
    *(np.allclose, np.isclose, np.array_equal, np.zeros_like, np.ones_like, np.empty_like, np.full_like),
)


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, Tensor) else value


def _on_arrays(function: Callable) -> Callable:
    return lambda *args, **options: function(*map(_plain, args), **{key: _plain(options[key]) for key in options})


for _function in _WITHOUT_GRADIENT:
    (_UFUNCS if isinstance(_function, np.ufunc) else _FUNCTIONS)[_function] = _on_arrays(_function)


def apply_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, options: dict) -> Any:
    """`Tensor.__array_ufunc__`: np.exp(t), np.add(array, t), np.add.reduce(t)."""
    name = f"numpy.{ufunc.__name__}"
    if method == "__call__":
        return _apply(name, ufunc, _UFUNCS, inputs, options)
    if method == "reduce":
        return _apply(f"{name}.reduce", ufunc, _REDUCTIONS, inputs, {"axis": 0, **options})
    return _apply(f"{name}.{method}", ufunc, {}, inputs, options)


def apply_function(function: Callable, args: tuple, options: dict) -> Any:
    """`Tensor.__array_function__`: np.sum(t, axis=1), np.concatenate([t, array])."""
    return _apply(f"numpy.{function.__name__}", function, _FUNCTIONS, args, options)


def _apply(name: str, numpys: Callable, table: dict, args: tuple, options: dict) -> Any:
    out = options.pop("out", None)
    if any(array is not None for array in (out if isinstance(out, tuple) else (out,))):
        raise TypeError(f"{name}: out= would overwrite an array behind the graph's back; bind the result to a name")
    if numpys not in table:
        raise TypeError(
            f"{name}: not differentiable on tensors; use cupynn's functions, or t.numpy() for values without gradient"
        )
    try:
        return table[numpys](*args, **options)
    except TypeError as error:
        raise TypeError(f"{name}: on a tensor: {error}") from error
