"""Parameters and operations of a network, in all and layer by layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cupynn.autograd import Tensor, no_grad
from cupynn.device import xp_of
from cupynn.kernels import conv
from cupynn.kernels.batch_norm import Relu
from cupynn.nn import (
    WHE,
    BatchNorm2d,
    Conv2d,
    CrossLayerDepthwise,
    DOConv2d,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    ReLU6,
    SeqConv2d,
)
from cupynn.nn.evaluation import evaluation_mode
from cupynn.reparam.expansion import layer_by_layer


@dataclass(frozen=True)
class Count:
    """What one image costs, as numbers of operations.

    parameters: learned numbers.
    convolution, linear, whe, cross_layer: multiply-accumulates of layers of that kind; WHE has 3 g C H W.
    bias: 1 for each element that a convolution adds a bias to; linear_bias: the same of linear layers.
    batch_norm: 2 for each element that batch norm scales.
    relu: 1 for each element that a module `ReLU` or `ReLU6` sees.
    pooling: the window's size for each element that max pooling gives.
    """

    parameters: int = 0
    convolution: int = 0
    linear: int = 0
    whe: int = 0
    cross_layer: int = 0
    bias: int = 0
    linear_bias: int = 0
    batch_norm: int = 0
    relu: int = 0
    pooling: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers."""
        return self.convolution + self.linear + self.whe + self.cross_layer

    @property
    def operations(self) -> int:
        """`macs`, `bias` and `batch_norm`: what ExpandNets prints for three convolutions (Table S10)."""
        return self.macs + self.bias + self.batch_norm

    @property
    def all_operations(self) -> int:
        """`operations`, `relu` and `pooling`: what ExpandNets prints for four convolutions (Table 6)."""
        return self.operations + self.relu + self.pooling


@dataclass(frozen=True)
class LayerCount:
    """One call of one layer: its name in the model, its type, the shape (C, H, W) or (C) that it gives, its count."""

    name: str
    layer: str
    output_shape: tuple[int, ...]
    count: Count


def count(model: Module, input_shape: tuple[int, ...]) -> Count:
    """Parameters and operations of `model` for one image of input_shape (C, H, W); a leading N is ignored.

    Expanded layers are counted layer after layer, as the paper does and as composition="feature" runs them; DO-Conv
    is counted as the convolution it runs with the composed kernel, which is made once for all images. What a contracted
    model costs is `count(contract(model), input_shape)`. Operations of no layer's, x + y for one, are not counted.
    """
    total = Counter(parameters=sum(parameter.size for parameter in model.parameters()))
    for _, _, _, operations in _calls(model, input_shape):
        total.update(operations)
    return Count(**total)


def count_layers(model: Module, input_shape: tuple[int, ...]) -> list[LayerCount]:
    """The same, one entry for each call of a layer that has parameters or operations, in the order of the calls."""
    rows, seen = [], set()
    for name, module, shape, operations in _calls(model, input_shape):
        new = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen.update(map(id, new))
        if new or operations:
            parameters = sum(parameter.size for parameter in new)
            rows.append(LayerCount(name, type(module).__name__, shape, Count(parameters, **operations)))
    return rows


def _calls(model: Module, input_shape: tuple[int, ...]) -> list[tuple[str, Module, tuple[int, ...], dict[str, int]]]:
    """(name, layer, output shape without N, operations of each kind) for every call of a layer.

    The model runs on a batch of no images: shapes go through it as ever, and there is nothing to compute.
    """
    parameters = next(model.parameters()).data
    shape = tuple(input_shape)[len(input_shape) % 2 == 0 :]
    calls = []
    watched = []
    try:
        for name, module in model.named_modules():
            rule = RULES.get(type(module))
            if rule is not None or not list(module.children()):
                watched.append(module)
                vars(module)["forward"] = _watched(name, module, rule, calls)
        with no_grad(), layer_by_layer(model), evaluation_mode(model):
            model(Tensor(xp_of(parameters).zeros((0, *shape), parameters.dtype)))
    finally:
        for module in watched:
            del vars(module)["forward"]
    return calls


def _watched(name: str, module: Module, rule: Callable | None, calls: list) -> Callable:
    """A `forward` for the module itself, before the class's, that notes what each call gives and costs."""
    forward = module.forward

    def call(x: Any, *args: Any, **options: Any) -> Any:
        if rule is None:
            y = forward(x, *args, **options)
            operations = {}
        else:
            y, operations = rule(module, x, **options)
        first = y[0] if isinstance(y, tuple) else y
        calls.append((name, module, first.shape[1:], operations))
        return y

    return call


# What a call of each kind of layer gives and costs. What it gives is made from its shape, or is the input where the
# shape stays: a layer that has a rule does not run.


def _no_images(x: Tensor, *shape: int) -> Tensor:
    return Tensor(xp_of(x.data).zeros((0, *shape), x.dtype))


def _conv(layer: Conv2d | DOConv2d, x: Tensor):
    kernel = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    shape = conv.geometry(x.shape, kernel, layer.stride, layer.padding, layer.dilation, layer.groups).output_shape[1:]
    elements = math.prod(shape)
    operations = {"convolution": elements * math.prod(kernel[1:])}
    if layer.bias is not None:
        operations["bias"] = elements
    return _no_images(x, *shape), operations


def _seq_conv(layer: SeqConv2d, x: Tensor, shortcut: Tensor | None = None):
    pixels = math.prod(x.shape[2:])
    units = [unit for last in layer.f for unit in ((last.pre, last) if layer.bottleneck else (last,))]
    y = _no_images(x, layer.out_channels, *x.shape[2:])
    operations = {
        "convolution": pixels * sum(unit.conv.weight.size for unit in units),
        "batch_norm": 2 * pixels * sum(unit.conv.out_channels for unit in units),
    }
    return (y, y), operations


def _linear(layer: Linear, x: Tensor):
    rows = math.prod(x.shape[1:-1])
    operations = {"linear": rows * layer.weight.size}
    if layer.bias is not None:
        operations["linear_bias"] = rows * layer.out_features
    return _no_images(x, *x.shape[1:-1], layer.out_features), operations


def _batch_norm(layer: BatchNorm2d, x: Tensor, relu: Relu = False, residual: Tensor | None = None):
    elements = math.prod(x.shape[1:])
    return x, {"batch_norm": 2 * elements, "relu": elements} if relu else {"batch_norm": 2 * elements}


def _whe(layer: WHE, x: Tensor):
    return x, {"whe": 3 * layer.group_size * math.prod(x.shape[1:])}


def _cross_layer(layer: CrossLayerDepthwise, outputs):
    x = getattr(outputs[0], "tensor", outputs[0])
    return x, {"cross_layer": layer.layers * math.prod(x.shape[1:])}


def _relu(layer: ReLU | ReLU6, x: Tensor):
    return x, {"relu": math.prod(x.shape[1:])}


def _max_pool(layer: MaxPool2d, x: Tensor):
    y = MaxPool2d.forward(layer, x)
    return y, {"pooling": math.prod(y.shape[1:]) * math.prod(layer.kernel_size)}


RULES = {
    Conv2d: _conv,
    DOConv2d: _conv,
    SeqConv2d: _seq_conv,
    Linear: _linear,
    BatchNorm2d: _batch_norm,
    WHE: _whe,
    CrossLayerDepthwise: _cross_layer,
    ReLU: _relu,
    ReLU6: _relu,
    MaxPool2d: _max_pool,
}
