"""The growth of a step's time: what is expected of it, and its picture."""

import pytest

from bench.growth import contraction_macs, rows_of
from cupynn.nn import ExpandedConv2d


def test_macs_of_a_contraction():
    # 1x1 2 -> 4, 3x3 4 -> 6, 1x1 6 -> 3: the first two, 6 * 4 * 2 * 9 = 432, then 3 * 6 * 2 * 9 = 324; the other
    # order takes 648 + 216
    layer = ExpandedConv2d("cl", 2, 3, 3, rate=2)
    assert contraction_macs(layer) == 432 + 324


def test_rows_compare_with_the_size_before():
    rows = rows_of("images", "net", {1: (0.25, 1), 4: (0.5, 4)})
    assert rows[0] == {"what grows": "images", "network": "net", "size": 1, "ms": 250.0}
    assert rows[1] | {"time x": 2.0, "expected x": 4.0} == rows[1]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture_is_drawn(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    from bench.growth_picture import draw

    path = tmp_path / f"growth{suffix}"
    series = {1: (0.1, 1), 2: (0.15, 2), 4: (0.3, 4)}
    what = ("images in the batch", "threads, batch 4", "image side, batch 4", "expansion rate, batch 4")
    draw({each: {"SmallNet-7": series, "ResNet-20": series} for each in what}, str(path))
    assert path.stat().st_size > 10_000
    if suffix == ".svg":
        text = path.read_text()
        assert all(f"<!-- {label} -->" in text for label in (*what, "training step, ms", "as the work alone"))
