"""Profile a step: run it plainly, watched, and once more for its memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from cupynn import device
from cupynn.autograd import Tensor, tape
from cupynn.profile.floors import Ceilings
from cupynn.profile.recorder import Recorder, Span, around, median_step
from cupynn.profile.tables import KernelRow, OperationRow, is_product, kernel_rows, operation_rows
from cupynn.profile.watch import Watch, gpu_wait

# What a step's time is shared between, and the sources of kernels that compute more than they move. Kernels that a
# convolution's face launches are convolutions; the others move more than they compute.
CATEGORIES = (
    "matrix products",
    "convolutions",
    "compute-bound kernels",
    "memory-bound kernels",
    "array operations",
    "Python",
)
COMPUTE_BOUND = ("whe.cu", "contract.cu")


@dataclass(frozen=True)
class Profile:
    """A step's time, in seconds.

    spans: the step as `recorder.median_step` gives it: every time is a median over the watched steps.
    plain_seconds: the median over as many steps that were not watched.
    saved_bytes: what the tape kept when backward began; None where there was no backward.
    peak_bytes: the most that arrays allocated within one step held at once.
    small: the same step with next to no data, whose time in operations is taken for their Python.
    """

    spans: list[Span]
    plain_seconds: float
    steps: int
    saved_bytes: int | None
    peak_bytes: int
    small: Profile | None = None

    @property
    def seconds(self) -> float:
        """The step as watched, without the watching: the sum of all spans' own time."""
        return self.spans[0].seconds

    @property
    def records(self) -> int:
        """Calls that the tape recorded; in inference, calls of operations."""
        forward = [span.details for span in self.spans if span.details.get("pass") == "forward"]
        return sum(details["recorded"] for details in forward) or len(forward)

    def categories(self) -> dict[str, float]:
        """Seconds of each of CATEGORIES; their sum is `seconds`.

        "array operations" is what operations and the kernels' faces do outside of kernels and products: NumPy's sums
        and copies, and the Python round them, which is moved to "Python" where `small` tells how long it takes.
        """
        seconds = dict.fromkeys(CATEGORIES, 0.0)
        for number in range(len(self.spans)):
            seconds[self.category(number)] += self.spans[number].own
        python = self.python_in_operations or 0.0
        seconds["array operations"] -= python
        seconds["Python"] += python
        return seconds

    def shares(self) -> dict[str, float]:
        """The part of the step's time in each of CATEGORIES; together 1."""
        return {name: seconds / self.seconds for name, seconds in self.categories().items()}

    def category(self, number: int) -> str:
        """Which of CATEGORIES a span's own time belongs to."""
        span = self.spans[number]
        if is_product(span):
            return "matrix products"
        if span.kind in ("operation", "face"):
            return "array operations"
        if span.kind != "kernel":
            return "Python"
        if any(outer.kind == "face" and outer.details["convolution"] for outer in around(self.spans, span)):
            return "convolutions"
        return "compute-bound kernels" if span.name in COMPUTE_BOUND else "memory-bound kernels"

    @property
    def python_in_operations(self) -> float | None:
        """Python inside operations: their own time in `small`, call by call; None where that is not known."""
        if self.small is None:
            return None
        mine, theirs = self._bodies(), self.small._bodies()
        if [name for name, _ in mine] != [name for name, _ in theirs]:
            return None
        return sum(min(seconds, small) for (_, seconds), (_, small) in zip(mine, theirs, strict=True))

    def _bodies(self) -> list[tuple[str, float]]:
        """(name and pass, time outside of kernels and products) of every operation that lies in no other."""
        bodies: dict[int, list] = {}
        for number, span in enumerate(self.spans):
            if self.category(number) != "array operations":
                continue
            outermost = span
            for outer in around(self.spans, span):
                if outer.kind in ("operation", "face"):
                    outermost = outer
            label = f"{outermost.name} {outermost.details.get('pass', '')}"
            bodies.setdefault(id(outermost), [label, 0.0])[1] += span.own
        return [(label, seconds) for label, seconds in bodies.values()]

    def python(self) -> dict[str, float]:
        """Seconds of Python by where it is: arguments packed for launches, modules and the tape, and so on."""
        places = {"packing": "launches", "layer": "modules and tape", "phase": "modules and tape"}
        seconds = {"launches": 0.0, "modules and tape": 0.0, "optimiser": 0.0, "step": 0.0}
        for number, span in enumerate(self.spans):
            if self.category(number) == "Python":
                seconds["optimiser" if span.name == "optimiser" else places.get(span.kind, "step")] += span.own
        if self.python_in_operations is not None:
            seconds["operations"] = self.python_in_operations
        return seconds

    @property
    def python_per_record(self) -> float:
        """Seconds that modules and the tape take per record, forward and backward."""
        return self.python()["modules and tape"] / max(1, self.records)

    def operations(self, ceilings: Ceilings | None = None) -> list[OperationRow]:
        """A row for each operation, pass and shape, the longest first."""
        return operation_rows(self.spans, ceilings)

    def kernels(self, ceilings: Ceilings | None = None) -> list[KernelRow]:
        """A row for each NAME.cu that was launched, and one for matrix products, the longest first."""
        return kernel_rows(self.spans, ceilings)


