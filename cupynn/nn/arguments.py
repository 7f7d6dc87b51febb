"""Checks of arguments that several layers share."""

from __future__ import annotations

import operator
from typing import Any


def need_positive(layer: str, **sizes: Any) -> list[int]:
    """The sizes as Python's integers; ValueError naming layer and argument unless each is an integer of at least 1."""
    numbers = []
    for name, size in sizes.items():
        try:
            numbers.append(operator.index(size))
        except TypeError:
            numbers.append(0)
        if numbers[-1] < 1:
            raise ValueError(f"{layer}: {name} must be an integer >= 1; got {size!r}")
    return numbers


def need_channels(layer: str, in_channels: Any, out_channels: Any, groups: Any) -> list[int]:
    """The three as Python's integers; ValueError unless each is at least 1 and groups divides both channel counts."""
    sizes = need_positive(layer, in_channels=in_channels, out_channels=out_channels, groups=groups)
    if sizes[0] % sizes[2] or sizes[1] % sizes[2]:
        raise ValueError(
            f"{layer}: groups must divide in_channels and out_channels; got groups={sizes[2]}, "
            f"in_channels={sizes[0]}, out_channels={sizes[1]}"
        )
    return sizes
