"""A profile's rows: by operation, and by kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cupynn.profile.floors import Ceilings
from cupynn.profile.recorder import LEAVES, Span, around

PRODUCT = "matrix products"


def is_product(span: Span) -> bool:
    """Whether a span's own time is that of a matrix product: by BLAS, or an operation that is nothing else."""
    return span.kind == "product" or (span.kind == "operation" and span.name in ("MatMul", "Einsum"))


@dataclass
class OperationRow:
    """Calls of one operation and pass at the same shapes.

    seconds: of a step, kernels included; kernel_seconds: of that, in kernels and matrix products. bytes: of the arrays
    it takes and gives, backward with what was saved. floor: seconds that its passes' costs take at the machine's
    ceilings; None where no cost is known.
    """

    name: str
    which: str  # "forward" or "backward"
    shapes: tuple[tuple[int, ...], ...]
    calls: int = 0
    seconds: float = 0.0
    kernel_seconds: float = 0.0
    bytes: int = 0
    floor: float | None = None
    layers: list[str] = field(default_factory=list)


@dataclass
class KernelRow:
    """Launches of one NAME.cu, or all matrix products.

    bytes, operations, floor: what its passes must cost by their faces' `cost`, and the least time for it at the
    machine's ceilings; None where none is known. costed_seconds: what the launches of those passes took.
    """

    name: str
    launches: int = 0
    seconds: float = 0.0
    costed_seconds: float = 0.0
    bytes: int | None = None
    operations: int | None = None
    floor: float | None = None

    @property
    def of_floor(self) -> float | None:
        """The floor as a share of the time; above 1 where a method computes less than `cost` says, as Winograd's."""
        return self.floor / self.costed_seconds if self.floor and self.costed_seconds else None


def operation_rows(spans: Sequence[Span], ceilings: Ceilings | None) -> list[OperationRow]:
    """A row for each operation, pass and shape, the longest first. What an operation calls is part of it."""
    rows: dict[tuple, OperationRow] = {}
    row_of: dict[int, OperationRow] = {}
    for span in spans:
        outer = None if span.parent < 0 else row_of.get(id(spans[span.parent]))
        if span.kind == "operation" and outer is None:
            key = span.name, span.details["pass"], span.details["shapes"]
            outer = rows.setdefault(key, OperationRow(*key))
            outer.calls += 1
            outer.seconds += span.seconds
            outer.bytes += span.details.get("bytes", 0)
            if span.details["layer"] not in ("", *outer.layers):
                outer.layers.append(span.details["layer"])
        elif span.kind == "face" and outer is None:  # an optimiser's: no operation
            key = span.name, "", ()
            outer = rows.setdefault(key, OperationRow(*key))
            outer.calls += 1
            outer.seconds += span.seconds
        if outer is None:
            continue
        row_of[id(span)] = outer
        if span.kind in LEAVES:
            outer.kernel_seconds += span.own
        if (cost := span.details.get("cost")) and ceilings is not None and _is_outermost(spans, span):
            outer.floor = (outer.floor or 0.0) + ceilings.seconds(cost)
    return sorted(rows.values(), key=lambda row: row.seconds, reverse=True)


def kernel_rows(spans: Sequence[Span], ceilings: Ceilings | None) -> list[KernelRow]:
    """A row for each NAME.cu, and one for matrix products, the longest first.

    A cost is that of a pass, which may take several kernels: it goes to the one in which the pass spends most.
    """
    rows: dict[str, KernelRow] = {}
    passes: dict[int, tuple[Span, dict[str, float]]] = {}  # time by name of the launches in each pass
    for span in spans:
        if is_product(span):
            name = PRODUCT
        elif span.kind == "kernel":
            name = span.name
        else:
            continue
        row = rows.setdefault(name, KernelRow(name))
        row.launches += 1
        row.seconds += span.own
        costed = (outer for outer in (*around(spans, span), span) if outer.details.get("cost"))
        if (owner := next(costed, None)) is not None:
            times = passes.setdefault(id(owner), (owner, {}))[1]
            times[name] = times.get(name, 0.0) + span.own
    for owner, times in passes.values():
        row = rows[max(times, key=times.get)]
        moved, operations = owner.details["cost"]
        row.bytes = (row.bytes or 0) + moved
        row.operations = (row.operations or 0) + operations
        row.costed_seconds += sum(times.values())
        if ceilings is not None:
            row.floor = (row.floor or 0.0) + ceilings.seconds((moved, operations))
    return sorted(rows.values(), key=lambda row: row.seconds, reverse=True)


def layers_text(layers: Iterable[str]) -> str:
    """`features.0`, or `features.0 +2` for three."""
    first, *others = [*layers] or [""]
    return f"{first} +{len(others)}" if others else first


def _is_outermost(spans: Sequence[Span], span: Span) -> bool:
    return not any(outer.details.get("cost") for outer in around(spans, span))
