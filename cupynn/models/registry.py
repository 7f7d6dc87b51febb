"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cupynn.nn import Module
from cupynn.reparam.expansion import SELECTION, expand_in_place

_builders: dict[str, Callable[..., Module]] = {}


def register(name: str) -> Callable[[Callable[..., Module]], Callable[..., Module]]:
    """A decorator: make `create(name, **options)` call the class or function under it."""

    def add(builder: Callable[..., Module]) -> Callable[..., Module]:
        _builders[name] = builder
        return builder

    return add


def names() -> list[str]:
    """The names of all networks, in alphabetical order."""
    return sorted(_builders)


def builder(name: str) -> Callable[..., Module]:
    """The class or function behind one network."""
    return _builders[name]


def takes(name: str) -> list[str]:
    """The options of one network's own."""
    return list(inspect.signature(_builders[name]).parameters)


def create(
    name: str,
    *,
    expand: str | None = None,
    rate: float = 4,
    composition: str = "kernel",
    layers: Sequence[str] | None = None,
    stages: Sequence[int] | None = None,
    stride_last: bool = False,
    mixing: bool = True,
    **options: Any,
) -> Module:
    """A new network with random weights.

    expand, and the arguments after it, are options of every network, see `reparam.expand`; expand=None is the plain
    network. The others are the network's own. The network's attribute `creation` holds its name, its options and
    whether it has been contracted and its batch norms folded, which is what a saved file keeps.

    Raises ValueError for an unknown name or option, naming those there are, and for an option of `expand` without it.
    """
    if name not in _builders:
        raise ValueError(f"create: there is no network {name!r}; there are {', '.join(names())}")
    expansion = {"rate": rate, "composition": composition}
    expansion |= {"layers": layers, "stages": stages, "stride_last": stride_last, "mixing": mixing}
    known = takes(name)
    if unknown := [option for option in options if option not in known]:
        known += ["expand", *expansion]
        raise ValueError(f"create: {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    expansion = {option: value for option, value in expansion.items() if value != DEFAULTS[option]}
    if expand is None and expansion:
        raise ValueError(f"create: {next(iter(expansion))} is an option of expand=..., which is not given")
    # NumPy's numbers as Python's, which a saved file can hold
    options = {key: _plain(value) for key, value in options.items()}
    model = _builders[name](**options)
    if expand is not None:
        expansion = {"rate": _plain(rate), "composition": composition, **expansion}
        model = expand_in_place(model, expand, **expansion)
        options = {**options, "expand": expand, **expansion}
    model.creation = {"name": name, "options": options, "contracted": False, "folded": False}
    return model


DEFAULTS = {"rate": 4, "composition": "kernel", **SELECTION}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
