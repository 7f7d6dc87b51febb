"""Look at a recorded graph: as a table, as a drawing, by weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cupynn.autograd.backward import records_behind
from cupynn.autograd.function import Record
from cupynn.autograd.notebook import tape_markup
from cupynn.autograd.tensor import Tensor


@dataclass(frozen=True)
class Entry:
    """One record as it was when the tape was taken: a later backward frees the record's arrays, not this."""

    number: int
    record: Record
    inputs: tuple[int | Tensor, ...]  # the number of an earlier entry, or a leaf
    saved: Mapping[int, int]  # bytes of each buffer it keeps, by the buffer's id

    @property
    def saved_bytes(self) -> int:
        return sum(self.saved.values())

    @property
    def shapes(self) -> str:
        return ", ".join(str(shape) for shape, _ in self.record.outputs)


class Tape(list[Entry]):
    """The entries behind a tensor, first call first. `print` gives a table, `dot()` a drawing.

    `saved_bytes` is the weight of all that is kept for backward; an array saved by several records counts once.
    Times are host time: on a GPU they are the time to launch, since kernels run on after a call returns.
    """

    saved_bytes: int = 0

    def _rows(self) -> list[tuple[str, ...]]:
        """The table, its heads first."""
        rows = [("number", "function", "inputs", "output", "saved bytes", "forward us", "backward us")]
        for entry in self:
            inputs = ", ".join(str(i) if isinstance(i, int) else f"leaf{i.shape}" for i in entry.inputs)
            record = entry.record
            times = [_microseconds(record.forward_seconds), _microseconds(record.backward_seconds)]
            rows.append((str(entry.number), record.name, inputs, entry.shapes, str(entry.saved_bytes), *times))
        return rows

    @property
    def _summary(self) -> str:
        return f"{len(self)} records, {self.saved_bytes} bytes saved"

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        left = (1, 2, 3)  # the columns of text; numbers stand to the right
        lines = []
        for row in rows:
            cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells))
        return "\n".join([*lines, self._summary])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tape_markup(self._rows(), self._summary)

    def dot(self) -> str:
        """The graph in Graphviz's language: calls as boxes, leaves as ellipses, arrows along the forward pass."""
        lines = ["digraph tape {", "  node [shape=box];"]
        leaves: dict[Tensor, str] = {}
        for entry in self:
            lines.append(f'  call{entry.number} [label="{entry.record.name}\\n{entry.shapes}"];')
            for source in entry.inputs:
                if isinstance(source, int):
                    name = f"call{source}"
                elif source in leaves:
                    name = leaves[source]
                else:
                    name = leaves[source] = f"leaf{len(leaves)}"
                    lines.append(f'  {name} [shape=ellipse, label="{source.shape} {source.dtype}"];')
                lines.append(f"  {name} -> call{entry.number};")
        return "\n".join([*lines, "}"])


def tape(tensor: Tensor) -> Tape:
    """The records that led to `tensor`, in the order of their calls, with the bytes each saved and the time it took.

    Take it before `backward`, which frees the graph; its backward times appear in the tape afterwards.
    """
    records = records_behind([tensor])[::-1]
    if any(record.function is None for record in records):
        raise RuntimeError("tape: this graph was freed by backward; take the tape before, or use retain_graph=True")
    numbers = {record: number for number, record in enumerate(records)}
    buffers: dict[int, int] = {}
    entries = Tape()
    for record, number in numbers.items():
        sources = [source[0] for source in record.inputs if source is not None]
        saved = _saved(record)
        buffers |= saved
        inputs = tuple(numbers[source] if isinstance(source, Record) else source for source in sources)
        entries.append(Entry(number, record, inputs, saved))
    entries.saved_bytes = sum(buffers.values())
    return entries


def _saved(record: Record) -> dict[int, int]:
    """Bytes of the buffers a record keeps, by their ids: what it saved and arrays among its options. A view keeps all
    that it looks at."""
    buffers = {}
    for value in vars(record.function).values():
        for array in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(array, "nbytes"):
                owner = array if getattr(array, "base", None) is None else array.base
                owner = owner if hasattr(owner, "nbytes") else array
                buffers[id(owner)] = owner.nbytes
    return buffers


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.1f}"
