"""Where numbers stopped being finite."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from cupynn import ops
from cupynn.autograd import Tensor, no_grad
from cupynn.device import Array, is_floating, xp_of
from cupynn.nn import Module


class Diverged(ArithmeticError):
    """The loss, or a weight, is no longer a finite number."""


class Lost(Exception):
    """The same, where it is found: what is lost, and `where`, the layer in words, "" where that is not known."""

    def __init__(self, what: str, where: str = ""):
        super().__init__(what)
        self.where = where


def lost_array(model: Module) -> str | None:
    """The name of the first parameter or buffer that holds NaN or infinity."""
    return next((name for name, array in model.state_dict().items() if what_is_lost(array)), None)


def lost_parameter(model: Module) -> str | None:
    """The parameter nearest the output that holds NaN or infinity: backward came to it first."""
    lost = [name for name, parameter in model.named_parameters() if what_is_lost(parameter.data)]
    return lost[-1] if lost else None


def explain_loss(model: Module, images: Array, labels: Array) -> str:
    """Where on the way of a batch through `model` the first number that is not finite appears, in words.

    The model is run again, with a watcher on each module. The generator must be where it was for dropout to draw the
    same. Running statistics move once more.
    """
    if name := lost_parameter(model):
        return (
            f"{name} was not finite before this step: the step before it was too large, or its gradient was lost, "
            f"first in {name}"
        )
    found: list[str] = []
    with no_grad(), _watched(model, found):
        logits = model(Tensor(images))
        if not found:
            loss = ops.cross_entropy(logits, labels)
            if what_is_lost(loss.data):
                found.append("it first appeared in the cross-entropy, of finite logits")
    if found:
        return found[0]
    return "run again, all layers' outputs and the cross-entropy are finite: it was another part of the loss, or chance"


@contextlib.contextmanager
def _watched(model: Module, found: list[str]) -> Iterator[None]:
    """Inside a `with` block every module notes in `found` where its output is not finite, inner ones first."""
    watched = list(model.named_modules())
    try:
        for name, module in watched:
            vars(module)["forward"] = _watcher(name, module, found)
        yield
    finally:
        for _, module in watched:
            vars(module).pop("forward", None)


def _watcher(name: str, module: Module, found: list[str]) -> Callable:
    forward = module.forward

    def call(*args: Any, **options: Any) -> Any:
        y = forward(*args, **options)
        if not found:
            if lost := next((lost for array in _arrays(y) if (lost := what_is_lost(array))), None):
                layer = f"layer {name}, a {type(module).__name__}" if name else f"the {type(module).__name__} itself"
                found.append(f"it first appeared in {layer}: its output holds {lost}")
        return y

    return call


def _arrays(value: Any) -> Iterator[Array]:
    """The arrays in what a module returns: a tensor, something that holds one, or several of these."""
    if isinstance(value, Tensor):
        yield value.data
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _arrays(part)
    elif isinstance(getattr(value, "tensor", None), Tensor):
        yield value.tensor.data


def what_is_lost(array: Array) -> str | None:
    """ "nan" or "inf" where the array holds one."""
    xp = xp_of(array)
    if not is_floating(array.dtype) or bool(xp.isfinite(array).all()):
        return None
    return "nan" if bool(xp.isnan(array).any()) else "inf"
