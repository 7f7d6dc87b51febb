"""Expand the layers of a model into chains of wider linear layers, and contract them again."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

from cupynn.nn import Conv2d, Linear, Module
from cupynn.nn.expanded import Expanded, ExpandedConv2d, ExpandedLinear

STRATEGIES = ("cl", "ck", "fc", "cl+fc", "ck+fc")


def expand(model: Module, strategy: str, rate: float = 4, composition: str = "kernel") -> Module:
    """A copy of `model` with layers expanded, to be trained from scratch [ExpandNets].

    "cl": every convolution with a kernel larger than 1x1; "ck": every one with a square, odd kernel larger than 3 and
    dilation 1; "fc": the first fully connected layer, never the last; "cl+fc", "ck+fc": both. Expanded layers start
    from new random weights: what the plain ones had learned is not kept. All else, batch norm too, is copied.
    composition: "kernel" or "feature", see `nn.ExpandedConv2d`.

    A model may carry `expansion_options`, {name of a convolution: further arguments of its `ExpandedConv2d`}.
    Raises ValueError for an unknown strategy, for a model that is expanded already, and where there is no layer
    to expand.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"expand: strategy must be one of {', '.join(STRATEGIES)}; got {strategy!r}")
    if any(expanded_layers(model)):
        raise ValueError(f"expand: {type(model).__name__} has expanded layers already; contract it first")
    options = getattr(model, "expansion_options", {})
    layers = dict(model.named_modules())
    linears = [name for name, layer in layers.items() if type(layer) is Linear]
    chosen: dict[str, list[str]] = {
        "cl": [name for name, layer in layers.items() if type(layer) is Conv2d and layer.kernel_size != (1, 1)],
        "ck": [name for name, layer in layers.items() if type(layer) is Conv2d and _fits_ck(layer)],
        "fc": linears[:1] if len(linears) > 1 else [],
    }
    new: dict[str, Module] = {}
    for part in strategy.split("+"):
        if not chosen[part]:
            raise ValueError(f"expand: {type(model).__name__} has no layer that {part!r} expands")
        for name in chosen[part]:
            layer = layers[name]
            bias = layer.bias is not None
            if part == "fc":
                wide = ExpandedLinear(layer.in_features, layer.out_features, bias, rate, composition)
            else:
                sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
                geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
                wide = ExpandedConv2d(part, *sizes, *geometry, bias, rate, composition, **options.get(name, {}))
            new[name] = wide.astype(layer.weight.dtype).train(layer.training)
    expanded = _replaced(model, lambda name, layer: new.get(name))
    if made_by := getattr(model, "creation", None):
        changed = {"expand": strategy, "rate": rate, "composition": composition}
        expanded.creation = {**made_by, "options": {**made_by["options"], **changed}, "contracted": False}
    return expanded


def contract(model: Module) -> Module:
    """A copy of `model` with every expanded layer replaced by the plain layer that computes the same.

    Names and shapes of its state are those of the model before it was expanded. All else, batch norm too, is copied.
    """
    compact = _replaced(model, lambda name, layer: layer.contract() if isinstance(layer, Expanded) else None)
    made_by = getattr(model, "creation", None)
    if made_by and any(expanded_layers(model)):
        plain = {k: v for k, v in made_by["options"].items() if k not in ("expand", "rate", "composition")}
        compact.creation = {**made_by, "options": plain, "contracted": True}
    return compact


def expanded_layers(model: Module) -> Iterator[Expanded]:
    """The expanded layers of a model."""
    return (layer for layer in model.modules() if isinstance(layer, Expanded))


@contextlib.contextmanager
def layer_by_layer(model: Module) -> Iterator[None]:
    """Run every expanded layer of `model` as composition="feature" inside a `with` block."""
    before = [(layer, layer.composition) for layer in expanded_layers(model)]
    try:
        for layer, _ in before:
            layer.composition = "feature"
        yield
    finally:
        for layer, composition in before:
            layer.composition = composition


def _fits_ck(layer: Conv2d) -> bool:
    k = layer.kernel_size[0]
    return layer.kernel_size == (k, k) and k > 3 and k % 2 == 1 and layer.dilation == (1, 1)


def _replaced(model: Module, replacement: Callable[[str, Module], Module | None]) -> Module:
    """A deep copy in which each layer is replaced by `replacement(name, layer)`, unless that is None."""
    copies = {}  # what deepcopy has to take for each old layer: a shared layer stays shared
    for name, layer in model.named_modules():
        new = replacement(name, layer)
        if new is not None:
            copies[id(layer)] = new
    copied = copy.deepcopy(model, copies)
    copied.zero_grad()
    return copied
