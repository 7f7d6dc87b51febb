"""Put a recorder round everything that a step is made of, and take it away again.

While a step is watched, the functions it goes through are replaced by ones that take the time: `runtime.launch`,
`blas.multiply`, forward and backward of every `Function`, passes of the kernels' faces, `Module.__call__`,
`Tensor.backward`, an optimiser's `step`. Where no profile runs nothing is in their way.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import pathlib
import sys
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from cupynn import optim
from cupynn.autograd import Function, Tensor, backward, tape
from cupynn.autograd.function import Record
from cupynn.device import Array
from cupynn.kernels import conv
from cupynn.kernels.runtime import blas, cpu, dispatch
from cupynn.nn import Module
from cupynn.profile.costs import faces
from cupynn.profile.recorder import Recorder, Span

Noticed = Callable[[Function, tuple, Any, Span], None]
ADDITION = "add gradients"  # the name of an operation: gradients that arrive at the same place are added up


class Watch:
    """What the watched functions share: the recorder, and what is known of modules and of calls on the tape."""

    def __init__(self, recorder: Recorder, noticed: Noticed | None = None) -> None:
        """noticed: called after each forward with the function, its inputs, its result and the span; takes no time."""
        self.recorder = recorder
        self.noticed = noticed
        self.saved_bytes: int | None = None  # when the last backward began
        self._names: dict[int, str] = {}  # of modules, by id
        self._calls: dict[int, dict[str, Any]] = {}  # of functions whose backward may come, by id: layer and shapes

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside a `with` block the recorder sees what happens."""
        places = []
        replaced = {id(original): watched for original, watched in self._functions()}
        for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "cupynn"]:
            for name, value in vars(module).items():
                if (watched := replaced.get(id(value))) is not None:
                    places.append((module, name, value, watched))
        for owner, name, watch in self._methods():
            original = vars(owner)[name]
            places.append((owner, name, original, _method(watch, original)))
        try:
            for owner, name, _, watched in places:
                setattr(owner, name, watched)
            yield
        finally:
            for owner, name, original, _ in places:
                setattr(owner, name, original)

    def _functions(self) -> Iterator[tuple[Callable, Callable]]:
        """Functions of modules: whoever has imported one has the same object."""
        yield dispatch.launch, functools.partial(self._launch, dispatch.launch)
        yield blas.multiply, functools.partial(self._product, blas.multiply)
        yield backward._deliver, functools.partial(self._deliver, backward._deliver)
        for module, name, ask in faces():
            original = getattr(module, name)
            details = {
                "face": f"{module.__name__.rpartition('.')[2]}.{name}",
                "convolution": module in conv.METHODS.values(),
            }
            bind = inspect.signature(original).bind
            yield original, functools.partial(self._face, original, details, bind, ask)

    def _methods(self) -> Iterator[tuple[type, str, Callable]]:
        for kind in _subclasses(Function):
            if "forward" in vars(kind):
                yield kind, "forward", self._forward
            if "backward" in vars(kind):
                yield kind, "backward", self._backward
        yield Module, "__call__", self._layer
        yield Tensor, "backward", self._phase
        yield cpu.Kernel, "pack", self._packing
        for kind in vars(optim).values():
            if isinstance(kind, type) and "step" in vars(kind):
                yield kind, "step", self._phase

    # One method for each kind of span. `entered` is the first thing they take, so that their own time is known.

    def _launch(self, original: Callable, name: Any, kernel: str, *args: Any, **options: Any) -> None:
        entered = perf_counter()
        source = name.name if isinstance(name, pathlib.Path) else f"{name}.cu"
        span = self.recorder.span("kernel", source, entered, kernel=kernel)
        arrays = args[2] if len(args) > 2 else options["args"]
        span.details["bytes"] = _bytes(arrays)
        self.recorder.call(original, (name, kernel, *args), options, span)

    def _packing(self, original: Callable, kernel: cpu.Kernel, *args: Any) -> bytes:
        span = self.recorder.span("packing", "arguments", perf_counter())
        return self.recorder.call(original, (kernel, *args), {}, span)

    def _product(self, original: Callable, a: Array, b: Array) -> Array:
        span = self.recorder.span("product", "matrix product", perf_counter())
        span.details |= {"shapes": _shapes((a, b)), "bytes": _bytes((a, b))}

        def describe(result: Array) -> dict[str, Any]:
            moved = a.nbytes + b.nbytes + result.nbytes
            return {"bytes": moved, "cost": (moved, 2 * result.size * a.shape[-1])}

        return self.recorder.call(original, (a, b), {}, span, describe)

    def _face(self, original: Callable, named: dict, bind: Callable, ask: Callable, *args: Any, **options: Any) -> Any:
        span = self.recorder.span("face", named["face"], perf_counter(), convolution=named["convolution"])

        def describe(result: Any) -> dict[str, Any]:
            bound = bind(*args, **options)
            bound.apply_defaults()
            return {"cost": ask(bound.arguments, result)}

        return self.recorder.call(original, args, options, span, describe)

    def _forward(self, original: Callable, function: Function, *inputs: Any) -> Any:
        span = self.recorder.span("operation", type(function).__name__, perf_counter())
        layer = self.recorder.inside("layer")
        span.details |= {"pass": "forward", "shapes": _shapes(inputs), "layer": layer.name if layer else ""}
        span.details["recorded"] = self.recorder.inside("operation") is None and any(function.needs_grad or ())
        self._calls[id(function)] = {key: span.details[key] for key in ("shapes", "layer")}

        def describe(result: Any) -> dict[str, Any]:
            if self.noticed is not None:
                self.noticed(function, inputs, result, span)
            return {"bytes": _bytes((inputs, result))}

        return self.recorder.call(original, (function, *inputs), {}, span, describe)

    def _backward(self, original: Callable, function: Function, *grads: Any) -> Any:
        span = self.recorder.span("operation", type(function).__name__, perf_counter())
        known = self._calls.get(id(function), {"shapes": _shapes(grads), "layer": ""})
        span.details |= {"pass": "backward", "recorded": False, **known}
        describe = lambda result: {"bytes": _bytes((grads, function.saved, result))}  # noqa: E731
        return self.recorder.call(original, (function, *grads), {}, span, describe)

    def _deliver(self, original: Callable, source: Any, position: int, grad: Array, owned: bool, arrived: dict) -> None:
        """A gradient that is the first to arrive is handed on; the others are added to it, which takes time."""
        entered = perf_counter()
        slots = arrived.get(source) if type(source) is Record else [source.grad]
        before = None if slots is None else slots[position if type(source) is Record else 0]
        args = (source, position, grad, owned, arrived)
        if before is None:
            original(*args)
            return
        span = self.recorder.span("operation", ADDITION, entered)
        span.details |= {"pass": "backward", "shapes": _shapes((grad,)), "layer": "", "recorded": False}
        span.details["bytes"] = 3 * grad.nbytes
        self.recorder.call(original, args, {}, span)

    def _layer(self, original: Callable, module: Module, *args: Any, **options: Any) -> Any:
        entered = perf_counter()
        if id(module) not in self._names:
            whole = type(module).__name__
            self._names |= {id(part): name or whole for name, part in module.named_modules()}
        span = self.recorder.span("layer", self._names[id(module)], entered)
        return self.recorder.call(original, (module, *args), options, span)

    def _phase(self, original: Callable, owner: Any, *args: Any, **options: Any) -> Any:
        entered = perf_counter()
        name = "backward" if isinstance(owner, Tensor) else "optimiser"
        if isinstance(owner, Tensor) and self.saved_bytes is None and owner.record is not None:
            self.saved_bytes = tape(owner).saved_bytes
        return self.recorder.call(original, (owner, *args), options, self.recorder.span("phase", name, entered))


def _method(watch: Callable, original: Callable) -> Callable:
    """A plain function, since a class binds no other callable to its objects."""

    @functools.wraps(original)
    def call(owner: Any, *args: Any, **options: Any) -> Any:
        return watch(original, owner, *args, **options)

    return call


def _subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)


def arrays_in(values: Any) -> Iterator[Array]:
    for value in values if isinstance(values, (tuple, list)) else (values,):
        if isinstance(value, (tuple, list)):
            yield from arrays_in(value)
        elif hasattr(value, "nbytes") and hasattr(value, "shape") and value.shape:
            yield value


def _bytes(values: Any) -> int:
    return sum({id(array): array.nbytes for array in arrays_in(values)}.values())


def _shapes(values: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for array in arrays_in(values))


def gpu_wait() -> Callable[[], None]:
    """What waits for the current GPU."""
    import cupy

    return lambda: cupy.cuda.get_current_stream().synchronize()
