"""Batch norm behind a convolution, taken into the convolution's weight and bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from cupynn.autograd import Tensor, enable_grad, no_grad
from cupynn.autograd.backward import records_behind
from cupynn.device import xp_of
from cupynn.nn import BatchNorm2d, Conv2d, Identity, Module, Parameter, Sequential
from cupynn.nn.evaluation import evaluation_mode
from cupynn.ops.folding import fold_batch_norm

Pair = tuple[Conv2d, BatchNorm2d]


def fold_batch_norms(model: Module) -> None:
    """Change `model`: a `BatchNorm2d` that is all that reads a `Conv2d`'s output is folded into it, with its running
    statistics, and an `Identity` left in its place.

    Who reads what is seen by running a model that says its `input_shape`; of another one every `Sequential` is read.
    A convolution or batch norm that the model has in several places is left alone, since what is around it differs.
    """
    uses = Counter(id(child) for module in model.modules() for child in module.children())
    pairs = _observed(model, model.input_shape) if hasattr(model, "input_shape") else _in_sequences(model)
    folded = {}
    for conv, norm in dict.fromkeys(pairs):
        if uses[id(conv)] == uses[id(norm)] == 1:
            _fold(conv, norm)
            folded[id(norm)] = Identity().train(norm.training)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if id(child) in folded:
                setattr(module, name, folded[id(child)])


def _observed(model: Module, input_shape: tuple[int, ...]) -> Iterator[Pair]:
    """Convolutions, each with the batch norm that alone reads it, seen on a batch of no images."""
    convs, norms = {}, []  # the record of a call: its convolution; (the record of what it read, batch norm)

    def watched(module: Module) -> Any:
        forward = module.forward

        def call(x: Tensor, **options: Any) -> Tensor:
            y = forward(x, **options)
            if type(module) is Conv2d:
                convs[y.record] = module
            else:
                norms.append((x.record, module))
            return y

        return call

    layers = [module for module in model.modules() if type(module) in (Conv2d, BatchNorm2d)]
    like = next(model.parameters()).data
    try:
        for layer in layers:
            vars(layer)["forward"] = watched(layer)
        with enable_grad(), evaluation_mode(model):
            y = model(Tensor(xp_of(like).zeros((0, *input_shape), like.dtype), requires_grad=True))
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
    readers = Counter(source[0] for record in records_behind([y]) for source in record.inputs if source is not None)
    pairs = [(convs[record], norm) for record, norm in norms if record in convs and readers[record] == 1]
    calls = Counter([*convs.values(), *(norm for _, norm in norms)])
    # a layer that runs several times must do so in the same pair each time
    return (pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == pairs.count(pair))


def _in_sequences(model: Module) -> Iterator[Pair]:
    """Each `BatchNorm2d` right behind a `Conv2d` in a `Sequential`; nested ones are read through."""
    uses = Counter(id(child) for module in model.modules() for child in module.children())
    for module in model.modules():
        layers = list(_in_order(module, uses)) if _runs_in_order(module) else []
        for conv, norm in pairwise(layers):
            if type(conv) is Conv2d and type(norm) is BatchNorm2d:
                yield conv, norm


def _runs_in_order(module: Module) -> bool:
    return isinstance(module, Sequential) and type(module).forward is Sequential.forward


def _in_order(sequence: Module, uses: Counter) -> Iterator[Module]:
    for child in sequence.children():
        if _runs_in_order(child) and uses[id(child)] == 1:
            yield from _in_order(child, uses)
        else:
            yield child


def _fold(conv: Conv2d, norm: BatchNorm2d) -> None:
    """Computed in float64, rounded once."""
    dtype = conv.weight.dtype
    factors = (conv.weight, conv.bias, norm.weight, norm.bias)
    exact = [None if factor is None else factor.detach().astype("float64") for factor in factors]
    statistics = (norm.running_mean.astype("float64"), norm.running_var.astype("float64"))
    with no_grad():
        weight, bias = fold_batch_norm(*exact, *statistics, norm.eps)
    conv.weight, conv.bias = (Parameter(factor.data.astype(dtype)) for factor in (weight, bias))
