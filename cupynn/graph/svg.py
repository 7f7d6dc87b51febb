"""A drawing as SVG: boxes with their text, lines round them, light or dark as its reader's screen is."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from cupynn.graph import text
from cupynn.graph.folding import Node
from cupynn.graph.layout import Box, Layout, layout
from cupynn.graph.words import Graph, node_details, parameter_lines
from cupynn.pictures import css_variables

SIZE, TITLE, LEADING, PADDING = 11.5, 13.0, 16.0, 9.0
LEAST, MOST = 150.0, 330.0  # widths of a box
MARGIN, HEADER, COLUMNS = 24.0, 64.0, 70.0

STYLE = (
    css_variables(".cupynn-graph")
    + """
.cupynn-graph { background: var(--background); font: 11.5px Helvetica, Arial, "Liberation Sans", sans-serif; }
.cupynn-graph text { fill: var(--ink); }
.cupynn-graph .title { font-size: 13px; font-weight: bold; }
.cupynn-graph .head { font-size: 16px; font-weight: bold; }
.cupynn-graph rect { fill: var(--panel); stroke: var(--line-1); }
.cupynn-graph .ground { fill: var(--background); stroke: none; }
.cupynn-graph .module { stroke-width: 2.5; }
.cupynn-graph .leaves, .cupynn-graph .images { fill: none; stroke: var(--faint); stroke-dasharray: 4 3; }
.cupynn-graph .time { fill: var(--line-2); stroke: none; }
.cupynn-graph path { fill: none; stroke: var(--ink); stroke-opacity: 0.65; stroke-width: 1.2; }
.cupynn-graph .side { stroke: var(--faint); stroke-opacity: 1; }
.cupynn-graph .head-of-line { fill: var(--ink); stroke: none; }
"""
)


class Text(NamedTuple):
    """A line of a box: what stands at its left, and at its right."""

    left: str
    right: str = ""
    bold: bool = False

    @property
    def size(self) -> float:
        return TITLE if self.bold else SIZE

    @property
    def width(self) -> float:
        right = text.width(self.right, self.size) + 2 * SIZE if self.right else 0.0
        return text.width(self.left, self.size, self.bold) + right


def svg(graphs: Sequence[Graph]) -> str:
    """The graphs side by side. Every text is as wide as was reckoned, whatever font draws it (textLength)."""
    parts, x, bottom = [], MARGIN, 0.0
    for graph in graphs:
        texts = [_texts(node) for node in graph.nodes]
        boxes = [_box(node, lines) for node, lines in zip(graph.nodes, texts, strict=True)]
        placed = layout(boxes)
        head = [Text(graph.title, bold=True), *(Text(line) for line in graph.totals)]
        wide = max(placed.width, *(line.width for line in head))
        parts.append(f'<g transform="translate({_number(x)} {_number(MARGIN)})">')
        parts += [_line_of_text(line, 0.0, TITLE + LEADING * number, wide) for number, line in enumerate(head)]
        parts.append(f'<g transform="translate({_number((wide - placed.width) / 2)} {_number(HEADER)})">')
        parts += _drawn(graph.nodes, boxes, texts, placed)
        parts.append("</g></g>")
        x += wide + COLUMNS
        bottom = max(bottom, placed.height)
    width, height = x - COLUMNS + MARGIN, bottom + HEADER + 2 * MARGIN
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    label = html.escape(_printable("; ".join(f"{graph.title}: {', '.join(graph.totals)}" for graph in graphs)))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="cupynn-graph" role="img" aria-label="{label}" {size}>',
            f"<style>{STYLE}</style>",
            '<rect class="ground" width="100%" height="100%"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _texts(node: Node) -> list[Text]:
    """The lines of a node's box, each short enough for the widest box."""
    if node.kind in ("leaves", "images"):
        lines = [Text(line) for line in parameter_lines(node)]
    else:
        time, *others = node_details(node)
        lines = [Text(node.title, time, bold=True), *(Text(*pair) for pair in others)]
    room = MOST - 2 * PADDING
    short = []
    for line in lines:
        left = room - (line.width - text.width(line.left, line.size, line.bold))
        short.append(line._replace(left=text.shortened(line.left, line.size, left, line.bold)))
    return short


def _box(node: Node, lines: Sequence[Text]) -> Box:
    wide = max(line.width for line in lines) + 2 * PADDING
    wide = max(wide, LEAST) if node.calls else wide
    return Box(wide, LEADING * len(lines) + 2 * PADDING, node.inputs, node.side)


def _drawn(nodes: Sequence[Node], boxes: Sequence[Box], texts: Sequence[list[Text]], placed: Layout) -> list[str]:
    parts = []
    for line in placed.lines:
        (x, y), *others = line.points
        path = f"M{_number(x)} {_number(y)}"
        for to_x, to_y in others:
            middle = _number((y + to_y) / 2)
            straight = to_x == x
            path += "" if straight else f"C{_number(x)} {middle} {_number(to_x)} {middle} "
            path += f"{'L' if straight else ''}{_number(to_x)} {_number(to_y)}"
            x, y = to_x, to_y
        kind = ' class="side"' if nodes[line.source].kind == "leaves" else ""
        parts.append(f'<path{kind} d="{path}"/>')
        if line.target is not None:
            parts.append(f'<path class="head-of-line" d="M{_number(x)} {_number(y)}l-3.5 -7h7z"/>')
    longest = max((node.seconds for node in nodes if node.calls), default=0.0)
    for node, box, lines, (x, y) in zip(nodes, boxes, texts, placed.corners, strict=True):
        parts.append(f'<g transform="translate({_number(x)} {_number(y)})"><title>{_tooltip(node)}</title>')
        parts.append(f'<rect class="{node.kind}" width="{_number(box.width)}" height="{_number(box.height)}" rx="6"/>')
        if node.calls and longest:
            share = node.seconds / longest * (box.width - 2 * PADDING)
            bar = f'x="{PADDING:g}" y="{_number(box.height - 6)}" width="{_number(share)}" height="3"'
            parts.append(f'<rect class="time" {bar}/>')
        for number, line in enumerate(lines):
            baseline = PADDING + LEADING * (number + 0.75) - (2 if node.calls else 0)
            parts.append(_line_of_text(line, PADDING, baseline, box.width - PADDING))
        parts.append("</g>")
    return parts


def _line_of_text(line: Text, left: float, baseline: float, right: float) -> str:
    """Its two parts, as wide as reckoned."""
    found = ""
    if line.left:
        wide = text.width(line.left, line.size, line.bold)
        found += _element(line.left, left, baseline, wide, ' class="title"' if line.bold else "")
    if line.right:
        wide = text.width(line.right, SIZE)
        found += _element(line.right, right - wide, baseline, wide, "")
    return found


def _element(words: str, x: float, y: float, wide: float, kind: str) -> str:
    fitted = f'textLength="{_number(wide)}" lengthAdjust="spacingAndGlyphs"'
    return f'<text{kind} x="{_number(x)}" y="{_number(y)}" {fitted}>{html.escape(_printable(words))}</text>'


def _tooltip(node: Node) -> str:
    """All that the box tells, not shortened, and each call of it."""
    lines = [f"{node.title} {node.layer}".strip()]
    lines += [f"{call.number} {call.operation} {call.layer}".strip() for call in node.calls]
    lines += [f"{leaf.name} {leaf.shape}" for leaf in node.leaves]
    return html.escape(_printable("; ".join(filter(None, lines))))


def _printable(words: str) -> str:
    """XML takes no control characters, however they are written."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
