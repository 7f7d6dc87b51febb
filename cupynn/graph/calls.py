"""The calls that a drawing shows: a tape's records, with the layers that made them and the time they took."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from cupynn import device
from cupynn.autograd import Function, Tape, Tensor, enable_grad, tape
from cupynn.autograd.tape import Entry
from cupynn.device import Array
from cupynn.nn import Module
from cupynn.profile.measure import gpu_wait
from cupynn.profile.recorder import Recorder, Span
from cupynn.profile.watch import Watch, arrays_in

# Modules whose functions take each element by itself, whatever the shape.
ELEMENTWISE = tuple(f"cupynn.{name}" for name in ("autograd.functions.arithmetic", "ops.activations", "ops.dropout"))
RUNS = 6  # of a model; a time is the shortest of the last five: other programs lengthen it least


class Leaf(NamedTuple):
    """What no record made: a parameter under its dotted name, another tensor, or the images a model was given."""

    name: str
    shape: tuple[int, ...]
    kind: str = "parameter"  # or "tensor", "images"

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Call:
    """A record of the tape.

    operation, output: the Function's name, and the shape of its first output. layer: dotted name of the module that
    called it, "" outside of all and in the network itself. sources: numbers of earlier calls, and leaves. saved: bytes
    of each buffer it keeps for backward, by the buffer's id. seconds: of its forward.
    """

    number: int
    operation: str
    layer: str
    output: tuple[int, ...]
    sources: tuple[int | Leaf, ...]
    saved: Mapping[int, int]
    seconds: float
    elementwise: bool = False


@dataclass(frozen=True)
class Calls:
    """All calls behind a tensor, first call first; kinds: the class of each module, by its dotted name."""

    calls: list[Call]
    kinds: Mapping[str, str] = field(default_factory=dict)


def calls_behind(tensor: Tensor) -> Calls:
    """The tape of a tensor. Times are those of its only run, on the host."""
    names: dict[int, str] = {}
    entries = tape(tensor)
    for entry in entries:
        for source in entry.inputs:
            if isinstance(source, Tensor):
                names.setdefault(id(source), f"{source.dtype} {len(names)}")
    calls = []
    for entry in entries:
        sources = tuple(
            source if isinstance(source, int) else Leaf(names[id(source)], source.shape, "tensor")
            for source in entry.inputs
        )
        calls.append(_call(entry, "", sources, entry.record.forward_seconds))
    return Calls(calls)


def calls_of(model: Module, input_shape: tuple[int, ...], batch: int) -> Calls:
    """The tape of `model`, in training mode, on `batch` random images of `input_shape`, (C, H, W).

    A copy runs six times; a time is the shortest of the last five.

    Raises TypeError where the model gives no tensor, and ValueError where nothing is recorded, since no parameter
    requires a gradient.
    """
    network = copy.deepcopy(model).train()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    kinds = {name: type(module).__name__ for name, module in network.named_modules()}
    images = device.asarray(np.random.default_rng(0).standard_normal((batch, *input_shape), dtype=np.float32))
    with enable_grad():
        times = [_seconds(*_run(network, images)) for _ in range(RUNS - 1)][1:]  # one tape at a time is in memory
        entries, follower = _run(network, images)
    times.append(_seconds(entries, follower))
    calls = []
    for entry, *seconds in zip(entries, *times, strict=True):
        function = id(entry.record.function)
        layer = follower.spans[function].details["layer"]
        sources = [source if isinstance(source, int) else _leaf(source, names) for source in entry.inputs]
        if function in follower.readers:
            sources.append(Leaf("images", images.shape, "images"))
        calls.append(_call(entry, layer if layer != kinds[""] else "", tuple(sources), min(seconds)))
    return Calls(calls, kinds)


def _leaf(tensor: Tensor, names: Mapping[int, str]) -> Leaf:
    return Leaf(names[id(tensor)], tensor.shape) if id(tensor) in names else Leaf("tensor", tensor.shape, "tensor")


def _seconds(entries: Tape, follower: _Follower) -> list[float]:
    return [follower.spans[id(entry.record.function)].seconds for entry in entries]


def _call(entry: Entry, layer: str, sources: tuple[int | Leaf, ...], seconds: float) -> Call:
    record = entry.record
    elementwise = record.kind.__module__ in ELEMENTWISE
    return Call(
        entry.number, record.name.lstrip("_"), layer, record.outputs[0][0], sources, entry.saved, seconds, elementwise
    )


def _run(network: Module, images: Array) -> tuple[Tape, _Follower]:
    """The tape of one forward pass, and what was seen of its functions."""
    recorder = Recorder(None if device.default_device() == "cpu" else gpu_wait())
    follower = _Follower(recorder, images)
    with Watch(recorder, follower.notice).installed():
        output = recorder.call(network, (Tensor(images),), {}, recorder.span("step", "step", perf_counter()))
    recorder.finish()
    if not isinstance(output, Tensor):
        raise TypeError(f"graph: {type(network).__name__} must return a tensor; it returned {type(output).__name__}")
    if output.record is None:
        raise ValueError(f"graph: {type(network).__name__} records nothing: no parameter requires a gradient")
    return tape(output), follower


class _Follower:
    """Keeps the span of each function, and sees which recorded ones read the images, or what was made of them before
    there was anything to record: a border of zeros for one."""

    def __init__(self, recorder: Recorder, images: Array) -> None:
        self.recorder = recorder
        self.spans: dict[int, Span] = {}
        self.readers: set[int] = set()
        self._images = {id(images): images}

    def notice(self, function: Function, inputs: tuple, result: Any, span: Span) -> None:
        self.spans[id(function)] = span
        if self.recorder.inside("operation") is not None or not any(id(a) in self._images for a in arrays_in(inputs)):
            return
        if span.details["recorded"]:
            self.readers.add(id(function))
        else:
            self._images |= {id(array): array for array in arrays_in(result)}
