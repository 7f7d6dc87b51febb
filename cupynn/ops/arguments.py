"""Checks of arguments that several operations and layers share."""

from __future__ import annotations

import operator
from typing import Any

Pair = tuple[int, int]


def integers(value: Any, count: int) -> tuple[int, ...] | None:
    """`count` integers, NumPy's included, from one or from a sequence of that many; None where it is neither."""
    try:
        numbers = tuple(map(operator.index, value if isinstance(value, (tuple, list)) else (value,) * count))
    except TypeError:
        return None
    return numbers if len(numbers) == count else None


def pair(operation: str, name: str, value: Any, least: int = 0) -> Pair:
    """An integer, or two of them (rows, columns), as a pair.

    Raises ValueError naming operation and argument for anything else, or for an integer below `least`.
    """
    numbers = integers(value, 2)
    if numbers is None or min(numbers) < least:
        raise ValueError(f"{operation}: {name} must be an integer >= {least} or a pair of them; got {value!r}")
    return numbers


def need_images(operation: str, x: Any) -> None:
    """Raise ValueError unless x is (N, C, H, W)."""
    if x.ndim != 4:
        raise ValueError(f"{operation}: x must be (N, C, H, W); it has shape {x.shape}")
