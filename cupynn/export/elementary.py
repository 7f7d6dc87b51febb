"""The functions of `cupynn.autograd` as ONNX operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from cupynn.autograd.functions import (
    arithmetic,
    indexing,
    joining,
    products,
    reductions,
    selection,
    shaping,
)
from cupynn.export.graph import Graph, Operand


def same(operator: str) -> Callable:
    """An operator that takes the function's inputs as they are."""
    return lambda graph, *inputs: graph.node(operator, *inputs)


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def reduction(operator: str, graph: Graph, x: Operand) -> str:
    function = graph.function
    return reduced(graph, operator, x, function.axis, function.keepdims)


def reduced(graph: Graph, operator: str, x: Operand | str, axis, keepdims: bool) -> str:
    options = {"keepdims": int(keepdims)}
    axes = axis if axis is None or isinstance(axis, tuple) else (axis,)
    if operator == "ReduceSum":  # the first of them whose axes became an input
        return graph.node(operator, x, None if axes is None else integers(*axes), **options)
    return graph.node(operator, x, **options, **({} if axes is None else {"axes": axes}))


def variance(graph: Graph, x: Operand) -> str:
    axis, ddof = graph.function.axis, graph.function.ddof
    centred = graph.node("Sub", x, reduced(graph, "ReduceMean", x, axis, True))
    y = reduced(graph, "ReduceMean", graph.node("Mul", centred, centred), axis, graph.function.keepdims)
    if not ddof:
        return y
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    lengths = [x.shape[axis] for axis in axes]
    if None in lengths:
        graph.refuse(f"a variance over all images has no fixed number of them, which ddof={ddof} needs")
    count = math.prod(lengths)
    return graph.node("Mul", y, np.float32(count / (count - ddof)))


def reshape(graph: Graph, x: Operand) -> str:
    shape = graph.output.shape
    if shape == x.shape:
        return x.name
    if shape.count(None) > 1:
        graph.refuse(f"several lengths of its result, {shape}, depend on the number of images")
    return graph.node("Reshape", x, integers(*(-1 if length is None else length for length in shape)))


def transpose(graph: Graph, x: Operand) -> str:
    axes = graph.function.axes
    return graph.node("Transpose", x, perm=tuple(axes) if axes is not None else tuple(reversed(range(x.ndim))))


def broadcast_to(graph: Graph, x: Operand) -> str:
    shape, before = graph.output.shape, (1,) * (graph.output.ndim - x.ndim) + x.shape
    if any(new is None and old is not None for new, old in zip(shape, before, strict=True)):
        graph.refuse(f"it repeats an array to {shape}, as often as there are images")
    return graph.node("Expand", x, integers(*(1 if length is None else length for length in shape)))


def pad(graph: Graph, x: Operand) -> str:
    before, after = zip(*graph.function.widths, strict=True)
    return padded(graph, x, before, after, graph.function.value)


def padded(graph: Graph, x: Operand | str, before, after, value: float) -> str:
    return graph.node("Pad", x, integers(*before, *after), np.float32(value))


def concatenate(graph: Graph, *parts: Operand) -> str:
    axis = graph.function.axis % graph.output.ndim
    if not any(part.is_constant and part.shape[:1] == (None,) for part in parts):
        return graph.node("Concat", *parts, axis=axis)
    # Constants with a row for every image, which a graph cannot hold; of one number they are padding.
    computed = [number for number, part in enumerate(parts) if not part.is_constant]
    first, last = computed[0], computed[-1]
    ends = parts[:first] + parts[last + 1 :]
    values = {number for part in ends for number in np.unique(graph.fixed(part)).tolist()}
    if len(values) != 1 or any(part.is_constant for part in parts[first : last + 1]):
        graph.refuse("constants with a row for every image must stand at an end and be one number throughout")
    inside = parts[first].name if first == last else graph.node("Concat", *parts[first : last + 1], axis=axis)
    before, after = [0] * graph.output.ndim, [0] * graph.output.ndim
    before[axis] = sum(part.shape[axis] for part in parts[:first])
    after[axis] = sum(part.shape[axis] for part in parts[last + 1 :])
    return padded(graph, inside, before, after, values.pop())


def stack(graph: Graph, *parts: Operand) -> str:
    axis = graph.function.axis % graph.output.ndim
    return graph.node("Concat", *(graph.node("Unsqueeze", part, integers(axis)) for part in parts), axis=axis)


