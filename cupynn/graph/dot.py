"""A drawing in Graphviz's language."""

from __future__ import annotations

from collections.abc import Sequence

from cupynn.graph.words import Graph, node_details, parameter_lines

SHAPES = {"operation": "box", "module": "box", "leaves": "ellipse", "images": "ellipse"}


def dot(graphs: Sequence[Graph]) -> str:
    """The graphs as clusters, a node for each box, an edge for each line. `dot -Tsvg` draws it."""
    lines = ["digraph tape {", "  node [fontname=Helvetica, fontsize=11];", "  graph [fontname=Helvetica];"]
    for place, graph in enumerate(graphs):
        label = _quoted([graph.title, *graph.totals])
        lines += [f"  subgraph cluster{place} {{", f"    label={label};"]
        for number, node in enumerate(graph.nodes):
            words = parameter_lines(node)
            if node.calls:
                time, *pairs = node_details(node)
                words = [f"{node.title}  {time}", *("  ".join(filter(None, pair)) for pair in pairs)]
            style = ", style=bold" if node.kind == "module" else ", style=dashed" if not node.calls else ""
            lines.append(f"    n{place}_{number} [shape={SHAPES[node.kind]}{style}, label={_quoted(words)}];")
            lines += [f"    n{place}_{source} -> n{place}_{number};" for source in node.inputs]
        lines.append("  }")
    return "\n".join([*lines, "}\n"])


def _quoted(lines: Sequence[str]) -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "") for line in lines if line)
    return '"' + "\\n".join(escaped) + '"'
