"""Modules that hold a list of modules, named "0", "1", ... as in PyTorch."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

from cupynn.kernels.batch_norm import Relu
from cupynn.nn.activations import ReLU, ReLU6
from cupynn.nn.batch_norm import BatchNorm2d
from cupynn.nn.module import Module
from cupynn.nn.shaping import Identity


class _Sequence(Module):
    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int | slice) -> Module:
        """One of the modules, or for a slice a new container that shares its modules."""
        modules = list(self.children())
        if not isinstance(index, slice):
            return modules[index]
        part = self._holding(modules[index])
        part.training = self.training
        return part

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, str(range(len(self))[operator.index(index)]), module)

    def append(self, module: Module) -> None:
        """Add a module behind the last one."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: item {len(self)} must be a Module; got {type(module).__name__}")
        setattr(self, str(len(self)), module)


class ModuleList(_Sequence):
    """A list whose modules belong to the module that holds it."""

    def __init__(self, modules: Iterable[Module] = ()):
        for module in modules:
            self.append(module)

    @staticmethod
    def _holding(modules: list[Module]) -> ModuleList:
        return ModuleList(modules)


def relu_of(norm: Module, activation: Module) -> Relu:
    """The option `relu` with which the batch norm applies the activation behind it; False where it cannot."""
    if type(norm) is not BatchNorm2d:
        return False
    return {ReLU: True, ReLU6: 6}.get(type(activation), False)


class Sequential(_Sequence):
    """Modules applied one after the other, and then `residual`, if it is given, added.

    A `BatchNorm2d` and the `ReLU` or `ReLU6` behind it run as one kernel, which reads and writes the images once; so do
    one at the end and the addition.
    """

    def __init__(self, *modules: Module):
        for module in modules:
            self.append(module)

    @staticmethod
    def _holding(modules: list[Module]) -> Sequential:
        return Sequential(*modules)

    def forward(self, x, residual=None):
        modules = list(self.children())
        modules.reverse()
        while modules:
            module = modules.pop()
            if modules and (relu := relu_of(module, modules[-1])):
                modules.pop()
                x = module(x, relu=relu)
            elif residual is not None and not modules and isinstance(module, _ADDING):
                return module(x, residual=residual)
            else:
                x = module(x)
        return x if residual is None else x + residual


_ADDING = BatchNorm2d, Identity, Sequential  # modules that take a residual
