"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from cupynn.nn import Module
from cupynn.reparam import expand as expand_model

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


def create(
    name: str, *, expand: str | None = None, rate: float = 4, composition: str = "kernel", **options: Any
) -> Module:
    """A new network with random weights.

    expand, rate and composition are options of every network, see `reparam.expand`; expand=None is the plain network.
    The other options are the network's own. The network's attribute `creation` holds its name, its options and whether
    it has been contracted and its batch norms folded, which is what a saved file keeps.

    Raises ValueError for an unknown name or option, naming those there are.
    """
    if name not in _builders:
        raise ValueError(f"create: there is no network {name!r}; there are {', '.join(names())}")
    builder = _builders[name]
    # NumPy's numbers as Python's, which a saved file can hold
    options = {key: value.item() if isinstance(value, np.generic) else value for key, value in options.items()}
    rate = rate.item() if isinstance(rate, np.generic) else rate
    known = list(inspect.signature(builder).parameters)
    if unknown := [option for option in options if option not in known]:
        known += ["expand", "rate", "composition"]
        raise ValueError(f"create: {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    model = builder(**options)
    model.creation = {"name": name, "options": options, "contracted": False, "folded": False}
    return model if expand is None else expand_model(model, expand, rate, composition)
