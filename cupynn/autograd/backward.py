"""Walk the tape backwards: every record's gradient, from the last call to the first, without recursion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from cupynn import recording
from cupynn.autograd.function import Function, Record
from cupynn.autograd.tensor import Tensor
from cupynn.device import Array, is_floating, xp_of


def records_behind(tensors: list[Tensor]) -> list[Record]:
    """The records that led to `tensors`, the latest first."""
    waiting = [tensor.record for tensor in tensors if tensor.record is not None]
    seen = set(waiting)
    while waiting:
        for source in waiting.pop().inputs:
            if source is not None and type(source[0]) is Record and source[0] not in seen:
                seen.add(source[0])
                waiting.append(source[0])
    return sorted(seen, key=lambda record: record.sequence, reverse=True)


def run_backward(
    roots: list[tuple[Tensor, Array]], retain_graph: bool, ready: Callable[[Tensor], None] | None = None
) -> None:
    """Add to every leaf's `grad` the gradient of sum over roots of <root, its upstream gradient>.

    Every record lies after those it depends on, so one pass from the highest sequence number down meets
    each record when its gradient is complete. `ready` is called with each leaf among the records' inputs as soon as
    nothing more can arrive there.
    """
    if (now := recording.current()) is not None:
        now.backward = True
    records = records_behind([tensor for tensor, _ in roots])
    for record in records:
        if record.function is None:
            raise RuntimeError(
                f"backward: what {record.name} saved was freed by an earlier backward; "
                "call that one with retain_graph=True to go through the same graph twice"
            )
    arrived: dict[Record, list] = {}
    for tensor, grad in roots:
        source = tensor if tensor.record is None else tensor.record
        _deliver(source, tensor._position, grad, False, arrived)
    reads = Counter(leaf for record in records for leaf in _leaves(record)) if ready is not None else None

    for record in records:
        slots = arrived.pop(record, None)
        if slots is not None:  # None: every record after it returned no gradient for it
            _differentiate(record, slots, arrived)
        if reads is not None:
            for leaf in _leaves(record):
                reads[leaf] -= 1
                if not reads[leaf]:
                    ready(leaf)
        if not retain_graph:
            record.free()


def _leaves(record: Record) -> list[Tensor]:
    """The leaves among a record's inputs, one as often as it is there."""
    return [source[0] for source in record.inputs if source is not None and type(source[0]) is not Record]


def _differentiate(record: Record, slots: list, arrived: dict[Record, list]) -> None:
    """Run one record's backward and deliver what it returns."""
    function = record.function
    if len(slots) == 1:
        grads = [slots[0][0]]
    else:
        xp = xp_of(next(slot[0] for slot in slots if slot is not None))
        grads = [
            slot[0] if slot is not None else xp.zeros(shape, dtype) if is_floating(dtype) else None
            for slot, (shape, dtype) in zip(slots, record.outputs, strict=True)
        ]
    start = perf_counter()
    results = function.backward(*grads)
    record.backward_seconds = perf_counter() - start
    if not isinstance(results, (tuple, list)):
        results = (results,)
    if len(results) != len(record.inputs):
        raise ValueError(
            f"{record.name}.backward: returned {len(results)} gradients; the call had {len(record.inputs)} inputs"
        )
    for number, (result, source) in enumerate(zip(results, record.inputs, strict=True)):
        if source is None or result is None:
            continue
        origin, position, shape, dtype = source
        grad = _checked(result, shape, dtype, record, number)
        # A gradient that was cast is new; one that was not may be somebody else's array.
        owned = grad is not result or _is_new(grad, number, results, grads, function)
        _deliver(origin, position, grad, owned, arrived)


def _checked(grad: Any, shape: tuple, dtype: Any, record: Record, number: int) -> Array:
    """`grad` as an array of the input's shape and dtype."""
    if type(grad) is not np.ndarray:
        if isinstance(grad, Tensor):
            raise TypeError(f"{record.name}.backward: gradient {number} is a Tensor; backward works on arrays")
        if isinstance(grad, (np.generic, float, int)):
            grad = np.asarray(grad)
    if grad.shape != shape:
        raise ValueError(
            f"{record.name}.backward: gradient {number} has shape {grad.shape}; the input has shape {shape}"
        )
    return grad if grad.dtype == dtype else grad.astype(dtype)


def _is_new(grad: Array, number: int, results: Any, grads: list, function: Function) -> bool:
    """True where nobody else can hold the memory of `grad`: then it may be kept, and added to in place."""
    if grad.base is not None or not grad.flags.owndata:
        return False
    for i, other in enumerate(results):
        if i != number and other is not None and _overlap(grad, other):
            return False
    for kept in (grads, function.saved, vars(function).values()):
        for other in kept:
            if other is grad:
                return False
    return True


def _overlap(owner: Array, other: Array) -> bool:
    """Whether another result may lie in the memory that an array owns.

    `other.base` does not tell: a view made by NumPy's as_strided has some other object there, one of CuPy's has None.
    """
    if other is owner:
        return True
    if type(owner) is np.ndarray:
        return getattr(other, "base", None) is not None and np.may_share_memory(owner, other)
    return type(other) is type(owner) and xp_of(owner).may_share_memory(owner, other)


def _deliver(source: Tensor | Record, position: int, grad: Array, owned: bool, arrived: dict[Record, list]) -> None:
    """Add `grad` to what has arrived at a record's output or at a leaf."""
    if type(source) is Record:
        slots = arrived.get(source)
        if slots is None:
            slots = arrived[source] = [None] * len(source.outputs)
        before = slots[position]
        if before is None:
            slots[position] = (grad, owned)
        elif before[1]:
            before[0][...] += grad
        elif owned:
            grad[...] += before[0]
            slots[position] = (grad, True)
        else:
            xp = xp_of(grad)
            slots[position] = (xp.asarray(before[0] + grad), True)
    elif source.grad is not None:
        source.grad[...] += grad
    elif owned and grad.flags.c_contiguous:
        source.grad = grad
    else:
        source.grad = xp_of(grad).array(grad, order="C")
