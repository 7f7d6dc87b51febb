"""A training step recorded once as a CUDA graph and then launched as a whole."""

from __future__ import annotations

import contextlib
import functools
import gc
import linecache
import pathlib
import threading
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cupynn import device
from cupynn.autograd import Function, Tensor, is_grad_enabled
from cupynn.device import Array
from cupynn.kernels import runtime
from cupynn.recording import Recording, current, pool

WARM_UP = 2  # calls with arrays of some shapes that just run: kernels are compiled, tables and velocities made
CAPTURE_ERRORS = range(900, 910)  # cudaErrorStreamCaptureUnsupported and those that follow it
GRAPHS = 4  # that a step keeps, one for each combination of shapes


def captured(step: Callable[..., Any]) -> CapturedStep:
    """A function of arrays as one CUDA graph: on a GPU the host asks once for the whole step, not for each kernel.

        @cupynn.captured
        def step(images, labels):
            optimizer.zero_grad()
            loss = ops.cross_entropy(model(Tensor(images)), labels)
            loss.backward()
            optimizer.step()
            return loss

        for images, labels in batches:
            optimizer.param_groups[0]["lr"] = ...
            loss = step(images, labels)

    The results are those of the plain function: to the bit, where cuBLAS takes the same way to a matrix product. The
    first `WARM_UP` calls with arrays of some shapes and dtypes just run it; the next one records it. From then on no
    line of it runs: arguments are copied to where the recorded ones lay, and the graph is launched. For other shapes
    another graph is made; the `GRAPHS` used last are kept, each with the memory that one step takes.

    What changes from step to step: the arrays, the optimiser's options, dropout, the parameters and buffers of a
    model (which the step, `load_state_dict`, or anything else may overwrite in place), a loss scale. All else is as it
    was when the step was recorded: `model.training`, numbers and branches in the function, what it prints or appends.

    step: takes arrays, of NumPy or CuPy; returns arrays, tensors, None, or tuples, lists and dicts of these. What comes
    back is a copy that later calls leave alone; tensors are leaves. It may not wait for the device (`item()`,
    `float()`, `if array`, `print`), nor draw random numbers but by cupynn's own functions, nor call `einsum` or NumPy's
    products, which CuPy does not record (`@` and `matmul` of tensors are). It calls zero_grad if it calls backward;
    gradients are there after it, as after the plain function.

    On the CPU, and with CUPYNN_KERNELS=reference, the function just runs. Raises TypeError for other arguments and
    results; RuntimeError, naming the operation and the line, for a function that cannot be recorded; MemoryError where
    the device has no memory left for it.
    """
    return CapturedStep(step)


