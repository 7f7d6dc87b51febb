"""Checks of arguments that several layers share."""

from __future__ import annotations

from typing import Any


def need_positive(layer: str, **sizes: Any) -> None:
    """Raise ValueError naming layer and argument unless every size is an integer of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{layer}: {name} must be an integer >= 1; got {size!r}")
