"""Streams, events, graphs and pinned memory of the fake GPU.

Operations run at once, in the order they are asked for. What a GPU may do in another order is found by clocks: every
operation belongs to a stream, and one that touches memory which another stream writes, or writes what another reads,
must come behind it by events or by the host's waiting; else AssertionError. So must the host before it writes anew to
pinned memory that a copy reads. While a stream captures, its operations are recorded and not run: their results are
garbage until the graph is launched, which runs them on the arrays and with the numbers they were recorded with.
"""

import contextlib
import weakref

import numpy as np

UNSUPPORTED, INVALIDATED = 900, 901  # cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated


class Stream:
    """`cupy.cuda.Stream`. `clock`: stream -> how many of its operations are over before this one's next begins."""

    def __init__(self, null=False, non_blocking=False):
        assert null or non_blocking, "a blocking stream waits for the null stream, which the fake does not model"
        self.ptr, self.clock, self.graph, self.valid = id(self), {}, None, True

    def __enter__(self):
        current.append(self)
        return self

    def __exit__(self, *error):
        assert current.pop() is self

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        _merge(self.clock, event.clock)

    def synchronize(self):
        waits("synchronize")
        _merge(host, self.clock)

    def begin_capture(self, mode=None):
        assert self is not null, "cannot capture on the default (legacy) stream"
        self.graph, self.valid = Graph(pools[-1]), True

    def end_capture(self):
        graph, self.graph = self.graph, None
        if not self.valid:
            raise error_of_cuda(INVALIDATED)
        return graph

    def is_capturing(self):
        return self.graph is not None


class Event:
    """`cupy.cuda.Event`: the clock of its stream when it was recorded."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.clock = {}

    def record(self, stream=None):
        self.clock = dict((stream or current[-1]).clock)

    def synchronize(self):
        waits("synchronize")
        _merge(host, self.clock)

    @property
    def done(self):
        return all(host.get(stream, 0) >= count for stream, count in self.clock.items())


class Graph:
    """`cupy.cuda.Graph`: what a stream recorded."""

    def __init__(self, pool=None):
        self.pool = pool  # that the step allocates from
        self.operations = []  # (function, arrays read, arrays written)
        self.launches = 0

    def launch(self, stream=None):
        self.launches += 1
        with stream or contextlib.nullcontext():
            assert current[-1].graph is None, "a graph is launched while another is captured"
            for operation in self.operations:
                perform(*operation)


class MemoryPool:
    """`cupy.cuda.MemoryPool`: memory that was in it stays until the pool goes."""

    def __init__(self, allocator=None):
        self.kept = []
        if allocator is not None:
            allocator(1)

    def malloc(self, size):
        raise AssertionError("the fake's arrays are NumPy's")


@contextlib.contextmanager
def using_allocator(allocator=None):
    pools.append(getattr(allocator, "__self__", None))
    try:
        yield
    finally:
        pools.pop()


def allocated(array):
    """Take note of a new array in device memory."""
    if pools[-1] is not None:
        pools[-1].kept.append(array)
    assert current[-1].graph is None or pools[-1] is not None, (
        "an array of a captured step comes from the default pool, which gives its memory to others once it is freed"
    )
    if (graph := current[-1].graph) is not None and pools[-1] is graph.pool:
        # Operations before this one may have had this memory, and have written to it: at every launch.
        graph.operations.append((lambda: poison(array), (), (array,)))


def poison(array):
    """What no operation has written: NaN, or all bits set."""
    array[...] = np.nan if array.dtype.kind in "fV" else True if array.dtype == bool else array.dtype.type(0) - 1


def perform(function, reads, writes):
    """An operation on the current stream, on NumPy arrays: run, or recorded while the stream captures."""
    stream = current[-1]
    if stream.graph is not None:
        stream.graph.operations.append((function, reads, writes))
        return
    _check_copies()
    _merge(stream.clock, host)
    count = stream.clock[stream] = stream.clock.get(stream, 0) + 1
    for array in (*reads, *writes):
        _buffer(array).need_written(stream)
    for array in writes:
        _buffer(array).need_read(stream)
    with np.errstate(all="ignore"):  # a GPU does not warn
        function()
    for array in reads:
        _buffer(array).readers[stream] = count
    for array in writes:
        buffer = _buffer(array)
        buffer.writer, buffer.readers = (stream, count), {}


def capturing():
    return current[-1].graph is not None


def waits(name):
    """The host waits for the device: CuPy copies nothing from a stream that captures, and CUDA waits for none, which
    loses the capture."""
    if current[-1].graph is not None:
        if name != "synchronize":
            raise RuntimeError("the current stream is capturing, so D2H transfers are disallowed")
        current[-1].valid = False
        raise error_of_cuda(UNSUPPORTED)
    note_wait(name)


def host_waits_for_current():
    """`ndarray.get` and its like: the host goes on when the current stream has done its work."""
    _merge(host, current[-1].clock)
    _check_copies()


def copy_from_host(array, values):
    """An asynchronous copy from pinned memory to device memory; the host may not touch `values` until it is over."""
    assert current[-1].graph is None, "a captured copy would read the same host memory each time"
    perform(lambda: np.copyto(array, values), (), (array,))
    copies.append((values, values.copy(), current[-1], current[-1].clock[current[-1]]))


def alloc_pinned_memory(size):
    return pinned_allocator[0](size)


def set_pinned_memory_allocator(allocator=None):
    pinned_allocator[0] = allocator or bytearray


def upload(nbytes):
    """CuPy's copy of a NumPy array: through pinned memory that it gives back when the copy is over."""
    alloc_pinned_memory(nbytes)
    assert current[-1].graph is None, "a captured copy would read pinned memory that was given back"