def profile(step: Callable[[], object], small: Callable[[], object] | None = None, steps: int = 7) -> Profile:
    """Where the time of `step()` goes, which takes one step of training or inference.

    It is called some 3 * steps + 3 times: to warm up, plainly, watched, and for its memory. small: the same step with
    next to no data, such as two images, which takes the Python inside of operations apart from their work on arrays.
    Where the default device is a GPU every launch and every operation is waited for: the parts are true, and the whole
    is longer than it is.

    Raises ValueError where steps is less than 1.
    """
    if steps < 1:
        raise ValueError(f"profile: steps must be at least 1; got {steps}")
    wait = None if device.default_device() == "cpu" else gpu_wait()
    for _ in range(steps):
        step()
    plain = [_seconds(step, wait) for _ in range(-(-steps // 2))]
    recordings, saved_bytes = [], None
    for number in range(steps + 1):
        recorder = Recorder(wait)
        watch = Watch(recorder)
        with watch.installed():
            recorder.call(step, (), {}, recorder.span("step", "step", perf_counter()))
        if number:  # the first met the watched functions for the first time
            recordings.append(recorder.finish())
        saved_bytes = watch.saved_bytes
    plain += [_seconds(step, wait) for _ in range(-(-steps // 2))]
    peak_bytes = _peak_bytes(step, wait)
    return Profile(
        spans=median_step(recordings),
        plain_seconds=median(plain),
        steps=steps,
        saved_bytes=saved_bytes,
        peak_bytes=peak_bytes,
        small=None if small is None else profile(small, steps=steps),
    )


def _seconds(step: Callable[[], object], wait: Callable[[], None] | None) -> float:
    start = perf_counter()
    step()
    if wait is not None:
        wait()
    return perf_counter() - start


def _peak_bytes(step: Callable[[], object], wait: Callable[[], None] | None) -> int:
    """The most that was allocated at once: by Python and NumPy, or what CuPy's pool grew to."""
    if wait is not None:
        import cupy

        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.used_bytes()
        step()
        return pool.total_bytes() - before
    tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        step()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def chain_overhead(length: int = 1000, rounds: int = 15) -> float:
    """Seconds of Python per record outside of its Function: a chain of additions to one number, forward and backward.

    The time that the Functions take, NumPy's additions, is known from the tape and is taken off.
    """
    one, times = np.ones((), np.float32), []
    for _ in range(rounds):
        leaf = Tensor(one, requires_grad=True)
        start = perf_counter()
        total = leaf
        for _ in range(length):
            total = total + one
        middle = perf_counter()
        entries = tape(total)
        resumed = perf_counter()
        total.backward()
        end = perf_counter()
        inside = sum(entry.record.forward_seconds + entry.record.backward_seconds for entry in entries)
        times.append((middle - start + end - resumed - inside) / length)
    return min(times)
