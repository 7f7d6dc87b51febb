"""Batch norm behind a convolution, taken into the convolution's weight and bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from cupynn.autograd import no_grad
from cupynn.nn import BatchNorm2d, Conv2d, Identity, Module, Parameter, Sequential
from cupynn.ops.folding import fold_batch_norm

Place = tuple[Module, str, Module]  # a container, the name it has for a module, the module


def fold_batch_norms(model: Module) -> None:
    """Change `model`: in every `Sequential` (nested ones are read through), a `BatchNorm2d` right behind a `Conv2d` is
    folded into it, with its running statistics, and an `Identity` left in its place.

    A convolution or batch norm that the model has in several places is left alone, since what is around it differs.
    """
    uses = Counter(id(child) for module in model.modules() for child in module.children())
    for module in list(model.modules()):
        places = list(_in_order(module, uses)) if _runs_in_order(module) else []
        for (_, _, conv), (container, name, norm) in pairwise(places):
            if type(conv) is Conv2d and type(norm) is BatchNorm2d and uses[id(conv)] == uses[id(norm)] == 1:
                _fold(conv, norm)
                setattr(container, name, Identity().train(norm.training))


def _runs_in_order(module: Module) -> bool:
    return isinstance(module, Sequential) and type(module).forward is Sequential.forward


def _in_order(sequence: Module, uses: Counter) -> Iterator[Place]:
    for name, child in sequence.named_children():
        if _runs_in_order(child) and uses[id(child)] == 1:
            yield from _in_order(child, uses)
        else:
            yield sequence, name, child


def _fold(conv: Conv2d, norm: BatchNorm2d) -> None:
    """Computed in float64, rounded once."""
    dtype = conv.weight.dtype
    factors = (conv.weight, conv.bias, norm.weight, norm.bias)
    exact = [None if factor is None else factor.detach().astype("float64") for factor in factors]
    statistics = (norm.running_mean.astype("float64"), norm.running_var.astype("float64"))
    with no_grad():
        weight, bias = fold_batch_norm(*exact, *statistics, norm.eps)
    conv.weight, conv.bias = (Parameter(factor.data.astype(dtype)) for factor in (weight, bias))
