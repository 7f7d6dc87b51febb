"""x[index]: integers, slices, new axes, integer arrays, boolean masks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from cupynn.autograd.function import Function
from cupynn.autograd.tensor import Tensor
from cupynn.device import xp_of


class GetItem(Function):
    """y = x[index]; an element picked several times gets the sum of its gradients"""

    def forward(self, x):
        y = x[self.index]
        if self.needs_grad[0]:
            self.index = _kept(self.index)
        return y

    def backward(self, grad):
        xp = xp_of(grad)
        x_grad = xp.zeros(self.input_shapes[0], grad.dtype)
        if _may_repeat(self.index):
            xp.add.at(x_grad, self.index, grad)
        else:
            x_grad[self.index] = grad
        return x_grad


def _may_repeat(index: Any) -> bool:
    """True where one element can be picked twice: with arrays or lists of integers. Masks pick once."""
    for item in index if isinstance(index, tuple) else (index,):
        if isinstance(item, list):
            item = np.asarray(item)
        if getattr(item, "ndim", 0) > 0 and item.dtype.kind != "b":
            return True
    return False


def _kept(index: Any) -> Any:
    """The index as it is now, whatever its owner writes to it before backward."""
    if isinstance(index, tuple):
        return tuple([_kept(item) for item in index])
    return copy.deepcopy(index) if isinstance(index, list) or hasattr(index, "dtype") else index


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index], with NumPy's rules. The index may hold tensors of integers or booleans; it has no gradient."""
    if isinstance(index, tuple):
        index = tuple([item.data if isinstance(item, Tensor) else item for item in index])
    elif isinstance(index, Tensor):
        index = index.data
    return GetItem(index=index)(x)
