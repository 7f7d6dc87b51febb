"""From calls to the boxes of a drawing: each call, each module, or each chain of elementwise calls is one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cupynn.graph.calls import Call, Calls, Leaf

MOST = 40  # boxes that a drawing has where no depth is asked for, if there is a depth with so few


@dataclass(frozen=True)
class Node:
    """One box. Its inputs are positions of earlier nodes in the list of all.

    kind: "operation" (one call, or a chain of elementwise ones), "module" (several calls of one module), "leaves"
    (parameters, or other tensors, that one operation reads), "images".
    leaves: those that the box stands for; of a module, its parameters. module: the class of `layer`. side: nothing in
    it comes from the images.
    """

    kind: str
    title: str
    layer: str
    inputs: tuple[int, ...]
    calls: tuple[Call, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    module: str = ""
    side: bool = False

    @property
    def output(self) -> tuple[int, ...]:
        return self.calls[-1].output

    @property
    def seconds(self) -> float:
        return sum(call.seconds for call in self.calls)

    @property
    def saved_bytes(self) -> int:
        return saved_bytes(self.calls)


def saved_bytes(calls: Sequence[Call]) -> int:
    """What the calls keep for backward; an array that several of them keep counts once."""
    return sum({buffer: size for call in calls for buffer, size in call.saved.items()}.values())


def depths(found: Calls) -> list[int | None]:
    """Depths that a drawing may have, the most detailed first: None, where every call has a box, and then numbers."""
    deepest = max((call.layer.count(".") + 1 for call in found.calls if call.layer), default=0)
    return [None, *range(deepest, 0, -1)]


def fold(found: Calls, depth: int | None = None) -> list[Node]:
    """The boxes of a drawing, inputs before those who read them.

    depth: calls inside a module whose name has so many parts are one box: with 2, all of `layer1.0`. None: every call
    has its own box, but for chains of elementwise calls that nobody else reads from.
    """
    calls = found.calls
    groups = [list(group) for _, group in itertools.groupby(calls, key=lambda call: _together(call, depth))]
    readers = Counter(source for call in calls for source in set(call.sources) if isinstance(source, int))
    groups = list(_chains(groups, readers))
    place: dict[int, int] = {}  # of each call's node
    nodes: list[Node] = []
    images = {leaf for call in calls for leaf in call.sources if isinstance(leaf, Leaf) and leaf.kind == "images"}
    for leaf in images:
        nodes.append(Node("images", "images", "", (), leaves=(leaf,)))
    for group in groups:
        sources = dict.fromkeys(source for call in group for source in call.sources)
        leaves = tuple(leaf for leaf in sources if isinstance(leaf, Leaf) and leaf.kind != "images")
        inputs = [place[source] for source in sources if isinstance(source, int) and source in place]
        inputs += [0 for source in sources if source in images]
        layer, title = group[0].layer, ", ".join(call.operation for call in group)
        alone, name = _together(group[0], depth)
        kind = "operation" if alone or len(group) == 1 else "module"
        if kind == "module":
            layer, title = name, found.kinds.get(name, name)
        elif leaves:
            nodes.append(Node("leaves", "", layer, (), leaves=leaves, side=True))
            inputs.append(len(nodes) - 1)
        inputs = list(dict.fromkeys(inputs))
        side = bool(images) and all(nodes[source].side for source in inputs)
        place |= {call.number: len(nodes) for call in group}
        module = found.kinds.get(layer, "")
        nodes.append(Node(kind, title, layer, tuple(inputs), tuple(group), leaves, module, side))
    return nodes


def _together(call: Call, depth: int | None) -> tuple[bool, object]:
    """Consecutive calls with an equal answer are one box: alone, with its number; or not, with the module's name."""
    parts = call.layer.split(".")
    if depth is None or not call.layer or len(parts) < depth:
        return True, call.number
    return False, ".".join(parts[:depth])


def _chains(groups: list[list[Call]], readers: Counter[int]) -> Iterator[list[Call]]:
    """Single elementwise calls of one layer, each read by the next alone, joined."""
    chain: list[Call] = []
    for group in groups:
        call = group[0]
        if chain and len(group) == 1 and _continues(chain[-1], call, readers):
            chain.append(call)
            continue
        if chain:
            yield chain
        chain = group if len(group) == 1 else []
        if not chain:
            yield group
    if chain:
        yield chain


def _continues(last: Call, call: Call, readers: Counter[int]) -> bool:
    alike = last.elementwise and call.elementwise and last.layer == call.layer and last.output == call.output
    return alike and set(call.sources) == {last.number} and readers[last.number] == 1
