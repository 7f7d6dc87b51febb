"""Parameter groups: which parameters of a model have a learning rate and a weight decay of their own."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass

from cupynn.nn import Module, Parameter
from cupynn.optim.schedules import Piecewise


@dataclass(frozen=True)
class Group:
    """Some parameters of a model, and what is different for them.

    layers: names of layer types, ("WHE",): parameters that such a layer holds itself, or a layer inside it.
    names: patterns of dotted names with * and ?, ("*.bias", "head.*"). With both, a parameter needs to fit both.
    lr: the factor on the run's learning rate. 0 leaves the parameters as they are, but for momentum they had.
    weight_decay: a number, or ((epoch, number), ...): from each of these epochs on, the first of which is 0; None is
        the run's own.

    WHE's A, B, C and D [WHE, Sec. 4]: Group(layers=("WHE",), weight_decay=((0, 1e-6), (80, 1e-5), (110, 1e-4))).

    Raises ValueError for a group that chooses nothing and for numbers out of range.
    """

    layers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    lr: float = 1.0
    weight_decay: float | tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        if not (self.layers or self.names):
            raise ValueError("Group: needs layers or names, which choose its parameters")
        if not 0 <= self.lr < math.inf:
            raise ValueError(f"Group: lr must be at least 0 and finite, a factor on the run's own; got {self.lr}")
        if isinstance(self.weight_decay, Sequence):
            object.__setattr__(self, "weight_decay", Piecewise(self.weight_decay).steps)
        if not all(0 <= value < math.inf for value in self._decays()):
            raise ValueError(f"Group: weight_decay must be at least 0 and finite; got {self.weight_decay}")

    def _decays(self) -> list[float]:
        if isinstance(self.weight_decay, tuple):
            return [value for _, value in self.weight_decay]
        return [0.0 if self.weight_decay is None else self.weight_decay]

    def has(self, name: str, types: set[str]) -> bool:
        """Whether it chooses the parameter of this dotted name, which lies in layers of these types."""
        by_name = not self.names or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)
        return by_name and (not self.layers or not types.isdisjoint(self.layers))


@dataclass(frozen=True)
class Planned:
    """Parameters that move alike: with `lr` times the run's learning rate, and `weight_decay(epoch)`."""

    names: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    lr: float
    weight_decay: Piecewise


def plan(model: Module, groups: Sequence[Group], weight_decay: float, decay_biases: bool = True) -> list[Planned]:
    """Every parameter of `model` in one group: the first of `groups` that has it, else the rest, which comes first.

    decay_biases=False: parameters with one dimension or none (biases, scales of norms, slopes) get weight decay 0,
    but for those of a group that states its own.

    Raises ValueError for a group that is left without parameters.
    """
    types = _types(model)
    members: dict[tuple[int, bool], dict[str, Parameter]] = {}
    for name, parameter in model.named_parameters():
        number = next((n for n, group in enumerate(groups) if group.has(name, types[name])), -1)
        own = number >= 0 and groups[number].weight_decay is not None
        members.setdefault((number, own or decay_biases or parameter.ndim > 1), {})[name] = parameter
    for number, group in enumerate(groups):
        if (number, True) not in members and (number, False) not in members:
            raise ValueError(f"groups[{number}] is left with no parameter of {type(model).__name__}: {group}")
    planned = []
    for (number, decays), chosen in sorted(members.items(), key=lambda item: (item[0][0], not item[0][1])):
        group = groups[number] if number >= 0 else None
        decay = weight_decay if group is None or group.weight_decay is None else group.weight_decay
        steps = decay if isinstance(decay, tuple) else ((0, decay),)
        planned.append(
            Planned(
                tuple(chosen),
                tuple(chosen.values()),
                1.0 if group is None else group.lr,
                Piecewise(steps if decays else ((0, 0.0),)),
            )
        )
    return planned


def _types(model: Module) -> dict[str, set[str]]:
    """The types of all layers that each parameter lies in, by its dotted name."""
    modules = {name: type(module).__name__ for name, module in model.named_modules()}
    found = {}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        inside = (".".join(parts[:length]) for length in range(len(parts)))
        found[name] = {modules[prefix] for prefix in inside if prefix in modules}
    return found
