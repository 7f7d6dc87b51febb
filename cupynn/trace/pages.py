"""A traced block as one HTML file to step through."""

from __future__ import annotations

import base64
import html
import json
import pathlib
from typing import Any

import numpy as np

from cupynn.pictures import Page
from cupynn.trace.block import METHOD, Block, Row
from cupynn.trace.recording import ATOMIC, KINDS, WARP

MOST_ACCESSES = 250_000  # of single threads; a page of some megabytes
FOLDER = pathlib.Path(__file__).parent


def page(block: Block) -> Page:
    """The page. It holds the first steps, up to 250,000 accesses of threads; its summary counts all."""
    count = int(np.searchsorted(block.steps.end, MOST_ACCESSES, side="right"))
    launch = block.launch
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    made = Page(str(launch), style, script)
    x, y, z = block.place
    made.paragraph(
        f"Block ({x}, {y}, {z}) of a grid {launch.grid}: {launch.threads} threads {launch.block}, "
        f"{launch.shared_bytes} bytes of dynamic shared memory. {METHOD}"
    )
    if count < len(block.steps):
        made.paragraph(
            f"This page holds the first {count} of {len(block.steps)} steps; the summary counts all of them."
        )
    if block.left_out:
        made.paragraph(f"{block.left_out} threads did more than is kept: of each only the first {block.most} steps.")
    source = launch.source.read_text(encoding="utf-8").splitlines()
    made.add((FOLDER / "page.html").read_text(encoding="utf-8").replace("SOURCE", _source(block, source)))
    made.heading("Summary")
    made.add(_summary(block, source))
    data = json.dumps(_data(block, count), separators=(",", ":")).replace("</", "<\\/")
    made.add(f'<script type="application/json" id="trace">{data}</script>')
    return made


def _source(block: Block, source: list[str]) -> str:
    """The kernel's file, a line an element; those that a step belongs to can be clicked."""
    busy = {line for chain in block.chains for line in chain}
    return "".join(
        f'<span class="line{" busy" if number in busy else ""}" data-line="{number}"><b>{number}</b>'
        f"{html.escape(text) or ' '}</span>"
        for number, text in enumerate(source, 1)
    )


def _summary(block: Block, source: list[str]) -> str:
    heads = ("", "line", "code", "access", "bytes", "accesses", "threads", "sectors", "least", "lines", "conflict")
    head = "".join(f"<th>{name}</th>" for name in heads)
    rows = "".join(_summary_row(number, row, source) for number, row in enumerate(block.rows))
    return (
        f'<div class="wide"><table id="rows"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        "<p>accesses: of warps. threads: that take part, on average. sectors: of 32 bytes of global memory that one "
        "touches, beside the least that hold the bytes asked for; lines: of 128 bytes. conflict: the most words of one "
        "bank of shared memory that a warp wants at once; 1 is none.</p>"
    )


def _summary_row(number: int, row: Row, source: list[str]) -> str:
    code = source[row.lines[-1] - 1].strip() if row.lines else ""
    chain = " \N{RIGHTWARDS ARROW} ".join(map(str, row.lines))
    access = f"{KINDS[row.kind]} {row.array}".rstrip()
    figures = [row.size if row.kind <= ATOMIC else None, row.count, row.lanes, row.sectors, row.least, row.cache_lines]
    wasteful = (row.sectors or 0) > (row.least or 0) or (row.degree or 0) > 1
    cells = "".join(f'<td class="number">{"" if f is None else f"{f:.3g}"}</td>' for f in (*figures, row.degree))
    return (
        f'<tr data-row="{number}"{" class=wasteful" if wasteful else ""}>'
        f'<td><button type="button" aria-label="go to the first step of line {html.escape(chain)}">go</button></td>'
        f"<td>{chain}</td><td><code>{html.escape(code)}</code></td><td>{html.escape(access)}</td>{cells}</tr>"
    )


def _data(block: Block, count: int) -> dict[str, Any]:
    """What page.js shows; it begins with what each is."""
    steps, rows = block.steps, {}
    for number, row in enumerate(block.rows):
        rows[row.lines, row.kind, row.array, row.size] = number
    costs = block.sectors, block.least, block.cache_lines, block.degree, block.passes, block.least_passes
    encoded, values = [], []
    for step in range(count):
        members = steps.members[steps.begin[step] : steps.end[step]]
        site = steps.site[step]
        kind, size = int(steps.sites["kind"][site]), int(steps.sites["size"][site])
        array = int(block.array[members[0]]) if kind <= ATOMIC else -1
        name = block.arrays[array].name if array >= 0 else ""
        lanes = block.events["thread"][members] % WARP
        one = [rows[block.chains[site], kind, name, size], int(steps.warp[step]), int(steps.phase[step]), array]
        one += [int(cost[step]) for cost in costs]
        one += [_mask(lanes), _affine(block.offset[members])]
        encoded.append(one)
        if kind <= ATOMIC:
            raw = block.events["value"][members].view(np.uint8).reshape(-1, 16)
            values.append(raw[:, : min(size, 16)].tobytes())
    return {
        "steps": encoded,
        "values": base64.b64encode(b"".join(values)).decode(),
        "rows": [{"lines": row.lines, "kind": row.kind, "size": row.size} for row in block.rows],
        "kinds": KINDS,
        "arrays": [
            {"name": a.name, "shape": a.shape, "item": a.dtype.itemsize, "type": a.dtype.name}
            | {"shared": a.shared, "address": a.address}
            for a in block.arrays
        ],
        "threads": block.launch.threads,
        "block": block.launch.block,
    }


def _mask(lanes: np.ndarray) -> int:
    return int(np.bitwise_or.reduce(np.uint32(1) << lanes.astype(np.uint32)))


def _affine(offsets: np.ndarray) -> list[int]:
    """[first, step] where they are evenly spaced, else all of them: two never are what they are not."""
    if len(offsets) < 2:
        return [int(offsets[0]), 0]
    apart = np.diff(offsets)
    if (apart == apart[0]).all():
        return [int(offsets[0]), int(apart[0])]
    return offsets.tolist()
