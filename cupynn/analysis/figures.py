"""What every analysis gives: figures, as a table, a picture and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from cupynn.nn import Module
from cupynn.pictures import Theme

Layer = TypeVar("Layer", bound=Module)


class Figures:
    """The figures of an analysis; a subclass is a dataclass of plain numbers, names and NumPy arrays."""

    @property
    def size(self) -> tuple[float, float]:
        """Of its picture, in inches."""
        raise TypeError(f"{type(self).__name__} defines no size")

    def rows(self) -> list[list[str]]:
        """A short table for a terminal: heads, then rows."""
        raise TypeError(f"{type(self).__name__} defines no rows")

    def draw(self, figure: Any, theme: Theme) -> None:
        """The picture, into an empty matplotlib Figure; see `cupynn.pictures.draw_figure`."""
        raise TypeError(f"{type(self).__name__} defines no draw")

    def record(self) -> dict[str, Any]:
        """All figures as JSON has them: arrays as lists, None for what is no finite number."""
        return plain(self)


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, arrays as lists, NumPy's numbers as Python's, None for NaN and infinity."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def layers_of(model: Module, kind: type[Layer], analysis: str) -> Iterator[tuple[str, Layer]]:
    """(dotted name, layer) of every layer of a kind.

    Raises ValueError that says what kinds of layers the network has where this one is not among them.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]
    if not found:
        kinds = sorted({type(module).__name__ for module in model.modules() if not list(module.children())})
        name = (getattr(model, "creation", None) or {"name": type(model).__name__})["name"]
        raise ValueError(f"{analysis}: looks for layers of type {kind.__name__}; {name} has {', '.join(kinds)}")
    return iter(found)
