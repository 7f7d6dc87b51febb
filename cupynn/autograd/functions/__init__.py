"""Elementary differentiable functions, under NumPy's names. They take tensors, arrays and Python numbers."""

from cupynn.autograd.functions.arithmetic import (
    abs,
    add,
    cos,
    divide,
    exp,
    log,
    multiply,
    negative,
    power,
    sin,
    sqrt,
    square,
    subtract,
    tanh,
    unbroadcast,
)
from cupynn.autograd.functions.indexing import getitem
from cupynn.autograd.functions.joining import concatenate, stack
from cupynn.autograd.functions.products import einsum, matmul
from cupynn.autograd.functions.reductions import max, mean, min, sum, var
from cupynn.autograd.functions.selection import clip, maximum, minimum, where
from cupynn.autograd.functions.shaping import (
    astype,
    broadcast_to,
    expand_dims,
    flatten,
    pad,
    reshape,
    squeeze,
    transpose,
)

__all__ = [
    "abs",
    "add",
    "astype",
    "broadcast_to",
    "clip",
    "concatenate",
    "cos",
    "divide",
    "einsum",
    "exp",
    "expand_dims",
    "flatten",
    "getitem",
    "log",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "pad",
    "power",
    "reshape",
    "sin",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "subtract",
    "sum",
    "tanh",
    "transpose",
    "unbroadcast",
    "var",
    "where",
]
