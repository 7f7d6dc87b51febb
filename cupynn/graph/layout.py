"""Places for boxes and lines: rows from top to bottom, every line downward and round the boxes, few crossings.

The method is that of Sugiyama, Tagawa and Toda, 1981: rows by longest path, order within rows by barycentres, columns
by least squares. All lines that leave a box share one trunk, which passes a row as a thin box of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BETWEEN_BOXES, BETWEEN_TRUNKS, BETWEEN_ROWS, PORT = 26.0, 16.0, 34.0, 12.0
ORDERINGS, PLACINGS, SETTLINGS = 12, 20, 40  # sweeps over all rows
SIDE, SPINE = 1e-3, 1e6  # how much a box at the side pulls at the others; how firmly the longest path stands

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """What is to be placed. inputs: positions of boxes in the list of all, smaller than its own. side: it stands beside
    the others, as parameters do, and does not bend their columns."""

    width: float
    height: float
    inputs: tuple[int, ...] = ()
    side: bool = False


@dataclass(frozen=True)
class Line:
    """From `source` through points, each below the one before; to the top of box `target`, or to where other lines of
    the source go on (None)."""

    source: int
    target: int | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Layout:
    """corners: the upper left one of each box, in the order in which they were given."""

    corners: list[Point]
    lines: list[Line]
    width: float
    height: float


class _Item:
    """A box in its row, or a trunk that passes the row; x is its middle."""

    def __init__(
        self, box: int, row: int, width: float, above: list[_Item], side: bool = False, spine: bool = False
    ) -> None:
        self.box, self.row, self.width, self.side, self.spine, self.x = box, row, width, side, spine, 0.0
        self.above, self.below = above, []
        self.is_trunk = not width

    def pull(self, other: _Item) -> float:
        """The weight of the line to `other`: long lines shall be straight, then those between boxes; a trunk's ends may
        bend."""
        if self.side or other.side:
            return SIDE
        return (2.0, 0.02, 8.0)[self.is_trunk + other.is_trunk]


def layout(boxes: Sequence[Box]) -> Layout:
    """Where everything goes. The same boxes give the same places."""
    ranks = _ranks(boxes)
    rows = _rows(boxes, ranks)
    _order(rows)
    _place(rows)
    items = [item for row in rows for item in row]
    left = min((item.x - item.width / 2 for item in items), default=0.0)
    tops, top = [], 0.0
    heights = [max(boxes[item.box].height for item in row if not item.is_trunk) for row in rows]
    for height in heights:
        tops.append(top)
        top += height + BETWEEN_ROWS
    corners: list[Point] = [(0.0, 0.0)] * len(boxes)
    for item in items:
        item.x -= left
        if not item.is_trunk:
            height = boxes[item.box].height
            corners[item.box] = (item.x - item.width / 2, tops[item.row] + (heights[item.row] - height) / 2)
    lines = [line for item in items for line in _lines(item, boxes, corners, tops, heights)]
    width = max((item.x + item.width / 2 for item in items), default=0.0)
    return Layout(corners, lines, width, max(top - BETWEEN_ROWS, 0.0))


def _ranks(boxes: Sequence[Box]) -> list[int]:
    """The row of each box: below its inputs, and as low as that makes no more lines longer than shorter."""
    ranks: list[int] = []
    readers: list[list[int]] = [[] for _ in boxes]
    for number, box in enumerate(boxes):
        ranks.append(max((ranks[source] + 1 for source in box.inputs), default=0))
        for source in set(box.inputs):
            readers[source].append(number)
    for number in range(len(boxes) - 1, -1, -1):
        if readers[number] and len(set(boxes[number].inputs)) <= 1:
            ranks[number] = min(ranks[reader] for reader in readers[number]) - 1
    used = {rank: row for row, rank in enumerate(sorted(set(ranks)))}
    return [used[rank] for rank in ranks]


def _spine(boxes: Sequence[Box]) -> set[int]:
    """The boxes of the longest path, those at the side left out."""
    lengths, before = [], []
    for box in boxes:
        inputs = [source for source in box.inputs if not boxes[source].side]
        before.append(max(inputs, key=lambda source: lengths[source], default=None))
        lengths.append(0 if box.side else 1 + max((lengths[source] for source in inputs), default=0))
    box = max(range(len(boxes)), key=lambda number: lengths[number], default=None)
    found = set()
    while box is not None:
        found.add(box)
        box = before[box]
    return found


def _rows(boxes: Sequence[Box], ranks: Sequence[int]) -> list[list[_Item]]:
    """The boxes and trunks of every row, joined to those of the rows above and below."""
    last = list(ranks)  # the row above the lowest reader of each box
    for number, box in enumerate(boxes):
        for source in box.inputs:
            last[source] = max(last[source], ranks[number] - 1)
    rows: list[list[_Item]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    ends: dict[tuple[int, int], _Item] = {}  # of each box's trunk, by its row
    spine = _spine(boxes)
    order = sorted(range(len(boxes)), key=lambda number: (ranks[number], not boxes[number].side))
    for number in order:
        box, row = boxes[number], ranks[number]
        above = [ends[source, row - 1] for source in dict.fromkeys(box.inputs)]
        item = _Item(number, row, box.width, above, box.side, number in spine)
        rows[row].append(item)
        ends[number, row] = item
        for passed in range(row + 1, last[number] + 1):
            item = _Item(number, passed, 0.0, [item])
            ends[number, passed] = item
            rows[passed].append(item)
    for row in rows:
        for item in row:
            for above in item.above:
                above.below.append(item)
    return rows


def _order(rows: list[list[_Item]]) -> None:
    """Sort every row by the middle of what each item hangs on, down and up again; the best order is kept."""
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(ORDERINGS):
        if not fewest:
            break
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            places = {id(item): place for near in _neighbours(rows, row, down) for place, item in enumerate(near)}
            own = {id(item): place for place, item in enumerate(row)}

            def middle(item: _Item, places: dict = places, own: dict = own, down: bool = down) -> float:
                others = item.above if down else item.below
                return sum(places[id(other)] for other in others) / len(others) if others else own[id(item)]

            row.sort(key=middle)
        if (crossings := _crossings(rows)) < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _neighbours(rows: list[list[_Item]], row: list[_Item], down: bool) -> list[list[_Item]]:
    number = row[0].row + (-1 if down else 1)
    return [rows[number]] if 0 <= number < len(rows) else []


def _crossings(rows: list[list[_Item]]) -> int:
    count = 0
    for upper, lower in pairwise(rows):
        places = {id(item): place for place, item in enumerate(upper)}
        ends = [place for item in lower for place in sorted(places[id(above)] for above in item.above)]
        count += sum(one > other for number, other in enumerate(ends) for one in ends[:number])
    return count


def _place(rows: list[list[_Item]]) -> None:
    """Columns: the longest path straight, every other item as near as can be to those it hangs on, in the order of its
    row and apart."""
    for row in rows:
        _settle(row, [0.0] * len(row), [SPINE if item.spine else 1.0 for item in row])
    for sweep in range(PLACINGS + SETTLINGS):
        both = sweep >= PLACINGS
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted, weights = [], []
            for item in row:
                if item.spine:
                    wanted.append(0.0)
                    weights.append(SPINE)
                    continue
                others = item.above + item.below if both else item.above if sweep % 2 == 0 else item.below
                pulls = [item.pull(other) for other in others]
                weights.append(sum(pulls) or SIDE)
                middle = sum(pull * other.x for pull, other in zip(pulls, others, strict=True))
                wanted.append(middle / sum(pulls) if pulls else item.x)
            _settle(row, wanted, weights)


def _settle(row: list[_Item], wanted: Sequence[float], weights: Sequence[float]) -> None:
    """Give a row the places nearest to those that are wanted, by weighted least squares, that leave enough between.

    Taking off what must lie before each item leaves a monotone regression, which pooling adjacent violators solves.
    """
    offsets = [0.0]
    for one, other in pairwise(row):
        between = BETWEEN_TRUNKS if one.is_trunk and other.is_trunk else BETWEEN_BOXES
        offsets.append(offsets[-1] + (one.width + other.width) / 2 + between)
    pools: list[list[float]] = []  # mean, weight, how many items
    for place, offset, weight in zip(wanted, offsets, weights, strict=False):
        pools.append([place - offset, weight, 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            mean, more, count = pools.pop()
            before = pools[-1]
            before[0] = (before[0] * before[1] + mean * more) / (before[1] + more)
            before[1] += more
            before[2] += count
    means = [mean for mean, _, count in pools for _ in range(int(count))]
    for item, mean, offset in zip(row, means, offsets, strict=True):
        item.x = mean + offset


def _lines(
    item: _Item, boxes: Sequence[Box], corners: Sequence[Point], tops: Sequence[float], heights: Sequence[float]
) -> list[Line]:
    """The lines that arrive at an item from the row above; a trunk's goes on through its row."""
    top, bottom = tops[item.row], tops[item.row] + heights[item.row]
    if not item.is_trunk:
        bottom = corners[item.box][1]
    sources = sorted(item.above, key=lambda above: above.x)
    nearest = min(sources, key=lambda above: (above.side, abs(above.x - item.x)), default=None)
    spread = min(PORT, (item.width / 2 - PORT) / len(sources)) if sources else 0.0
    lines = []
    for number, above in enumerate(sources):
        x = item.x + spread * (number - sources.index(nearest))
        start = tops[above.row] + heights[above.row]
        points = [(above.x, start), (x, top), (x, bottom)]
        if not above.is_trunk:
            points.insert(0, (above.x, corners[above.box][1] + boxes[above.box].height))
        points = [point for place, point in enumerate(points) if not place or point[1] > points[place - 1][1]]
        lines.append(Line(above.box, None if item.is_trunk else item.box, tuple(points)))
    return lines
