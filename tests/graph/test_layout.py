"""Places of boxes and lines, on random graphs: nothing overlaps, lines go down and round the boxes."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cupynn.graph.layout import BETWEEN_BOXES, BETWEEN_ROWS, Box, layout

ROUNDING = 1e-6  # places are sums of some hundred numbers of up to 1e4, in float64


@st.composite
def graphs(draw):
    """Boxes in the order of a tape: most read the one before, some others too."""
    boxes = []
    for number in range(draw(st.integers(1, 30))):
        earlier = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        chained = {number - 1} if number and draw(st.integers(0, 3)) else set()
        inputs = tuple(sorted(earlier | chained))
        size = draw(st.integers(20, 300)), draw(st.integers(20, 120))
        boxes.append(Box(*map(float, size), inputs, side=not inputs and draw(st.booleans())))
    return boxes


@given(graphs())
def test_boxes_keep_apart_and_lie_inside(boxes):
    placed = layout(boxes)
    assert len(placed.corners) == len(boxes)
    for (x, y), box in zip(placed.corners, boxes, strict=True):
        assert -ROUNDING <= x <= placed.width - box.width + ROUNDING
        assert -ROUNDING <= y <= placed.height - box.height + ROUNDING
    for (one, (x, y)), (other, (u, v)) in itertools.combinations(zip(boxes, placed.corners, strict=True), 2):
        beside = max(u - x - one.width, x - u - other.width) >= BETWEEN_BOXES - ROUNDING
        below = max(v - y - one.height, y - v - other.height) >= BETWEEN_ROWS - ROUNDING
        assert beside or below


@given(graphs())
def test_lines_go_down_from_box_to_box_and_through_none(boxes):
    placed = layout(boxes)
    for line in placed.lines:
        assert all(a[1] < b[1] for a, b in itertools.pairwise(line.points))
        if line.target is not None:
            (x, y), box = placed.corners[line.target], boxes[line.target]
            assert x < line.points[-1][0] < x + box.width and line.points[-1][1] == y
        for (x, y), (to_x, to_y) in itertools.pairwise(line.points):
            # A curve stays between its ends' heights and columns.
            for (left, top), box in zip(placed.corners, boxes, strict=True):
                inside = top + ROUNDING < to_y and y < top + box.height - ROUNDING
                assert not inside or max(x, to_x) < left or min(x, to_x) > left + box.width


@given(graphs())
def test_every_input_has_its_line(boxes):
    """Followed upward, the lines that end at a box come from the bottoms of those it reads."""
    placed = layout(boxes)
    ends = {(line.source, line.points[-1]): line for line in placed.lines}
    found = set()
    for line in placed.lines:
        if line.target is None:
            continue
        first = line
        while (first.source, first.points[0]) in ends:
            first = ends[first.source, first.points[0]]
        (x, y), box = placed.corners[first.source], boxes[first.source]
        assert abs(first.points[0][0] - x - box.width / 2) < ROUNDING
        assert abs(first.points[0][1] - y - box.height) < ROUNDING
        found.add((first.source, line.target))
    assert found == {(source, number) for number, box in enumerate(boxes) for source in box.inputs}


@given(st.integers(1, 20), st.integers(0, 3))
def test_a_chain_with_parameters_and_a_long_skip_is_straight(length, skip):
    boxes = [Box(100.0, 40.0)]
    for number in range(length):
        boxes.append(Box(60.0 + 7 * number, 30.0, side=True))
        inputs = (len(boxes) - 1, *([len(boxes) - 2] if number else [0]), *([0] if number > skip else []))
        boxes.append(Box(120.0, 40.0, tuple(dict.fromkeys(inputs))))
    placed = layout(boxes)
    middles = [x + box.width / 2 for (x, _), box in zip(placed.corners, boxes, strict=True) if not box.side]
    assert max(middles) - min(middles) < 0.5  # pixels: a box at the side pulls, if a million times less


def test_the_same_boxes_have_the_same_places():
    boxes = [Box(50.0, 20.0), Box(70.0, 20.0, (0,)), Box(90.0, 20.0, (0, 1)), Box(30.0, 20.0, side=True)]
    assert layout(boxes) == layout(boxes)
    assert layout([]).corners == []
