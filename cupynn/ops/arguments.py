"""Checks of arguments that several operations and layers share."""

from __future__ import annotations

import operator
from typing import Any

Pair = tuple[int, int]


def pair(operation: str, name: str, value: Any, least: int = 0) -> Pair:
    """An integer, or two of them (rows, columns), as a pair.

    Raises ValueError naming operation and argument for anything else, or for an integer below `least`.
    """
    try:
        numbers = tuple(map(operator.index, value if isinstance(value, (tuple, list)) else (value, value)))
    except TypeError:
        numbers = ()
    if len(numbers) != 2 or min(numbers) < least:
        raise ValueError(f"{operation}: {name} must be an integer >= {least} or a pair of them; got {value!r}")
    return numbers


def need_images(operation: str, x: Any) -> None:
    """Raise ValueError unless x is (N, C, H, W)."""
    if x.ndim != 4:
        raise ValueError(f"{operation}: x must be (N, C, H, W); it has shape {x.shape}")
