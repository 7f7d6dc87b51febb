"""The papers' functions, for which ONNX has no operator, as several: WHE, cross-layer convolution, SeqConv."""

from __future__ import annotations

import numpy as np

from cupynn.export.elementary import integers
from cupynn.export.graph import Graph, Operand
from cupynn.export.layers import normalised
from cupynn.kernels.whe import SLOPE
from cupynn.ops.cross_layer import CrossLayerDepthwise
from cupynn.ops.seq_conv import SeqConv
from cupynn.ops.whe import WHE

HIDDEN = {"relu": ("Relu", {}), "leaky_relu": ("LeakyRelu", {"alpha": SLOPE}), "elu": ("Elu", {}), "tanh": ("Tanh", {})}


def hidden_expansion(graph: Graph, x: Operand, a: Operand, b: Operand, c: Operand, d: Operand) -> str:
    """Two 1x1 convolutions: C/g groups of g channels to g*g hidden ones, f, C groups of g hidden ones to a channel.

    The first has the weight a[i, j] (k = i) + b[i, j] (k = j) from channel k to hidden unit (i, j), and c for its bias;
    the second has d.
    """
    groups, g, _ = a.shape
    own = np.eye(g, dtype=np.float32)
    weight = graph.fixed(a)[..., None] * own[:, None] + graph.fixed(b)[..., None] * own
    name = graph.state_name(a.array, "a").removesuffix("a")
    weight = graph.constant(weight.reshape(groups * g * g, g, 1, 1), name=f"{name}ab")
    bias = graph.constant(graph.fixed(c).reshape(-1), name=graph.state_name(c.array, "c"))
    y = graph.node("Conv", x, weight, bias, kernel_shape=(1, 1), group=groups)
    if graph.function.activation != "identity":
        operator, options = HIDDEN[graph.function.activation]
        y = graph.node(operator, y, **options)
    weight = graph.constant(graph.fixed(d).reshape(groups * g, g, 1, 1), name=graph.state_name(d.array, "d"))
    return graph.node("Conv", y, weight, kernel_shape=(1, 1), group=groups * g)


def cross_layer_sum(graph: Graph, weight: Operand, bias: Operand | None, *inputs: Operand) -> str:
    """The sum of scale[l] * inputs[l] and, where there is a bias or there are means, of one shift for each channel."""
    function = graph.function
    scale = graph.fixed(weight).astype(np.float64)
    if function.inv_std is not None:
        scale = scale * function.inv_std
    shift = np.zeros(scale.shape[1])
    if bias is not None:
        shift += graph.fixed(bias).reshape(-1, scale.shape[1]).astype(np.float64).sum(axis=0)
    if function.mean is not None:
        shift -= (scale * function.mean).sum(axis=0)

    def constant(values: np.ndarray, name: str) -> str:
        return graph.constant(values.astype(np.float32).reshape(-1, 1, 1), name)

    terms = [graph.node("Mul", x, constant(scale[n], f"scale.{n}")) for n, x in enumerate(inputs)]
    return graph.node("Sum", *terms, *([constant(shift, "shift")] if shift.any() else []))


def sequential_convolution(graph: Graph, x: Operand, shortcut: Operand | None, *parameters: Operand) -> tuple[str, str]:
    """Group after group: its convolutions of its view; the view of the next one is that and what it gave, less the
    oldest channels where windows move."""
    function = graph.function
    k, count = function.k, len(function.running)
    learned = np.array(parameters, dtype=object).reshape(count, -1, 3)  # of group, stage: weight, scale, shift
    given = [None] * count
    if shortcut is not None:
        given = graph.node("Split", shortcut, integers(*[k] * count), axis=1, outputs=count)
        given = [given] if count == 1 else given
    view, raws, acts = graph.name(x), [], []
    for j, (stages, statistics) in enumerate(zip(learned, function.running, strict=True)):
        y = view
        for number, ((weight, scale, shift), running) in enumerate(zip(stages, statistics, strict=True)):
            last = number == len(stages) - 1
            taps = weight.shape[2]
            options = {"pads": (taps // 2,) * 4, "group": function.subgroups if number else 1}
            y = graph.node("Conv", y, weight, **options)
            if last:
                y = y if given[j] is None else graph.node("Add", y, given[j])
                raws.append(y)
            y = graph.node("Relu", normalised(graph, y, scale, shift, running, function.eps))
        acts.append(y)
        if j + 1 < count:
            if function.windowed:
                end = integers(np.iinfo(np.int64).max)
                view = graph.node("Slice", view, integers(k), end, integers(1))
            view = graph.node("Concat", view, y, axis=1)
    return graph.node("Concat", *raws, axis=1), graph.node("Concat", *acts, axis=1)


TABLE = {
    WHE: hidden_expansion,
    CrossLayerDepthwise: cross_layer_sum,
    SeqConv: sequential_convolution,
}
