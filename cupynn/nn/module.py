"""Modules: layers that own parameters, buffers and other modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from cupynn import recording
from cupynn.autograd import Tensor
from cupynn.device import Array, asarray, is_floating, to_numpy, use_device, xp_of


class Parameter(Tensor):
    """A tensor that a module learns."""

    __slots__ = ()

    def __init__(self, data: Array, requires_grad: bool = True):
        super().__init__(data, requires_grad=requires_grad)


class Module:
    """A layer or a network. A subclass makes its parts in `__init__` and computes in `forward`.

    Whatever is assigned to an attribute and is a `Parameter` or a `Module` belongs to the module, under the
    attribute's name; an array that is state but is not learned is declared by `register_buffer`. Names of nested
    parts are joined by dots, as in PyTorch: `block.conv.weight`.
    """

    training = True
    _buffer_names: tuple[str, ...] = ()

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.forward(*args, **options)

    def forward(self, *args: Any, **options: Any) -> Any:
        raise TypeError(f"{type(self).__name__} defines no forward")

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(vars(self).get(name), Parameter) and not (
            value is None or isinstance(value, (Parameter, Module))
        ):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Parameter, and a {type(value).__name__} would take it out of "
                f"parameters(); assign a Parameter or None, or fill {name}.data"
            )
        super().__setattr__(name, value)

    def register_buffer(self, name: str, array: Array | None) -> None:
        """Make `array` an attribute that is saved with the state and not learned; None stands for no array."""
        setattr(self, name, array)
        if name not in self._buffer_names:
            self._buffer_names = (*self._buffer_names, name)

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one."""
        return (child for _, child in self.named_children())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules that are attributes of this one, in the order of their assignment."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module, whose name is "", and all below it, each once."""
        seen = set()
        for name, module in self._walk(""):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def _walk(self, name: str) -> Iterator[tuple[str, Module]]:
        yield name, self
        for child_name, child in self.named_children():
            yield from child._walk(f"{name}.{child_name}" if name else child_name)

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of every parameter, each once, under the first of its names."""
        seen = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def state_dict(self) -> dict[str, Array]:
        """Every parameter's and buffer's array under its dotted name. The arrays are the module's own, not copies."""
        state = {}
        for prefix, module in self._walk(""):
            dot = f"{prefix}." if prefix else ""
            parts = vars(module)
            state.update({dot + name: value.data for name, value in parts.items() if isinstance(value, Parameter)})
            state.update({dot + name: parts[name] for name in module._buffer_names if parts[name] is not None})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy arrays into the parameters and buffers of the same names; each keeps its dtype and device.

        Raises ValueError listing every name that is missing or unexpected, every shape that differs, and every dtype
        that does not convert to the module's by NumPy's rule "same_kind" (no fractions into integers, for one), before
        anything is changed.
        """
        own = self.state_dict()
        faults = [f"missing: {name} {array.shape}" for name, array in own.items() if name not in state]
        faults += [f"unexpected: {name}" for name in state if name not in own]
        new = {}
        for name, array in own.items():
            if name not in state:
                continue
            value = state[name].data if isinstance(state[name], Tensor) else state[name]
            try:
                value = to_numpy(value)
            except (TypeError, ValueError) as error:
                faults.append(f"{name} is no array: {error}")
                continue
            if value.shape != array.shape:
                faults.append(f"shape of {name}: the module has {array.shape}, the state has {value.shape}")
            elif not np.can_cast(value.dtype, array.dtype, "same_kind"):
                faults.append(f"dtype of {name}: the module has {array.dtype}, the state has {value.dtype}")
            else:
                new[name] = xp_of(array).array(value, dtype=array.dtype)  # a copy: the state may hold own arrays
        if faults:
            raise ValueError(f"load_state_dict: the state does not fit {type(self).__name__}\n  " + "\n  ".join(faults))
        for name, array in new.items():
            own[name][...] = array

    def train(self, mode: bool = True) -> Module:
        """Set every module below to training, or with mode=False to evaluation; returns the module itself."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Set every module below to evaluation; returns the module itself."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        parameters = list(self.parameters())
        for parameter in parameters:
            parameter.grad = None
        if (now := recording.current()) is not None:
            now.zeroed(parameters)

    def astype(self, dtype: Any) -> Module:
        """Convert floating-point parameters and buffers to `dtype`, and forget gradients; returns the module itself.

        Make an optimiser after it, since velocities keep their dtype; the same holds for `to_device`.
        """
        return self._convert(lambda array: array.astype(dtype, copy=False) if is_floating(array.dtype) else array)

    def to_device(self, device: str) -> Module:
        """Move parameters and buffers to "cpu" or "cuda:N", and forget gradients; returns the module itself."""
        with use_device(device):
            return self._convert(asarray)

    def _convert(self, convert: Callable[[Array], Array]) -> Module:
        self.zero_grad()
        for parameter in self.parameters():
            parameter.data = convert(parameter.data)
        for module in self.modules():
            for name in module._buffer_names:
                if getattr(module, name) is not None:
                    setattr(module, name, convert(getattr(module, name)))
        return self

    def extra_repr(self) -> str:
        """What `repr` shows between a module's parentheses."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        extra = [self.extra_repr()] if self.extra_repr() else []
        return f"{type(self).__name__}(\n  " + "\n  ".join(extra + lines) + "\n)"

    def _repr_html_(self) -> str:
        from cupynn.nn.notebook import module_markup  # which has to know this class

        return module_markup(self)