class CapturedStep:
    """What `captured` returns."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step = step
        self._calls: Counter[tuple] = Counter()
        self._graphs: OrderedDict[tuple, _Recorded] = OrderedDict()
        functools.update_wrapper(self, step)

    def __call__(self, *arrays: Array) -> Any:
        for number, array in enumerate(arrays):
            if not isinstance(array, np.ndarray) and device.xp_of(array) is np:
                raise TypeError(
                    f"captured: {_name(self._step)} takes arrays; argument {number} is a {type(array).__name__}. Other "
                    "values would stay as they were when the step was recorded"
                )
        if device.default_device() == "cpu" or runtime.mode() != "compiled" or current() is not None:
            return _each(self._step(*arrays), _leaf)
        arrays = tuple(device.asarray(array) for array in arrays)
        shapes = (device.default_device(), is_grad_enabled(), *((array.shape, array.dtype) for array in arrays))
        graph = self._graphs.get(shapes)
        if graph is not None and graph.valid:
            self._graphs.move_to_end(shapes)
            return graph.replay(arrays)
        self._graphs.pop(shapes, None)
        self._calls[shapes] += 1
        if self._calls[shapes] <= WARM_UP:
            return _each(self._step(*arrays), _leaf)
        if len(self._graphs) == GRAPHS:
            dropped, _ = self._graphs.popitem(last=False)
            del self._calls[dropped]  # it has to come often again
        graph = self._graphs[shapes] = _Recorded(self._step, arrays)
        return graph.first()


class _Recorded:
    """One graph of a step, for arrays of some shapes, with the memory it lives in."""

    def __init__(self, step: Callable[..., Any], arrays: tuple[Array, ...]) -> None:
        import cupy

        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()  # the step's memory is taken anew, from a pool of its own
        self._pool = pool()  # nobody else gets memory that the step frees on its way
        self._arguments = [array.copy() for array in arrays]
        self._host = Recording()
        self._stream = stream = cupy.cuda.Stream(non_blocking=True)
        with self._host, stream, cupy.cuda.using_allocator(self._pool.malloc), _no_uploads(cupy):
            stream.begin_capture()
            try:
                self._result = step(*self._arguments)
                _each(self._result, _leaf)  # what it refuses
                self._host.finish()
            except BaseException as error:
                with contextlib.suppress(RuntimeError):  # CUDA ends a capture that it refuses a part of
                    stream.end_capture()
                if (what := _refused(error)) is None:
                    raise
                raise RuntimeError(_explanation(step, what, error)) from error
            self._graph = stream.end_capture()

    @property
    def valid(self) -> bool:
        """Whether the arrays that it works on are still those of the model and the optimiser."""
        return self._host.valid

    def first(self) -> Any:
        """The step that was recorded is still to be done."""
        self._host.start()
        return self._launch()

    def replay(self, arrays: tuple[Array, ...]) -> Any:
        for own, given in zip(self._arguments, arrays, strict=True):
            own[...] = given
        self._host.renew()
        return self._launch()

    def _launch(self) -> Any:
        self._graph.launch()
        self._host.give_grads()
        return _each(self._result, lambda value: _leaf(value, copy=True))


class _CopyFromHost(Exception):
    """A step that is being recorded copies from the host."""


@contextlib.contextmanager
def _no_uploads(cupy: Any) -> Iterator[None]:
    """In this thread CuPy copies nothing from the host: a graph would copy again, from memory that is others' by then.

    Each such copy begins with pinned memory.
    """
    here, usual = threading.get_ident(), cupy.get_default_pinned_memory_pool().malloc

    def allocate(size: int) -> Any:
        if threading.get_ident() == here:
            raise _CopyFromHost
        return usual(size)

    cupy.cuda.set_pinned_memory_allocator(allocate)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(usual)


def _refused(error: BaseException) -> str | None:
    """What the step does that cannot be recorded, by CUDA's error, or one that CuPy has for it; None for any other."""
    import cupy

    if isinstance(error, _CopyFromHost) or "so H2D transfers are disallowed" in str(error):
        return "copies an array from the host"
    if isinstance(error, NotImplementedError) and "stream capture" in str(error):
        return "calls a library that CuPy does not record"
    refused = isinstance(error, cupy.cuda.runtime.CUDARuntimeError) and error.status in CAPTURE_ERRORS
    return "waits for the device" if refused or "the current stream is capturing" in str(error) else None


def _explanation(step: Callable, what: str, error: BaseException) -> str:
    """Which operation does `what`, and the line of the step that asked for it."""
    code = getattr(step, "__code__", None)
    operation = place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner, function = frame.f_locals.get("self"), frame.f_code.co_name
        if isinstance(owner, (Function, Tensor)):
            operation = f" in {type(owner).__name__}.{function}"
        if code is not None and frame.f_code.co_filename == code.co_filename:
            text = linecache.getline(code.co_filename, line).strip()
            place = f"; it is asked for in {pathlib.Path(code.co_filename).name}, line {line}: {text}"
    return (
        f"captured: {_name(step)} {what}{operation}, which a recorded step cannot do{place}. Do it outside the step, "
        "or leave the step without `captured`"
    )


def _name(step: Callable) -> str:
    return getattr(step, "__name__", type(step).__name__)


def _leaf(value: Any, copy: bool = False) -> Any:
    """An array, or a tensor without its record."""
    if isinstance(value, Tensor):
        return Tensor(value.data.copy() if copy else value.data)
    if value is None or isinstance(value, np.ndarray) or device.xp_of(value) is not np:
        return value.copy() if copy and value is not None else value
    raise TypeError(
        f"captured: a step returns arrays, tensors, None, or tuples, lists and dicts of these; it returned a "
        f"{type(value).__name__}, which would stay as it was when the step was recorded"
    )


def _each(value: Any, function: Callable[[Any], Any]) -> Any:
    """`function` of every array in what a step returns."""
    if isinstance(value, dict):
        return {key: _each(part, function) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([_each(part, function) for part in value])
    return function(value)
