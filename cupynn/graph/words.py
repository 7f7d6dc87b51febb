"""What a drawing says, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cupynn.graph.calls import Leaf
from cupynn.graph.folding import Node, saved_bytes

NAMED = 8  # leaves of one operation that are named


@dataclass(frozen=True)
class Graph:
    """One column of a drawing."""

    title: str
    nodes: Sequence[Node]

    @property
    def totals(self) -> list[str]:
        """What all of it comes to, a line each."""
        calls = [call for node in self.nodes for call in node.calls]
        leaves = dict.fromkeys(leaf for node in self.nodes for leaf in node.leaves)
        seconds = duration(sum(call.seconds for call in calls))
        numbers = sum(leaf.size for leaf in leaves if leaf.kind == "parameter")
        kept = f"{len(calls)} records keep {amount(saved_bytes(calls))} for backward"
        return [kept, f"{seconds} forward" + (f", {numbers:,} parameters" if numbers else "")]


def node_details(node: Node) -> tuple[str, tuple[str, str], tuple[str, str]]:
    """Of an operation or a module: its time; its layer, and the calls or parameters in it; its output, and what it
    keeps."""
    inside = f"{len(node.calls)} records" if len(node.calls) > 1 else ""
    if node.kind == "module" and (numbers := sum(leaf.size for leaf in node.leaves)):
        inside += f", {count(numbers)} parameters"
    kept = f"keeps {amount(node.saved_bytes)}" if node.saved_bytes else ""
    layer = " · ".join(filter(None, [node.layer, "" if node.module == node.title else node.module]))
    return duration(node.seconds), (layer, inside), (shape_text(node.output), kept)


def parameter_lines(node: Node) -> list[str]:
    """Names, without the layer's that reads them, and shapes."""
    lines = [f"{_name(leaf, node.layer)} {shape_text(leaf.shape)}" for leaf in node.leaves[:NAMED]]
    if rest := node.leaves[NAMED:]:
        lines.append(f"and {len(rest)} more, {count(sum(leaf.size for leaf in rest))} numbers")
    return lines


def _name(leaf: Leaf, layer: str) -> str:
    return leaf.name.removeprefix(f"{layer}.")


def shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "a number"


def duration(seconds: float) -> str:
    return _scaled(1e6 * seconds, ("us", "ms", "s"))


def amount(size: int) -> str:
    return _scaled(size, ("bytes", "kB", "MB", "GB"))


def count(number: int) -> str:
    return _scaled(number, ("", "k", "M", "G")).rstrip()


def _scaled(number: float, units: Sequence[str]) -> str:
    for unit in units:
        if number < 999.5 or unit == units[-1]:
            break
        number /= 1000
    return f"{number:.3g} {unit}"
