"""The tensor: an array that remembers how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cupynn import device
from cupynn.autograd.notebook import tensor_markup
from cupynn.device import Array, to_numpy, xp_of


class Tensor:
    """An array with a gradient.

    Attributes:
        data: the NumPy or CuPy array.
        grad: the gradient that `backward` added up, an array of the same shape and dtype, or None.
        requires_grad: whether operations on it are recorded. Floating-point tensors only.
        record: the record of the call that made it; None for a leaf, a tensor that no recorded call made.

    `Tensor(array)` shares the array's memory; `tensor(data)` copies.
    """

    __slots__ = ("__weakref__", "_position", "_requires_grad", "data", "grad", "record")

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        if not isinstance(data, np.ndarray):
            if isinstance(data, np.generic):
                data = np.asarray(data)
            elif xp_of(data) is np:
                raise TypeError(f"Tensor: data must be an array, got {type(data).__name__}; use tensor(data)")
        self.data = data
        self.grad: Array | None = None
        self.record: Any = None
        self._position = 0  # which of the record's outputs this is
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and not device.is_floating(self.data.dtype):
            raise TypeError(f"requires_grad: only floating-point tensors have gradients; this one is {self.data.dtype}")
        if not value and self.record is not None:
            raise RuntimeError("requires_grad: this tensor is the result of a recorded call; use detach()")
        self._requires_grad = bool(value)

    # What the array knows.

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def T(self) -> Tensor:
        return F.transpose(self)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __repr__(self) -> str:
        values = np.array2string(to_numpy(self.data), separator=", ", prefix="tensor(")
        made_by = f", record={self.record.name}" if self.record is not None else ""
        grad = ", requires_grad=True" if self._requires_grad and not made_by else made_by
        return f"tensor({values}, dtype={self.dtype}{grad})"

    def _repr_html_(self) -> str:
        return tensor_markup(self)

    # Leaving the graph.

    def item(self) -> float | int | bool:
        """The only element, as a Python number."""
        return self.data.item()

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array, outside the graph: shared with the tensor on the CPU, copied from a GPU."""
        return to_numpy(self.data)

    def detach(self) -> Tensor:
        """The same array as a leaf that does not require grad."""
        return Tensor(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._requires_grad:
            raise TypeError(
                "asarray: this tensor requires grad, and an array would lose its gradient; "
                "use t.numpy() for the values, or cupynn's own functions to stay differentiable"
            )
        return np.array(self.data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        """The array itself for another library, which then shares its memory: NumPy, CuPy, PyTorch and others have
        `from_dlpack`, which calls this.

        Raises BufferError where the tensor requires grad, and for an axis that runs backwards: PyTorch 2.13 ends the
        whole process over it.
        """
        if self._requires_grad:
            raise BufferError(
                "__dlpack__: this tensor requires grad, and another library's results would have no gradient; "
                "hand over t.detach() or t.data"
            )
        if min(self.data.strides, default=0) < 0:
            raise BufferError("__dlpack__: an axis of this tensor runs backwards in memory; hand over t.data.copy()")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return protocols.apply_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: tuple, options: dict) -> Any:
        return protocols.apply_function(function, args, options)

    def backward(
        self,
        grad: Array | Tensor | None = None,
        retain_graph: bool = False,
        ready: Callable[[Tensor], None] | None = None,
    ) -> None:
        """Add d<self, grad>/d(leaf) to `.grad` of every leaf that requires grad.

        `grad` has this tensor's shape; a tensor of one element needs none (1). What the records saved is freed,
        so that a second backward through them raises RuntimeError, unless `retain_graph`. Arrays that were written to
        since the forward pass, parameters by an optimiser's step for one, give the gradient at their new values.

        ready: called, while backward still runs, with every leaf that the graph reads once its gradient is complete;
            `grad` is None for one that none arrived at.
        """
        if not self._requires_grad:
            raise RuntimeError(
                "backward: this tensor does not require grad; nothing it was made from does, or no_grad()"
            )
        xp = xp_of(self.data)
        if grad is None:
            if self.size != 1:
                raise ValueError(f"backward: a tensor of shape {self.shape} needs grad, an array of that shape")
            grad = xp.ones(self.shape, self.dtype)
        else:
            grad = xp.asarray(grad.data if isinstance(grad, Tensor) else grad, dtype=self.dtype)
            if grad.shape != self.shape:
                raise ValueError(f"backward: grad has shape {grad.shape}; the tensor has shape {self.shape}")
        run_backward([(self, grad)], retain_graph, ready)

    # Operators. `t += x` binds the name anew, since there is no __iadd__: an array in the graph is never overwritten.

    def __add__(self, other: Any) -> Tensor:
        return F.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return F.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return F.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return F.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return F.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return F.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return F.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return F.divide(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return F.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return F.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return F.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return F.matmul(other, self)

    def __neg__(self) -> Tensor:
        return F.negative(self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return F.abs(self)

    def __getitem__(self, index: Any) -> Tensor:
        return F.getitem(self, index)

    # Comparisons have no gradient: they give plain arrays.

    def __eq__(self, other: Any) -> Array:  # type: ignore[override]
        return self.data == _plain(other)

    def __ne__(self, other: Any) -> Array:  # type: ignore[override]
        return self.data != _plain(other)

    def __lt__(self, other: Any) -> Array:
        return self.data < _plain(other)

    def __le__(self, other: Any) -> Array:
        return self.data <= _plain(other)

    def __gt__(self, other: Any) -> Array:
        return self.data > _plain(other)

    def __ge__(self, other: Any) -> Array:
        return self.data >= _plain(other)

    __hash__ = object.__hash__  # by identity: tensors are keys of optimisers' state

    # Methods, with NumPy's names and arguments.

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return F.sum(self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return F.mean(self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return F.max(self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return F.min(self, axis, keepdims)

    def var(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        return F.var(self, axis, ddof, keepdims)

    def argmax(self, axis: int | None = None) -> Array:
        """Where the largest element is: a plain array, without gradient."""
        return xp_of(self.data).asarray(self.data.argmax(axis))

    def reshape(self, *shape: Any) -> Tensor:
        return F.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        if len(axes) == 1 and not isinstance(axes[0], int):
            axes = axes[0]
        return F.transpose(self, axes or None)

    def permute(self, *axes: Any) -> Tensor:
        return self.transpose(*axes)

    def flatten(self, start_axis: int = 0) -> Tensor:
        """All axes from `start_axis` on made one: `(N, C, H, W).flatten(1)` is `(N, C*H*W)`."""
        return F.flatten(self, start_axis)

    def squeeze(self, axis: Any = None) -> Tensor:
        return F.squeeze(self, axis)

    def astype(self, dtype: Any) -> Tensor:
        return F.astype(self, dtype)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return F.clip(self, min, max)


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, Tensor) else value


def tensor(data: Any, requires_grad: bool = False, dtype: Any = None) -> Tensor:
    """A new leaf with a copy of `data`, on the default device.

    An array keeps its dtype; Python numbers and nested lists of them become float32. `dtype` overrides both.
    """
    if isinstance(data, Tensor):
        data = data.data
    if dtype is None:
        first = data
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        if isinstance(first, (int, float, list, tuple)) and not isinstance(first, (bool, np.generic)):
            dtype = np.float32
    xp = device.default_xp()
    array = xp.array(to_numpy(data) if xp is np else data, dtype=dtype, order="C")
    if array.dtype.kind not in "fiub" and not device.is_floating(array.dtype):
        raise TypeError(f"tensor: data must be numbers, got {type(data).__name__} of dtype {array.dtype}")
    return Tensor(array, requires_grad)


# Functions make tensors, and a tensor's operators call functions: the class has to be there first.
from cupynn.autograd import functions as F  # noqa: E402
from cupynn.autograd import protocols  # noqa: E402
from cupynn.autograd.backward import run_backward  # noqa: E402
