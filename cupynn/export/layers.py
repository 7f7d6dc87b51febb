"""The functions of `cupynn.ops` as ONNX operators, but for the papers' own."""

from __future__ import annotations

import numpy as np

from cupynn.export.elementary import reduced
from cupynn.export.graph import Graph, Operand
from cupynn.kernels.pool_windows import Tables, adaptive_tables, tables, windows
from cupynn.ops.activations import ELU, Hardsigmoid, Hardswish, LeakyReLU, ReLU, ReLU6, Sigmoid
from cupynn.ops.batch_norm import BatchNormEvaluation
from cupynn.ops.conv import Conv2d, ConvTranspose2d
from cupynn.ops.depthwise import DepthwiseConv2d
from cupynn.ops.learned_activations import AdaptivePiecewiseLinear, PReLU
from cupynn.ops.linear import Linear
from cupynn.ops.pooling import AdaptiveAveragePool2d, AdaptiveMaxPool2d, AveragePool2d, MaxPool2d
from cupynn.ops.softmax import LogSoftmax, Softmax
from cupynn.ops.upsample import Resize


def activation(graph: Graph, x: Operand | str) -> str:
    name, parameter = graph.function.kernel, float(graph.function.parameter)
    if name == "relu6":
        return relu6(graph, x)
    operator, attribute = {
        "relu": ("Relu", None),
        "leaky_relu": ("LeakyRelu", "alpha"),
        "elu": ("Elu", "alpha"),
        "sigmoid": ("Sigmoid", None),
        "hardswish": ("HardSwish", None),
        "hardsigmoid": ("HardSigmoid", None),
    }[name]
    options = {"alpha": 1 / 6, "beta": 0.5} if name == "hardsigmoid" else {attribute: parameter} if attribute else {}
    return graph.node(operator, x, **options)


def relu6(graph: Graph, x: Operand | str) -> str:
    return graph.node("Clip", x, np.float32(0), np.float32(6))


def prelu(graph: Graph, x: Operand, weight: Operand) -> str:
    slope = graph.fixed(weight).reshape(_per_channel(x))
    return graph.node("PRelu", x, graph.constant(slope, name=graph.state_name(weight.array, "weight")))


def _per_channel(x: Operand) -> tuple[int, ...]:
    """The shape in which (C,) values stand beside (N, C, ...)."""
    return (-1, *(1,) * (x.ndim - 2))


def piecewise_linear(graph: Graph, x: Operand, a: Operand, b: Operand) -> str:
    terms = [graph.node("Relu", x)]
    names = [graph.state_name(array.array, name) for array, name in ((a, "a"), (b, "b"))]
    for number, pair in enumerate(zip(graph.fixed(a), graph.fixed(b), strict=True)):
        slope, hinge = (
            graph.constant(values.reshape(_per_channel(x)), name=f"{name}.{number}")
            for values, name in zip(pair, names, strict=True)
        )
        terms.append(graph.node("Mul", graph.node("Relu", graph.node("Sub", hinge, x)), slope))
    return graph.node("Sum", *terms)


def convolution(graph: Graph, x: Operand, w: Operand, bias: Operand | None) -> str:
    return graph.node("Conv", x, w, bias, **geometry(graph.function), group=graph.function.groups)


def geometry(function) -> dict[str, tuple[int, ...]]:
    return {"strides": function.stride, "pads": function.padding * 2, "dilations": function.dilation}


def depthwise_convolution(graph: Graph, x: Operand, w: Operand, bias: Operand | None) -> str:
    channels, multiplier, *size = w.shape
    weight = graph.fixed(w).reshape(channels * multiplier, 1, *size)
    name = graph.constant(weight, name=graph.state_name(w.array, "weight"))
    return graph.node("Conv", x, name, bias, **geometry(graph.function), group=channels)


def transposed_convolution(graph: Graph, x: Operand, w: Operand, bias: Operand | None) -> str:
    function = graph.function
    axes = zip(function.output_shape[2:], x.shape[2:], w.shape[2:], function.stride, function.padding, strict=True)
    extra = tuple(
        length - ((old - 1) * stride - 2 * padding + dilation * (taps - 1) + 1)
        for (length, old, taps, stride, padding), dilation in zip(axes, function.dilation, strict=True)
    )
    options = {**geometry(function), "output_padding": extra, "group": function.groups}
    return graph.node("ConvTranspose", x, w, bias, **options)


def fully_connected(graph: Graph, x: Operand, w: Operand, bias: Operand | None) -> str:
    if x.ndim == 2:
        return graph.node("Gemm", x, w, bias, transB=1)
    product = graph.node("MatMul", x, graph.node("Transpose", w, perm=(1, 0)))
    return product if bias is None else graph.node("Add", product, bias)


def normalisation(
    graph: Graph, x: Operand, weight: Operand | None, bias: Operand | None, residual: Operand | None = None
) -> str:
    function = graph.function
    statistics = function.running_mean, function.running_var
    y = normalised(graph, x, weight, bias, statistics, function.eps)
    if residual is not None:
        y = graph.node("Add", y, residual)
    if function.relu:
        y = graph.node("Relu", y) if function.relu is True else relu6(graph, y)
    return y