def getitem(graph: Graph, x: Operand) -> str:
    """Slices, numbers, new axes, and one array of integers."""
    index = graph.function.index
    index = index if isinstance(index, tuple) else (index,)
    arrays = [item for item in index if (hasattr(item, "dtype") and item.ndim) or isinstance(item, list)]
    if len(arrays) > 1 or any(np.asarray(array).dtype.kind not in "iu" or np.ndim(array) > 1 for array in arrays):
        graph.refuse("of arrays, an index may hold one, of integers and one axis")
    missing = x.ndim - sum(item is not None and item is not Ellipsis for item in index)
    if Ellipsis not in [item for item in index if not hasattr(item, "dtype")]:
        index = (*index, Ellipsis)
    starts, ends, axes, steps, picked, new = [], [], [], [], [], []
    axis = place = 0  # of x, and of what comes out
    for item in index:
        if item is None:
            new.append(place)
            place += 1
        elif item is Ellipsis:
            axis, place = axis + missing, place + missing
        elif isinstance(item, slice):
            if (item.start or 0, item.stop, item.step or 1) != (0, None, 1):
                if x.shape[axis] is None:
                    graph.refuse("it picks images out of the batch, which has no fixed length")
                start, end, step = item.indices(x.shape[axis])
                starts.append(start)
                ends.append(end if end >= 0 else -x.shape[axis] - 1)  # down to the first element
                steps.append(step)
                axes.append(axis)
            axis, place = axis + 1, place + 1
        else:
            if x.shape[axis] is None:
                graph.refuse("it picks images out of the batch, which has no fixed length")
            picked.append((axis, np.asarray(item, np.int64)))
            axis, place = axis + 1, place + np.ndim(item)
    if arrays and any(array.ndim == 0 for _, array in picked):
        graph.refuse("an index may hold an array or numbers, not both")
    y: Operand | str = x
    if axes:
        y = graph.node("Slice", y, integers(*starts), integers(*ends), integers(*axes), integers(*steps))
    for axis, array in reversed(picked):
        y = graph.node("Gather", y, array, axis=axis)
    if new:
        y = graph.node("Unsqueeze", y, integers(*new))
    return y if isinstance(y, str) else x.name


def clip(graph: Graph, x: Operand, low: Operand | None, high: Operand | None) -> str:
    if all(bound is None or bound.ndim == 0 for bound in (low, high)):
        return graph.node("Clip", x, low, high)
    y = graph.name(x) if low is None else graph.node("Max", x, low)
    return y if high is None else graph.node("Min", y, high)


def cast(graph: Graph, x: Operand) -> str:
    return graph.node("Cast", x, to=np.dtype(graph.function.dtype))


def einsum(graph: Graph, *operands: Operand) -> str:
    return graph.node("Einsum", *operands, equation=graph.function.subscripts)


TABLE = {
    arithmetic.Add: same("Add"),
    arithmetic.Subtract: same("Sub"),
    arithmetic.Multiply: same("Mul"),
    arithmetic.Divide: same("Div"),
    arithmetic.Power: same("Pow"),
    arithmetic.Negative: same("Neg"),
    arithmetic.Exp: same("Exp"),
    arithmetic.Log: same("Log"),
    arithmetic.Sqrt: same("Sqrt"),
    arithmetic.Abs: same("Abs"),
    arithmetic.Sin: same("Sin"),
    arithmetic.Cos: same("Cos"),
    arithmetic.Tanh: same("Tanh"),
    selection.Maximum: same("Max"),
    selection.Minimum: same("Min"),
    selection.Where: same("Where"),
    selection.Clip: clip,
    products.MatMul: same("MatMul"),
    products.Einsum: einsum,
    reductions.Sum: partial(reduction, "ReduceSum"),
    reductions.Mean: partial(reduction, "ReduceMean"),
    reductions.Max: partial(reduction, "ReduceMax"),
    reductions.Min: partial(reduction, "ReduceMin"),
    reductions.Var: variance,
    shaping.Reshape: reshape,
    shaping.Transpose: transpose,
    shaping.BroadcastTo: broadcast_to,
    shaping.Pad: pad,
    shaping.AsType: cast,
    joining.Concatenate: concatenate,
    joining.Stack: stack,
    indexing.GetItem: getitem,
}
