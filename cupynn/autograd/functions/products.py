"""Matrix products and einsum. What is float16 or bfloat16 is multiplied and added up in float32."""

from __future__ import annotations

import math
from typing import Any

from cupynn.autograd.function import Function
from cupynn.autograd.functions.arithmetic import unbroadcast
from cupynn.autograd.tensor import Tensor
from cupynn.device import Array, wide, xp_of
from cupynn.kernels import runtime


class MatMul(Function):
    """y = a b over the last two axes, the axes before them broadcast;  da = dy b^T,  db = a^T dy

    A vector is a row on the left and a column on the right, and its axis of length 1 is left out of y.
    """

    def forward(self, a, b):
        a_needs, b_needs = self.needs_grad
        self.ndims = a.ndim, b.ndim
        self.save(a if b_needs else None, b if a_needs else None)
        return _narrowed(runtime.matmul(wide(a), wide(b)), a, b)

    def backward(self, grad):
        a, b, grad = *map(_wide, self.saved), wide(grad)
        a_shape, b_shape = self.input_shapes
        a_ndim, b_ndim = self.ndims
        if b_ndim == 1:
            grad = grad[..., None]
        if a_ndim == 1:
            grad = grad[..., None, :]
        a_grad = b_grad = None
        if a_shape is not None:
            columns = b[:, None] if b_ndim == 1 else b
            full = runtime.matmul(grad, columns.swapaxes(-1, -2))
            a_grad = unbroadcast(full, (1, *a_shape) if a_ndim == 1 else a_shape).reshape(a_shape)
        if b_shape is not None:
            rows = a[None, :] if a_ndim == 1 else a
            if b_ndim <= 2 and rows.ndim > 2:  # one product in place of a batch of them and a sum
                full = runtime.matmul(_one_matrix(rows).T, _one_matrix(grad))
            else:
                full = runtime.matmul(rows.swapaxes(-1, -2), grad)
            b_grad = unbroadcast(full, (*b_shape, 1) if b_ndim == 1 else b_shape).reshape(b_shape)
        return a_grad, b_grad


def _one_matrix(stack: Array) -> Array:
    """A stack of matrices as one, row under row."""
    return stack.reshape(math.prod(stack.shape[:-1]), stack.shape[-1])


class Einsum(Function):
    """y[output] = sum over the other labels of the product of the operands

    The gradient of an operand is the einsum of the incoming gradient and the other operands to that operand's labels.
    """

    def forward(self, *operands):
        self.save(*operands)
        y = xp_of(operands[0]).einsum(self.subscripts, *map(wide, operands), optimize=True)
        return _narrowed(y, *operands)

    def backward(self, grad):
        return tuple(
            [None if shape is None else self._operand_grad(grad, i, shape) for i, shape in enumerate(self.input_shapes)]
        )

    def _operand_grad(self, grad: Array, number: int, shape: tuple[int, ...]) -> Array:
        labels = self.labels[number]
        sources = [self.output, *self.labels[:number], *self.labels[number + 1 :]]
        arrays = [wide(array) for array in (grad, *self.saved[:number], *self.saved[number + 1 :])]
        known = set("".join(sources))
        present = [label for label in labels if label in known]
        xp = xp_of(grad)
        result = xp.einsum(f"{','.join(sources)}->{''.join(present)}", *arrays, optimize=True)
        # A label that stands in this operand alone was summed away: the gradient is the same along it.
        lengths = iter(result.shape)
        result = result.reshape([next(lengths) if label in known else 1 for label in labels])
        # A length of 1 beside a longer axis of the same label was repeated.
        return xp.broadcast_to(unbroadcast(result, _smaller(result.shape, shape)), shape)


def _wide(array: Array | None) -> Array | None:
    return None if array is None else wide(array)


def _narrowed(y: Array, *operands: Array) -> Array:
    """y in the dtype of its operands where that has 16 bits, and they all have it."""
    dtypes = {operand.dtype for operand in operands}
    return y.astype(dtypes.pop(), copy=False) if len(dtypes) == 1 else y


def _smaller(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([1 if 1 in (m, n) else m for m, n in zip(a, b, strict=True)])


def matmul(a: Any, b: Any) -> Tensor:
    """The matrix product, NumPy's rules: stacks of matrices broadcast, vectors are rows or columns."""
    return MatMul()(a, b)


def einsum(subscripts: str, *operands: Any) -> Tensor:
    """Einstein's summation, `einsum("nchw,oc->nohw", x, w)`; explicit, or implicit without `->`; `...` is understood.

    Raises ValueError for a label repeated within one operand (a diagonal), or subscripts that do not fit the operands.
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: the first argument is the subscripts, a string; got {type(subscripts).__name__}")
    labels, output = _parse(subscripts, [operand.ndim for operand in operands])
    return Einsum(subscripts=f"{','.join(labels)}->{output}", labels=labels, output=output)(*operands)


def _parse(subscripts: str, ndims: list[int]) -> tuple[list[str], str]:
    """Labels of each operand and of the output, with `...` replaced by labels of its own."""
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f'einsum: "{subscripts}" names {len(terms)} operands; got {len(ndims)}')
    unused = [letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBAzyxwvutsrqponmlkjihgfedcba" if letter not in subscripts]
    hidden = [ndim - len(term.replace("...", "")) for term, ndim in zip(terms, ndims, strict=True) if "..." in term]
    ellipsis = "".join(unused[: max(hidden, default=0)])
    labels = []
    for number, (term, ndim) in enumerate(zip(terms, ndims, strict=True)):
        named = term.replace("...", "", 1)
        length = ndim - len(named) if "..." in term else 0
        if (named and not named.isalpha()) or length < 0 or len(named) + length != ndim:
            raise ValueError(f'einsum: "{term}" of "{subscripts}" does not fit operand {number}, which has {ndim} axes')
        if len(set(named)) < len(named):
            raise ValueError(f'einsum: "{term}" of "{subscripts}" repeats a label: diagonals are not supported')
        labels.append(term.replace("...", ellipsis[len(ellipsis) - length :]))
    if not arrow:
        every = left.replace("...", "").replace(",", "")
        return labels, ellipsis + "".join(sorted(label for label in set(every) if every.count(label) == 1))
    output = output.replace("...", ellipsis)
    if len(set(output)) < len(output) or not set(output) <= set("".join(labels)):
        raise ValueError(f'einsum: the output of "{subscripts}" repeats a label or has one that no operand has')
    return labels, output
