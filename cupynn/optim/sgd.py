"""Stochastic gradient descent with momentum, Nesterov's variant and weight decay."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cupynn import recording
from cupynn.autograd import Tensor
from cupynn.device import Array, to_numpy, xp_of
from cupynn.kernels import sgd

_OPTIONS = ("lr", "momentum", "nesterov", "weight_decay")


class SGD:
    """Stochastic gradient descent, by PyTorch's formula with dampening 0:

        g = grad + weight_decay * parameter
        v = momentum * v + g                    (v starts at 0)
        parameter -= lr * (g + momentum * v)    if nesterov, else lr * v

    `params` holds parameters, or groups: dicts with "params" and options of their own, such as
    `{"params": [...], "weight_decay": 0}`; the arguments stand where a group gives none. `param_groups` holds the
    groups; change `group["lr"]` or `group["weight_decay"]` at any time. A parameter whose gradient is None stays as
    it is, velocity included.

    Raises TypeError for what is no parameter, ValueError for an option that is unknown or out of range, for a
    parameter in two groups, and where there is no parameter at all.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        params = list(params)
        groups = params if params and all(isinstance(p, Mapping) for p in params) else [{"params": params}]
        self.param_groups: list[dict[str, Any]] = [
            {**defaults, **group, "params": list(group.get("params", ()))} for group in groups
        ]
        self._velocities: dict[Tensor, Array] = {}
        _check(self.param_groups)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self._parameters():
            parameter.grad = None
        if (now := recording.current()) is not None:
            now.zeroed(self._parameters())

    def step(self, where: Array | None = None) -> None:
        """Move every parameter that has a gradient, in place: one kernel launch for all.

        where: an array () of bool where the parameters are, such as `LossScale.unscale` returns: nothing moves where it
            is False. The host does not look at it, and so does not wait for a GPU.

        Raises ValueError or TypeError, before any parameter moves, for a gradient without its parameter's shape and
        dtype, and for what the constructor refuses.
        """
        _check(self.param_groups)
        groups = [self._moves(number, group) for number, group in enumerate(self.param_groups)]
        now, numbers = recording.current(), None
        if now is not None:  # what a recorded step reads at each replay
            like = next(parameter.data for parameter in self._parameters())

            def produce():
                names = "lr", "momentum", "weight_decay"
                return np.array([[group[name] for name in names] for group in self.param_groups], np.float64)

            numbers = recording.renewed(produce, like)
            now.still(self._same_as_now())
        sgd.step_groups(groups, where, numbers)

    def _same_as_now(self) -> Callable[[], bool]:
        """Whether the arrays, and the kernels for them, are those of now: a step that was recorded repeats these.

        Raises ValueError for what the constructor refuses.
        """

        def state() -> tuple[list[Array | None], list[tuple[bool, bool]]]:
            parameters = self._parameters()
            arrays = [*(parameter.data for parameter in parameters), *map(self._velocities.get, parameters)]
            return arrays, [(group["momentum"] > 0, bool(group["nesterov"])) for group in self.param_groups]

        arrays, kinds = state()

        def same() -> bool:
            _check(self.param_groups)
            now, kinds_now = state()
            return kinds == kinds_now and len(arrays) == len(now) and all(map(operator.is_, arrays, now))

        return same

    def _moves(self, number: int, group: dict[str, Any]) -> sgd.Group:
        """The checked arrays of a group's parameters that have a gradient, their gradients, and velocities."""
        parameters, grads, velocities = [], [], []
        for index, parameter in enumerate(group["params"]):
            if parameter.grad is None:
                continue
            velocity = self._velocity(parameter) if group["momentum"] else None
            sgd.check(
                index, parameter.data, parameter.grad, velocity, group["momentum"], f"SGD.step: in group {number}"
            )
            parameters.append(parameter.data)
            grads.append(parameter.grad)
            velocities.append(velocity)
        options = {name: group[name] for name in _OPTIONS}
        return sgd.Group(parameters, grads, velocities, **options)

    def _velocity(self, parameter: Tensor) -> Array:
        velocity = self._velocities.get(parameter)
        if velocity is None:
            data = parameter.data
            if recording.current() is None:
                velocity = xp_of(data).zeros_like(data)
            else:  # zeros that are written once: operations of the step are repeated
                velocity = recording.upload(np.zeros(data.shape, data.dtype), data)
            self._velocities[parameter] = velocity
        return velocity

    def state_dict(self) -> dict[str, Any]:
        """What continues a run: {"groups": [options of each group], "velocities": [one array or None per parameter]}.

        Velocities stand in the order of the groups and of their parameters. They are the optimiser's own arrays.
        """
        return {
            "groups": [{option: group[option] for option in _OPTIONS} for group in self.param_groups],
            "velocities": [self._velocities.get(parameter) for parameter in self._parameters()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over options and copies of the velocities of a `state_dict`.

        Raises ValueError where the number of groups, of parameters, or a shape differs, or an option is missing,
        unknown or out of range, TypeError for a velocity that is no array of floats; before anything is changed.
        """
        missing = {"groups", "velocities"} - set(state)
        if missing:
            raise ValueError(f"SGD.load_state_dict: the state has no {' and no '.join(sorted(missing))}")
        groups, velocities = list(state["groups"]), list(state["velocities"])
        parameters = self._parameters()
        if (len(groups), len(velocities)) != (len(self.param_groups), len(parameters)):
            raise ValueError(
                f"SGD.load_state_dict: this optimiser has {len(self.param_groups)} groups and {len(parameters)} "
                f"parameters; the state has {len(groups)} and {len(velocities)}"
            )
        for index, (parameter, velocity) in enumerate(zip(parameters, velocities, strict=True)):
            if velocity is None:
                continue
            if getattr(getattr(velocity, "dtype", None), "kind", None) != "f":
                raise TypeError(
                    f"SGD.load_state_dict: the velocity of parameter {index} must be an array of floats; "
                    f"got {getattr(velocity, 'dtype', type(velocity).__name__)}"
                )
            if velocity.shape != parameter.shape:
                raise ValueError(
                    f"SGD.load_state_dict: parameter {index} has shape {parameter.shape}; "
                    f"its velocity in the state has {velocity.shape}"
                )
        loaded = [{**new, "params": group["params"]} for group, new in zip(self.param_groups, groups, strict=True)]
        _check(loaded)
        self.param_groups = loaded
        self._velocities = {
            parameter: xp_of(parameter.data).array(to_numpy(velocity), dtype=parameter.dtype)
            for parameter, velocity in zip(parameters, velocities, strict=True)
            if velocity is not None
        }

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def __repr__(self) -> str:
        groups = (
            f"{len(group['params'])} parameters, " + ", ".join(f"{option}={group[option]}" for option in _OPTIONS)
            for group in self.param_groups
        )
        return "SGD(\n  " + "\n  ".join(groups) + "\n)"


def _check(groups: list[dict[str, Any]]) -> None:
    seen: set[Tensor] = set()
    for number, group in enumerate(groups):
        unknown = sorted(set(group) - {"params", *_OPTIONS})
        if unknown:
            raise ValueError(
                f"SGD: group {number} has unknown options {', '.join(unknown)}; known: {', '.join(_OPTIONS)}"
            )
        missing = [option for option in _OPTIONS if option not in group]
        if missing:
            raise ValueError(f"SGD: group {number} lacks {', '.join(missing)}")
        for option in ("lr", "momentum", "weight_decay"):
            if not group[option] >= 0:
                raise ValueError(f"SGD: {option} of group {number} must be >= 0; got {group[option]!r}")
        if group["nesterov"] and group["momentum"] == 0:
            raise ValueError(f"SGD: nesterov in group {number} needs momentum > 0; momentum is 0")
        for parameter in group["params"]:
            if not isinstance(parameter, Tensor):
                raise TypeError(f"SGD: group {number} holds a {type(parameter).__name__}; parameters are tensors")
            if parameter in seen:
                raise ValueError(f"SGD: a parameter of shape {parameter.shape} is given twice, again in group {number}")
            seen.add(parameter)
    if not seen:
        raise ValueError("SGD: there are no parameters")
