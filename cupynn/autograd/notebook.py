"""What a notebook shows of a tensor and of a tape. Colours are the page's own; nothing but a corner of a tensor leaves
the GPU."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cupynn.device import to_numpy

FIRST, LAST = 4, 3  # rows and columns that are shown of an axis with more than both
MOST = 200  # records
TABLE = 'style="border-collapse: collapse; font-family: monospace; font-size: 90%; color: inherit"'


def tensor_markup(tensor: Any) -> str:
    """A tensor's facts, and the values at the edges of its last two axes, the others at 0."""
    data = tensor.data
    where = "cpu" if isinstance(data, np.ndarray) else f"cuda:{data.device.id}"
    facts = [f"shape {data.shape}", str(data.dtype), where]
    if tensor.record is not None:
        facts.append(f"made by {tensor.record.name}")
    elif tensor.requires_grad:
        facts.append("requires grad")
    facts = " &middot; ".join(map(html.escape, facts))
    caption = f"<div><b>{html.escape(type(tensor).__name__)}</b> {facts}</div>"
    if not data.size:
        return f"<div>{caption}<div>no elements</div></div>"
    place = (0,) * (data.ndim - 2)
    corner = data[place] if place else data.reshape((1,) * (2 - data.ndim) + data.shape)
    rows, columns = (_ends(length) for length in corner.shape)
    blocks = [[to_numpy(corner[row, column]) for column in columns] for row in rows]
    lines: list[list[str]] = []
    for number, row in enumerate(blocks):
        if number:
            lines.append(["&#8942;"])
        for values in zip(*row, strict=True):
            lines.append([cell for part in values for cell in ("&#8943;", *map(_value, part))][1:])
    which = f"<div>values at [{', '.join('0' * len(place))}, :, :]</div>" if place else ""
    return f"<div>{caption}{which}{table_markup((), lines)}</div>"


def _ends(length: int) -> list[slice]:
    return [slice(None)] if length <= FIRST + LAST else [slice(FIRST), slice(length - LAST, None)]


def _value(value: Any) -> str:
    return html.escape(f"{float(value):.4g}" if value.dtype.kind not in "iub" else str(value))


def tape_markup(rows: Iterable[Sequence[str]], summary: str) -> str:
    """A tape's table, its heads in the first of `rows`."""
    heads, *lines = ([html.escape(cell) for cell in row] for row in rows)
    rest = f"<div>and {len(lines) - MOST} more records</div>" if len(lines) > MOST else ""
    table = table_markup(heads, lines[:MOST], left=4)
    return f'<div style="max-height: 40em; overflow: auto">{table}{rest}<div>{html.escape(summary)}</div></div>'


def table_markup(heads: Sequence[str], lines: Iterable[Sequence[str]], left: int = 0) -> str:
    """Cells of HTML as a table, the first `left` columns flush left, the others flush right."""

    def row(tag: str, cells: Sequence[str]) -> str:
        found = ""
        for number, cell in enumerate(cells):
            side = "left" if number < left else "right"
            found += f'<{tag} style="padding: 0 0.6em; text-align: {side}">{cell}</{tag}>'
        return f"<tr>{found}</tr>"

    rows = "".join([row("th", heads)] * bool(heads) + [row("td", line) for line in lines])
    return f'<div style="overflow-x: auto"><table {TABLE}>{rows}</table></div>'
