"""Expand the layers of a model into over-parameterised ones, and contract them again."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from cupynn.nn import ACBlock, Conv2d, DOConv2d, ExpandedConv2d, ExpandedLinear, Linear, Module, init
from cupynn.nn.contractible import Contractible, undrawn
from cupynn.reparam.batch_norm import fold_batch_norms

# At most one of each, in this order, joined by "+".
PARTS = (("cl", "ck", "ac"), ("fc",), ("do",))


def expand(
    model: Module,
    strategy: str,
    rate: float = 4,
    composition: str = "kernel",
    layers: Sequence[str] | None = None,
    stages: Sequence[int] | None = None,
    stride_last: bool = False,
    mixing: bool = True,
) -> Module:
    """A copy of `model` with layers expanded, to be trained.

    "cl": every convolution with a kernel larger than 1x1, by `rate`; "ck": every one with a square, odd kernel larger
    than 3 and dilation 1; "fc": the first fully connected layer, never the last [ExpandNets]. "ac": every convolution
    with a kernel odd and larger than 1 on both sides, by `ACBlock`; the batch norm behind it stays [ACNet]. "do":
    every convolution with a kernel larger than 1x1, by `DOConv2d` [DO-Conv]. Parts are joined by "+": one of cl, ck,
    ac, then fc, then do, which also takes the convolutions that the others made: "cl+fc", "ck+do", "ac+fc+do".
    "do" may be applied to a model that the others have expanded.

    "do" keeps what the layers had learned; the others start from new random weights. All else, batch norm too, is
    copied. composition: "kernel" or "feature", see `nn.ExpandedConv2d`, and there for stride_last and mixing.

    layers: names of modules; only convolutions of these names or inside them are expanded. Without it, a network of the
        papers expands those that its paper does: its attribute `expansion_layers`, {strategy: names}.
    stages: numbers of stages, 0 the stem; only convolutions inside them are expanded. Their names are the network's
        attribute `stages`.
    `expansion_options`, {name of a convolution: further arguments of its `ExpandedConv2d`}, is a third attribute.

    Raises ValueError for an unknown strategy, name or stage, for a model that is expanded already, and where there is
    no layer to expand.
    """
    before = {type(layer) for layer in expanded_layers(model)}
    if before and (strategy != "do" or DOConv2d in before):
        raise ValueError(f"expand: {type(model).__name__} has expanded layers already; contract it first")
    chosen = {"layers": layers, "stages": stages, "stride_last": stride_last, "mixing": mixing}
    expanded = expand_in_place(copy.deepcopy(model), strategy, rate, composition, **chosen)
    expanded.zero_grad()
    made_by = getattr(model, "creation", None)
    if made_by and made_by["folded"]:
        del expanded.creation  # `models.create` has no options for a network without its batch norms
    elif made_by:
        options = {"expand": strategy, "rate": rate, "composition": composition}
        options |= {name: value for name, value in chosen.items() if value != SELECTION[name]}
        if before:
            options = {"expand": f"{made_by['options']['expand']}+do"}
        expanded.creation = {**made_by, "options": {**made_by["options"], **options}, "contracted": False}
    return expanded


# What of a model is expanded, and how: arguments of `expand`, and what they are where they are not given.
SELECTION = {"layers": None, "stages": None, "stride_last": False, "mixing": True}


def expand_in_place(
    model: Module,
    strategy: str,
    rate: float,
    composition: str,
    layers: Sequence[str] | None = None,
    stages: Sequence[int] | None = None,
    stride_last: bool = False,
    mixing: bool = True,
) -> Module:
    """What `expand` does, to a model that nobody else has, and without a copy; returns the model."""
    parts = strategy.split("+")
    places = [next((i for i, names in enumerate(PARTS) if part in names), -1) for part in parts]
    if -1 in places or any(one >= other for one, other in pairwise(places)):
        raise ValueError(
            'expand: strategy must be one of cl, ck, ac, fc, do, or several joined by "+": one of cl, ck, ac, then fc, '
            f"then do; got {strategy!r}"
        )
    stage_names = None if stages is None else _stage_names(model, stages)
    if layers is not None:
        known = {name for name, _ in model.named_modules()}
        if unknown := [name for name in layers if name not in known]:
            raise ValueError(f"expand: layers names {unknown[0]!r}, which {type(model).__name__} has not")
    options = {"rate": rate, "composition": composition, "stride_last": stride_last, "mixing": mixing}
    for part in parts:
        names = getattr(model, "expansion_layers", {}).get(part) if layers is None else layers
        model, count = _replaced(model, _replacement(model, part, (names, stage_names), options))
        if not count:
            raise ValueError(f"expand: {type(model).__name__} has no layer that {part!r} expands")
    return model


def _stage_names(model: Module, stages: Sequence[int]) -> list[str]:
    names = getattr(model, "stages", ())
    if not all(isinstance(stage, int) and 0 <= stage < len(names) for stage in stages):
        raise ValueError(
            f"expand: stages must be numbers below {len(names)}, the stages of {type(model).__name__}; got {stages!r}"
        )
    chosen = (names[stage] for stage in stages)
    return [name for stage in chosen for name in ((stage,) if isinstance(stage, str) else stage)]


def _replacement(model: Module, part: str, selections: Iterable[Sequence[str] | None], options: dict[str, Any]):
    """The function (name, layer) -> the layer that one part of a strategy puts in its place, or None."""
    own_options = getattr(model, "expansion_options", {})
    linears = [name for name, layer in model.named_modules() if type(layer) is Linear]
    rate, composition = options["rate"], options["composition"]

    def selected(name: str) -> bool:
        return all(
            names is None or any(name == other or name.startswith(f"{other}.") for other in names)
            for names in selections
        )

    def replacement(name: str, layer: Module) -> Module | None:
        if part == "fc":
            if name not in linears[:-1][:1]:
                return None
            new = ExpandedLinear(layer.in_features, layer.out_features, layer.bias is not None, rate, composition)
        elif type(layer) is Conv2d and FITS[part](layer) and selected(name):
            geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
            layout = (layer.in_channels, layer.out_channels, *geometry)
            bias = layer.bias is not None
            if part == "ac":
                new = ACBlock(*layout, composition)
            elif part == "do":
                with undrawn():
                    new = DOConv2d(*layout, bias, composition=composition).astype(layer.weight.dtype)
                if not init.is_shapes_only():
                    new.load_kernel(layer.weight.data, layer.bias.data if bias else None)
            else:
                new = ExpandedConv2d(part, *layout, bias, **{**options, **own_options.get(name, {})})
        else:
            return None
        return new.astype(layer.weight.dtype).train(layer.training)

    return replacement


def _is_large(layer: Conv2d) -> bool:
    return layer.kernel_size != (1, 1)


def _fits_ck(layer: Conv2d) -> bool:
    k = layer.kernel_size[0]
    return layer.kernel_size == (k, k) and k > 3 and k % 2 == 1 and layer.dilation == (1, 1)


def _has_a_cross(layer: Conv2d) -> bool:
    return all(size > 1 and size % 2 == 1 for size in layer.kernel_size)


FITS = {"cl": _is_large, "ck": _fits_ck, "ac": _has_a_cross, "do": _is_large}


def contract(model: Module, fold_batch_norm: bool = False) -> Module:
    """A copy of `model` with every expanded layer, whatever is nested in it, replaced by the plain layer that computes
    the same in evaluation mode.

    Names and shapes of its state are those of the model before it was expanded, except that what was an `ACBlock` has
    a bias. All else, batch norm too, is copied. fold_batch_norm=True takes batch norm behind a convolution into the
    convolution too, and leaves an `Identity` in its place, see `reparam.batch_norm`.
    """
    compact, count = _replaced(
        copy.deepcopy(model), lambda name, layer: layer.contract() if isinstance(layer, Contractible) else None
    )
    compact.zero_grad()
    if fold_batch_norm:
        fold_batch_norms(compact)
    if made_by := getattr(model, "creation", None):
        contracted = made_by["contracted"] or count > 0
        compact.creation = {**made_by, "contracted": contracted, "folded": made_by["folded"] or fold_batch_norm}
    return compact


def expanded_layers(model: Module) -> Iterator[Contractible]:
    """The expanded layers of a model, nested ones too."""
    return (layer for layer in model.modules() if isinstance(layer, Contractible))


@contextlib.contextmanager
def layer_by_layer(model: Module) -> Iterator[None]:
    """Run every expanded layer of `model` that can as composition="feature" inside a `with` block."""
    before = [(layer, layer.composition) for layer in expanded_layers(model)]
    try:
        for layer, _ in before:
            if "feature" in layer.compositions:
                layer.composition = "feature"
        yield
    finally:
        for layer, composition in before:
            layer.composition = composition


def _replaced(model: Module, replacement: Callable[[str, Module], Module | None]) -> tuple[Module, int]:
    """The model with each layer replaced by `replacement(name, layer)`, unless that is None; how many were."""
    new = {}
    for name, layer in model.named_modules():
        if (instead := replacement(name, layer)) is not None:
            new[id(layer)] = instead  # a shared layer stays shared
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if id(child) in new:
                setattr(module, name, new[id(child)])
    return new.get(id(model), model), len(new)
