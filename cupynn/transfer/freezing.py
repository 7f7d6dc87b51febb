"""Parts of a model that stay as they are while the rest is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cupynn.nn import Module


def freeze(model: Module, names: Sequence[str]) -> None:
    """Let the modules of these dotted names, and all inside them, stay as they are.

    Their parameters require no gradient, so an optimiser leaves them alone. Their batch norms are in evaluation mode,
    which uses running statistics and does not move them; `training_mode`, unlike `train()`, keeps them there. Dropout
    in them goes on. A parameter that a module outside shares is frozen for both.

    Raises ValueError, before anything is changed, for a name the model has not.
    """
    for module in _named("freeze", model, names):
        _require_grad(module, False)
        for norm in _normalising(module):
            norm.frozen, norm.training = True, False


def unfreeze(model: Module, names: Sequence[str]) -> None:
    """Undo `freeze` of these modules and all inside them; batch norms take the mode of `model` itself.

    Raises ValueError, before anything is changed, for a name the model has not.
    """
    for module in _named("unfreeze", model, names):
        _require_grad(module, True)
        for norm in _normalising(module):
            norm.frozen, norm.training = False, model.training


def training_mode(model: Module) -> Module:
    """`model.train()`, but for frozen batch norms, which stay in evaluation mode; returns the model."""
    model.train()
    for norm in _normalising(model):
        if getattr(norm, "frozen", False):
            norm.training = False
    return model


def _named(operation: str, model: Module, names: Sequence[str]) -> list[Module]:
    known = dict(model.named_modules())
    if unknown := [name for name in names if name not in known]:
        there = ", ".join(filter(None, known))
        raise ValueError(f"{operation}: {type(model).__name__} has no module {unknown[0]!r}; there are {there}")
    return [known[name] for name in names]


def _require_grad(module: Module, value: bool) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = value
        if not value:
            parameter.grad = None  # or an optimiser's step would still follow it once


def _normalising(module: Module) -> Iterator[Module]:
    """The layers inside that keep running statistics."""
    return (layer for layer in module.modules() if "running_mean" in layer._buffer_names)
