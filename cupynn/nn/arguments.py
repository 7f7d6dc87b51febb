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
