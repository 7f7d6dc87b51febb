"""A differentiable operation, and the record of one call of it."""

from __future__ import annotations

import itertools
from time import perf_counter
from typing import Any

import numpy as np

from cupynn.autograd.grad_mode import mode
from cupynn.autograd.tensor import Tensor
from cupynn.device import Array, is_floating

_next_number = itertools.count().__next__


class Record:
    """One call on the tape.

    `function` is the `Function` called (None once backward has freed it), `kind` its class, and `sequence` its place
    on the tape. `inputs` has one entry per input: None where no gradient is needed, else `(source, position, shape,
    dtype)`, where the source is a leaf `Tensor`, or the `Record` whose output number `position` the input was: records,
    not tensors, so that an array no function saved is freed while the graph lives on. `outputs` has `(shape, dtype)`
    per output. The seconds are host time: a GPU may still be computing when a call returns.
    """

    __slots__ = ("backward_seconds", "forward_seconds", "function", "inputs", "kind", "outputs", "sequence")

    def __init__(self, function: Function, inputs: list, forward_seconds: float) -> None:
        self.function: Function | None = function
        self.kind = type(function)
        self.inputs: list = inputs
        self.outputs: tuple = ()
        self.sequence: int = _next_number()
        self.forward_seconds = forward_seconds
        self.backward_seconds: float | None = None

    @property
    def name(self) -> str:
        return self.kind.__name__

    def free(self) -> None:
        """Let go of what the function saved and of the records before this one."""
        self.function = None
        self.inputs = []

    def __repr__(self) -> str:
        return f"<Record {self.sequence}: {self.name}{' (freed)' if self.function is None else ''}>"


class Function:
    """A differentiable operation. Subclasses write `forward` and `backward`, both on arrays:

        class Scale(Function):
            '''y = factor * x'''

            def forward(self, x):
                return self.factor * x

            def backward(self, grad):
                return self.factor * grad

        y = Scale(factor=2.0)(x)

    Options become attributes. An object is called once, since it keeps what its own backward needs.
    Calling it unwraps tensors (arrays, Python numbers and None pass as they are), runs `forward`, and wraps the array
    or tuple of arrays it returns. Outputs require grad where an input does, except those that are not floating point.

    Before `forward`, two attributes are set: `needs_grad`, a bool per input, all False where nothing is recorded; and
    `input_shapes`, the shape of each input that needs a gradient, None for the others.
    """

    needs_grad: tuple[bool, ...] | None = None
    input_shapes: list
    saved: tuple = ()

    def __init__(self, **options: Any) -> None:
        for name, value in options.items():
            setattr(self, name, value)

    def save(self, *arrays: Any) -> None:
        """Keep arrays for `backward`, which finds them in `self.saved`. They are freed after it.

        They are not copied: who writes to one between forward and backward, as an optimiser's step does to
        parameters, gets the gradient at the new values.
        """
        self.saved = arrays

    def forward(self, *inputs: Any) -> Any:
        raise TypeError(f"{type(self).__name__}: forward is not defined")

    def backward(self, *grads: Any) -> Any:
        """The gradient of each input: one array, or a tuple with one entry per input (None where there is none).

        `grads` holds one array per output (zeros where nothing arrived, None for outputs that are not floating point).
        They may be read-only or not contiguous, and must not be written to. What is returned is a new array,
        an incoming gradient, a saved array, or a view of one of these; its dtype is mended, its shape must be right.
        """
        raise TypeError(f"{type(self).__name__}: backward is not defined")

    def __call__(self, *inputs: Any) -> Any:
        if self.needs_grad is not None:
            raise RuntimeError(f"{type(self).__name__}: a Function object is called once; make a new one for each call")
        arrays: list = []
        needs: list[bool] = []
        sources: list = []
        shapes: list = []
        recording = mode.enabled
        for value in inputs:
            if isinstance(value, Tensor):
                data = value.data
                arrays.append(data)
                if recording and value._requires_grad:
                    shape = data.shape
                    record = value.record
                    sources.append((value if record is None else record, value._position, shape, data.dtype))
                    shapes.append(shape)
                    needs.append(True)
                    continue
            else:
                arrays.append(value)
            needs.append(False)
            sources.append(None)
            shapes.append(None)
        self.needs_grad = tuple(needs)
        self.input_shapes = shapes

        if True not in needs:
            result = self.forward(*arrays)
            if type(result) is tuple:
                return tuple([_wrap(array, self, None, i) for i, array in enumerate(result)])
            return _wrap(result, self, None, 0)

        start = perf_counter()
        result = self.forward(*arrays)
        record = Record(self, sources, perf_counter() - start)
        if type(result) is tuple:
            outputs = tuple([_wrap(array, self, record, i) for i, array in enumerate(result)])
            record.outputs = tuple([(output.data.shape, output.data.dtype) for output in outputs])
            return outputs
        output = _wrap(result, self, record, 0)
        record.outputs = ((output.data.shape, output.data.dtype),)
        return output


def _wrap(array: Array, function: Function, record: Record | None, position: int) -> Tensor:
    if type(array) is not np.ndarray:
        if isinstance(array, (np.generic, float, int)):
            array = np.asarray(array)  # NumPy turns 0-d results into scalars
        elif isinstance(array, Tensor) or not hasattr(array, "dtype"):
            raise TypeError(f"{type(function).__name__}.forward: must return arrays; got {type(array).__name__}")
    tensor = Tensor.__new__(Tensor)
    tensor.data = array
    tensor.grad = None
    tensor._position = position
    if record is not None and (array.dtype.kind == "f" or is_floating(array.dtype)):
        tensor._requires_grad = True
        tensor.record = record
    else:
        tensor._requires_grad = False
        tensor.record = None
    return tensor
