"""What happened in a step: spans of time, one inside the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from time import perf_counter
from typing import Any

LEAVES = ("kernel", "product")


class Span:
    """One call that was watched.

    kind: "step"; "phase" (backward, an optimiser's step); "layer" (a module's call); "operation" (a Function's forward
        or backward, or gradients that are added up); "face" (a pass of a kernel's Python face, whose cost is known);
        "kernel" (a launch) with a "packing" of its arguments inside; "product" (a matrix product by BLAS).
    begin, end: seconds on `perf_counter`'s clock. entered, left: the same with the watching itself.
    parent: its position in the list of spans, -1 for a step.
    details: "pass", "shapes", "bytes", "layer", "cost": what there is to say about a span of this kind.
    seconds, own: its time, and what of it is spent in no other span, both without the watching of spans inside it.
    """

    __slots__ = ("begin", "details", "end", "entered", "kind", "left", "name", "own", "parent", "seconds")

    def __init__(self, kind: str, name: str, parent: int, entered: float, details: dict[str, Any]) -> None:
        self.kind, self.name, self.parent, self.entered, self.details = kind, name, parent, entered, details
        self.begin = self.end = self.left = self.seconds = self.own = 0.0

    @property
    def key(self) -> tuple[str, str, int]:
        return self.kind, self.name, self.parent

    def __repr__(self) -> str:
        return f"<Span {self.kind} {self.name}: {1e6 * self.seconds:.1f} us>"


class Recorder:
    """Keeps the spans of one step, in the order in which they began."""

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        """wait: returns once the GPU has done what was launched; None where arrays are on the CPU."""
        self.spans: list[Span] = []
        self.wait = wait
        self._open: list[int] = []

    def call(self, original: Callable, args: tuple, options: dict, span: Span, describe: Callable | None = None) -> Any:
        """original(*args, **options), timed as `span`; describe(result) adds to its details."""
        number = len(self.spans)
        self.spans.append(span)
        self._open.append(number)
        span.begin = perf_counter()
        try:
            result = original(*args, **options)
            if self.wait is not None and span.kind in ("step", "operation", *LEAVES):
                self.wait()
        finally:
            span.end = perf_counter()
            self._open.pop()
        if describe is not None:
            span.details |= describe(result)
        span.left = perf_counter()
        return result

    def span(self, kind: str, name: str, entered: float, **details: Any) -> Span:
        """A new span inside the one that is open now."""
        return Span(kind, name, self._open[-1] if self._open else -1, entered, details)

    def inside(self, kind: str) -> Span | None:
        """The innermost open span of a kind."""
        return next((self.spans[i] for i in reversed(self._open) if self.spans[i].kind == kind), None)

    def finish(self) -> list[Span]:
        """The spans, with `seconds` and `own` worked out."""
        watching = [0.0] * len(self.spans)  # inside each span
        children = [0.0] * len(self.spans)
        for number in range(len(self.spans) - 1, -1, -1):  # a span comes after the one it is in
            span = self.spans[number]
            span.seconds = span.end - span.begin - watching[number]
            span.own = span.seconds - children[number]
            if span.parent >= 0:
                watching[span.parent] += watching[number] + (span.left - span.entered) - (span.end - span.begin)
                children[span.parent] += span.seconds
        return self.spans


def median_step(steps: Sequence[list[Span]]) -> list[Span]:
    """One step of several that did the same: a span's own time is its median, its time the sum of all that is in it.

    Steps that went another way than most are left out. The times of day are those of the step of middle length.
    """
    ways: dict[tuple, list[list[Span]]] = {}
    for spans in steps:
        ways.setdefault(tuple(span.key for span in spans), []).append(spans)
    same = sorted(max(ways.values(), key=len), key=lambda spans: spans[0].seconds)
    middle = same[len(same) // 2]
    for span, *others in zip(middle, *(spans for spans in same if spans is not middle), strict=True):
        span.own = median([span.own, *(other.own for other in others)])
    for span in middle:
        span.seconds = span.own
    for span in reversed(middle):
        if span.parent >= 0:
            middle[span.parent].seconds += span.seconds
    return middle


def around(spans: Sequence[Span], span: Span) -> Iterator[Span]:
    """The spans that a span lies in, the innermost first."""
    while span.parent >= 0:
        span = spans[span.parent]
        yield span