def reset():
    host.clear()
    copies.clear()
    null.clock.clear()
    buffers.clear()
    current[:], pools[:] = [null], [None]
    pinned_allocator[0] = bytearray


class _Buffer:
    """Memory of one allocation: which operation wrote it last, and which have read it since."""

    def __init__(self, root):
        self.alive, self.writer, self.readers = weakref.ref(root), None, {}

    def need_written(self, stream):
        if self.writer is not None:
            other, count = self.writer
            assert stream.clock.get(other, 0) >= count, "a stream uses what another still writes: wait_event is missing"

    def need_read(self, stream):
        for other, count in self.readers.items():
            assert stream.clock.get(other, 0) >= count, (
                "a stream writes to what another still reads: wait_event is missing"
            )


def _buffer(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    found = buffers.get(id(array))
    if found is None or found.alive() is not array:
        found = buffers[id(array)] = _Buffer(array)
    return found


def _check_copies():
    copies[:] = [copy for copy in copies if host.get(copy[2], 0) < copy[3]]
    for values, before, _, _ in copies:
        assert values.tobytes() == before.tobytes(), "the host wrote to memory that a copy may still read"


def _merge(clock, other):
    for stream, count in other.items():
        clock[stream] = max(clock.get(stream, 0), count)


def install(cuda, real, note):
    """Give these to the fake `cupy.cuda`. note(name): called when the host waits."""
    global note_wait, error_of_cuda
    note_wait, error_of_cuda = note, real.cuda.runtime.CUDARuntimeError
    cuda.Stream, cuda.Event, cuda.Graph, cuda.MemoryPool = Stream, Event, Graph, MemoryPool
    Stream.null = null
    cuda.Memory, cuda.MemoryPointer = (lambda size: size), (lambda memory, offset: memory)
    cuda.using_allocator, cuda.get_current_stream = using_allocator, lambda: current[-1]
    cuda.alloc_pinned_memory, cuda.set_pinned_memory_allocator = alloc_pinned_memory, set_pinned_memory_allocator


note_wait = error_of_cuda = None  # from `install`
pinned_allocator = [bytearray]
host = {}  # what the host knows to be over: a clock
null = Stream(null=True)
current, pools = [null], [None]
copies = []  # (source, what it held, stream, count) of asynchronous copies from the host
buffers = {}
