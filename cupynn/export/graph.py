"""A graph of ONNX operators, in plain Python, as it is made from the calls of a network's forward pass.

The forward pass runs twice, on as many images more. A length that differs between the runs is the number of images, or
follows from it; an array that no call made of the images is a constant, and has to be the same both times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cupynn.device import Array, to_numpy
from cupynn.export.trace import Call

Shape = tuple[int | None, ...]  # None: the length follows from the number of images


@dataclass(frozen=True)
class Operand:
    """An input or output of a call: the array in both runs, and its name in the graph, None where it is a constant."""

    array: Array
    twin: Array
    name: str | None = None

    @property
    def shape(self) -> Shape:
        pairs = zip(self.array.shape, self.twin.shape, strict=True)
        return tuple(length if length == other else None for length, other in pairs)

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def is_constant(self) -> bool:
        return self.name is None


@dataclass(frozen=True)
class Node:
    """An ONNX operator: names of its inputs ("" where one is left out) and outputs, and its attributes."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


class Graph:
    """Nodes and constants, in the order in which they are made. A constant that belongs to the network's state has its
    name there; everything else is named after the layer that made it.

    While a call is translated, `function` is its function with the options, and `output` its first output.
    """

    def __init__(self, state: Mapping[str, Array]):
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self._state_names = {id(array): name for name, array in reversed(state.items())}  # a shared one: the first
        self._values: dict[int, str] = {}  # by the array's id in the first run
        self._taken: set[str] = set()
        self.function: Any = None
        self.layer = ""

    def depends(self, array: Array, name: str) -> None:
        """Say that an array of the first run is the value `name`, and no constant."""
        self._values[id(array)] = name
        self._taken.add(name)

    def value(self, array: Array) -> str | None:
        """The name of an array of the first run; None where it does not depend on the images."""
        return self._values.get(id(array))

    def translate(self, call: Call, twin: Call, table: Mapping[type, Callable]) -> None:
        """Add what computes one call. Raises ValueError, naming layer and function, where that cannot be done."""
        self.function, self.layer = call.function, call.layer
        if type(call.function) is not type(twin.function) or len(call.inputs) != len(twin.inputs):
            self.refuse("the calls of the forward pass depend on the images or their number")
        inputs = [self._operand(*pair, call) for pair in zip(call.inputs, twin.inputs, strict=True)]
        if all(x is None or x.is_constant for x in inputs):
            return  # so is what it returns
        self.output = Operand(call.outputs[0], twin.outputs[0])
        if self.output.array.ndim != self.output.twin.ndim:
            self.refuse("the number of axes of its result depends on the number of images")
        if (dtype := self.output.array.dtype) not in ("float32", "int64", "int32", "bool"):
            self.refuse(f"it computes {dtype}; a network is exported in float32")
        translation = table.get(type(call.function))
        if translation is None:
            self.refuse("it has no form in ONNX here")
        names = translation(self, *inputs)
        for array, name in zip(call.outputs, (names,) if isinstance(names, str) else names, strict=True):
            self._values[id(array)] = name

    def _operand(self, value: Any, twin: Any, call: Call) -> Operand | None:
        if value is None:
            return None
        if not hasattr(value, "dtype"):  # Python's numbers are what they are beside arrays
            value, twin = (np.asarray(number, call.outputs[0].dtype) for number in (value, twin))
        return Operand(value, twin, self.value(value))

    def refuse(self, why: str) -> None:
        """Raise ValueError for the call that is being translated."""
        place = f"layer {self.layer}" if self.layer else "the network's own forward"
        raise ValueError(f"export_onnx: {place}: {type(self.function).__name__}: {why}")

    def node(self, operator: str, *inputs: Operand | np.ndarray | str | None, outputs: int = 1, **attributes: Any):
        """Add an operator; the name of its output, or the names where it has more than one."""
        names = tuple("" if x is None else x if isinstance(x, str) else self.name(x) for x in inputs)
        while names and not names[-1]:
            names = names[:-1]
        name = self._free(f"{self.layer}/{operator}" if self.layer else operator)
        made = (name,) if outputs == 1 else tuple(self._free(f"{name}.{number}") for number in range(outputs))
        self.nodes.append(Node(operator, name, names, made, attributes))
        return made[0] if outputs == 1 else made

    def name(self, x: Operand | np.ndarray) -> str:
        """The name of a value, or of a constant that is added where it is new."""
        if isinstance(x, Operand):
            return x.name or self.constant(self.fixed(x), name=self._state_names.get(id(x.array)))
        return self.constant(x)

    def fixed(self, x: Operand) -> np.ndarray:
        """A constant's array. One with a row for every image, all of them the same, has a single row here.

        Raises ValueError for a value that is no constant, or that differs between the runs: then it was computed of the
        images in a way that no function saw.
        """
        if not x.is_constant:
            self.refuse("an input that has to be a constant depends on the images")
        array, twin = to_numpy(x.array), to_numpy(x.twin)
        if x.shape[:1] == (None,) and None not in x.shape[1:]:
            array, twin = (rows[:1] if (rows == rows[:1]).all() else rows for rows in (array, twin))
        if x.array is not x.twin and not np.array_equal(array, twin, equal_nan=array.dtype.kind == "f"):
            self.refuse("an input differs from run to run, and cupynn's functions did not make it of the images")
        return array

    def constant(self, array: np.ndarray, suffix: str = "constant", name: str | None = None) -> str:
        """The name of a constant: of the network's state, or `suffix` of the layer at hand."""
        name = name or (f"{self.layer}.{suffix}" if self.layer else suffix)
        if (known := self.constants.get(name)) is not None and _same(known, array):
            return name
        name = self._free(name)
        self.constants[name] = np.array(array, order="C")
        return name

    def state_name(self, array: Array, suffix: str) -> str:
        """The name of an array in the network's state, else `suffix` of the layer at hand."""
        return self._state_names.get(id(array)) or (f"{self.layer}.{suffix}" if self.layer else suffix)

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._taken:
            free, number = f"{name}.{number}", number + 1
        self._taken.add(free)
        return free

    def finish(self, output: str, name: str) -> None:
        """Call the value `output` `name`, and drop what it does not need."""
        needed, kept = {output}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        called = {output: name}
        self.nodes = [
            Node(
                node.operator,
                node.name,
                tuple(called.get(value, value) for value in node.inputs),
                tuple(called.get(value, value) for value in node.outputs),
                node.attributes,
            )
            for node in reversed(kept)
        ]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)
