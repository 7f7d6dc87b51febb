"""Draw tapes and networks side by side."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from cupynn.autograd import Tensor
from cupynn.graph.calls import calls_behind, calls_of
from cupynn.graph.dot import dot
from cupynn.graph.folding import MOST, depths, fold
from cupynn.graph.svg import svg
from cupynn.graph.words import Graph, amount, duration, shape_text
from cupynn.nn import Module
from cupynn.pictures import Page


class Drawing:
    """Graphs side by side; `save` writes them, and a notebook shows them."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        self.graphs = list(graphs)

    def svg(self) -> str:
        """As SVG, light or dark as its reader's screen is."""
        return svg(self.graphs)

    def dot(self) -> str:
        """In Graphviz's language."""
        return dot(self.graphs)

    def page(self) -> Page:
        """As a page, with a table of all calls below the picture."""
        page = Page(" and ".join(graph.title for graph in self.graphs), css="td { white-space: nowrap; }")
        page.add(self._repr_html_())
        for graph in self.graphs:
            page.heading(f"Records of {graph.title}")
            page.table(
                [
                    {
                        "record": call.number,
                        "operation": call.operation,
                        "layer": call.layer,
                        "output": shape_text(call.output),
                        "keeps": amount(sum(call.saved.values())),
                        "forward": duration(call.seconds),
                    }
                    for node in graph.nodes
                    for call in node.calls
                ]
            )
        return page

    def save(self, path: str | os.PathLike) -> None:
        """Write a file whose kind is that of its suffix: .svg, .html, .dot. Raises ValueError for another."""
        writers = {".svg": self.svg, ".dot": self.dot, ".html": lambda: self.page().markup()}
        path = pathlib.Path(path)
        if path.suffix not in writers:
            raise ValueError(f"graph: a file's name must end with .svg, .html or .dot; it ends with {path.suffix!r}")
        path.write_text(writers[path.suffix](), encoding="utf-8")

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x: auto">{self.svg()}</div>'


def draw(
    *subjects: Tensor | Module,
    input_shape: tuple[int, ...] | None = None,
    batch: int = 8,
    depth: int | None = None,
    titles: Sequence[str] | None = None,
) -> Drawing:
    """The tapes of tensors and models side by side: operation, layer, output, forward time, bytes kept for backward.

    A model runs six times, in training mode, on `batch` random images of `input_shape`, (C, H, W), by default its own;
    it is left as it is. A tensor's tape is as it was recorded: take it before backward, which frees it.

    depth: a module whose name has so many parts is one box; without it the deepest that has at most 40 boxes.
    titles: above each column; by default a model's class, and "tape".

    Raises ValueError without a subject, where nothing was recorded, or where a model has no shape of its own and none
    is given; TypeError for a subject that is neither tensor nor model; RuntimeError for a tape that was freed.
    """
    if not subjects or (titles is not None and len(titles) != len(subjects)):
        raise ValueError(f"draw: needs one or more subjects and a title for each; got {len(subjects)} and {titles}")
    if (depth is not None and depth < 1) or batch < 1:
        raise ValueError(f"draw: depth and batch must be at least 1; got depth={depth}, batch={batch}")
    found = []
    for subject in subjects:
        if isinstance(subject, Tensor):
            if subject.record is None:
                raise ValueError("draw: no recorded call made this tensor")
            found.append(calls_behind(subject))
        elif isinstance(subject, Module):
            shape = input_shape or getattr(subject, "input_shape", None)
            if shape is None:
                raise ValueError(f"draw: {type(subject).__name__} has no input_shape of its own; give one, (C, H, W)")
            found.append(calls_of(subject, tuple(shape), batch))
        else:
            raise TypeError(f"draw: a subject is a Tensor or a Module; got {type(subject).__name__}")
    if depth is None:
        wanted = max(found, key=lambda calls: len(calls.calls))
        few = (level for level in depths(wanted) if all(_boxes(fold(calls, level)) <= MOST for calls in found))
        depth = next(few, 1)
    if titles is None:
        titles = ["tape" if isinstance(subject, Tensor) else type(subject).__name__ for subject in subjects]
    return Drawing([Graph(title, fold(calls, depth)) for title, calls in zip(titles, found, strict=True)])


def _boxes(nodes: Sequence) -> int:
    return sum(bool(node.calls) for node in nodes)