def normalised(graph: Graph, x: Operand | str, weight: Operand | None, bias: Operand | None, statistics, eps) -> str:
    mean, variance = (Operand(array, array) for array in statistics)
    scale = weight if weight is not None else np.ones(mean.shape, np.float32)
    shift = bias if bias is not None else np.zeros(mean.shape, np.float32)
    return graph.node("BatchNormalization", x, scale, shift, mean, variance, epsilon=float(eps))


def max_pooling(graph: Graph, x: Operand) -> str:
    window = graph.function.window
    w = windows("max_pool2d", x.shape[2:], **window)
    options = {"kernel_shape": w.kernel, "strides": w.stride, "pads": _pads(w, x.shape[2:]), "dilations": w.dilation}
    return graph.node("MaxPool", x, **options)


def _pads(w, plane: tuple[int, int]) -> tuple[int, ...]:
    """Rows and columns before the image, and those behind it that the last windows reach: as many in ceil mode as they
    need, since ONNX leaves the windows at the border to the runtime."""
    sizes = zip(w.output, w.stride, w.dilation, w.kernel, plane, w.padding, strict=True)
    reach = ((count - 1) * s + d * (k - 1) + 1 - size - p for count, s, d, k, size, p in sizes)
    return *w.padding, *(max(0, pixels) for pixels in reach)


def average_pooling(graph: Graph, x: Operand) -> str:
    window = dict(graph.function.window)
    counts_padding = window.pop("count_include_pad")
    plane = x.shape[2:]
    w = windows("avg_pool2d", plane, **window)
    if all(end <= start for end, start in zip(_pads(w, plane)[2:], w.padding, strict=True)):
        options = {"kernel_shape": w.kernel, "strides": w.stride, "pads": w.padding * 2}
        return graph.node("AveragePool", x, **options, count_include_pad=int(counts_padding))
    return _averages(graph, x, tables(w, *plane, counts_padding))  # windows that reach beyond the padding


def adaptive_average(graph: Graph, x: Operand) -> str:
    plane, output = x.shape[2:], graph.output.shape[2:]
    if output == (1, 1):
        return graph.node("GlobalAveragePool", x)
    if not any(size % cells for size, cells in zip(plane, output, strict=True)):
        cell = tuple(size // cells for size, cells in zip(plane, output, strict=True))
        return graph.node("AveragePool", x, kernel_shape=cell, strides=cell)
    return _averages(graph, x, adaptive_tables(*plane, *output))


def _averages(graph: Graph, x: Operand, found: Tables) -> str:
    """Means over windows of any size, as two matrix products."""
    matrices = []
    for table, size in zip((found.row_windows, found.column_windows), x.shape[2:], strict=True):
        first, end, count = table[:, :, None].swapaxes(0, 1)
        pixels = np.arange(size)
        matrices.append(((first <= pixels) & (pixels < end)) / count)
    return _products(graph, x, *matrices)


def _products(graph: Graph, x: Operand, rows: np.ndarray, columns: np.ndarray) -> str:
    """rows @ x @ columns^T for every plane of x."""
    left = graph.constant(rows.astype(np.float32), "rows")
    right = graph.constant(columns.T.astype(np.float32), "columns")
    return graph.node("MatMul", graph.node("MatMul", left, x), right)


def adaptive_maximum(graph: Graph, x: Operand) -> str:
    plane, output = x.shape[2:], graph.output.shape[2:]
    if output == (1, 1):
        return graph.node("GlobalMaxPool", x)
    found, y = adaptive_tables(*plane, *output), x
    for axis, table in ((2, found.row_windows), (3, found.column_windows)):
        pieces = []
        for first, end, _ in table.tolist():
            bounds = (np.array([number], np.int64) for number in (first, end, axis))
            pieces.append(reduced(graph, "ReduceMax", graph.node("Slice", y, *bounds), axis, True))
        y = graph.node("Concat", *pieces, axis=axis)
    return y


def resizing(graph: Graph, x: Operand) -> str:
    """By the function's own tables: ONNX's Resize computes places from a rounded scale."""
    axes = graph.function.tables
    if all(indices.shape[1] == 1 for indices, _ in axes):  # the nearest pixel
        for axis, (indices, _) in zip((2, 3), axes, strict=True):
            x = graph.node("Gather", x, indices[:, 0].astype(np.int64), axis=axis)
        return x
    matrices = []
    for (indices, weights), size in zip(axes, x.shape[2:], strict=True):
        matrix = np.zeros((len(indices), size))
        np.add.at(matrix, (np.arange(len(indices))[:, None], indices), weights)
        matrices.append(matrix)
    return _products(graph, x, *matrices)


TABLE = {
    **dict.fromkeys((ReLU, ReLU6, LeakyReLU, ELU, Sigmoid, Hardswish, Hardsigmoid), activation),
    PReLU: prelu,
    AdaptivePiecewiseLinear: piecewise_linear,
    Conv2d: convolution,
    ConvTranspose2d: transposed_convolution,
    DepthwiseConv2d: depthwise_convolution,
    Linear: fully_connected,
    BatchNormEvaluation: normalisation,
    MaxPool2d: max_pooling,
    AveragePool2d: average_pooling,
    AdaptiveAveragePool2d: adaptive_average,
    AdaptiveMaxPool2d: adaptive_maximum,
    Resize: resizing,
    Softmax: lambda graph, x: graph.node("Softmax", x, axis=graph.function.axis),
    LogSoftmax: lambda graph, x: graph.node("LogSoftmax", x, axis=graph.function.axis),
}
