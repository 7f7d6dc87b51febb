"""Rectangles of the crops: hand-computed ones, and the spread of the random ones."""

import math

import numpy as np
import pytest

from cupynn.data import CentreCrop, RandomResizedCrop, ShorterEdgeCrop, Whole
from cupynn.data.counter_random import SampleNumbers

LAST = 1 - 2.0**-33  # the largest number that occurs


@pytest.mark.parametrize(
    ("framing", "photograph", "expected"),
    [
        # 500 x 512 -> 256 x 262 (262.14 rounded down); 16 and 19 of the middle 224 x 224 of it
        (CentreCrop(224, 256), (500, 512), (16 * 500 / 256, 19 * 512 / 262, 240 * 500 / 256, 243 * 512 / 262)),
        (CentreCrop(150, 164), (328, 328), (14, 14, 314, 314)),  # twice 7 and 157
        (CentreCrop(2, 2), (6, 2), (2, 0, 4, 2)),
        (CentreCrop(4, 8), (4, 4), (1, 1, 3, 3)),  # enlarged
        (CentreCrop(4, 7), (7, 9), (2, 2, 6, 6)),  # half of 3 is rounded to an even number, as torchvision does
    ],
)
def test_centre_crop_by_hand(framing, photograph, expected):
    assert framing.uniforms == 0
    assert framing.box(*photograph, ()) == pytest.approx(expected, rel=1e-14)


def test_random_crop_of_the_shorter_edge_reaches_every_place():
    framing = ShorterEdgeCrop(6, 8)
    # 24 x 16 -> 12 x 8: seven places across, three down, each pixel worth two
    lattice = [(i / 21 + 0.001, j / 9 + 0.001) for i in range(21) for j in range(9)]
    boxes = [framing.box(24, 16, u) for u in lattice]
    assert sorted(set(boxes)) == [(2 * x, 2 * y, 2 * x + 12, 2 * y + 12) for x in range(7) for y in range(3)]
    assert all(boxes.count(box) == 9 for box in boxes)
    assert framing.box(24, 16, (LAST, LAST)) == (12, 4, 24, 16)


def tries(*pairs, left=0.0, top=0.0):
    """Numbers of a RandomResizedCrop: the (area, ratio) of its first tries, the last of them repeated to the tenth."""
    pairs = [*pairs, *[pairs[-1]] * (10 - len(pairs))]
    return [number for pair in pairs for number in pair] + [left, top]


FITS_NOT = (LAST, LAST)  # all of the area at ratio 4/3 is wider than a square photograph


@pytest.mark.parametrize(
    ("photograph", "numbers", "expected"),
    [
        # share 0.08 + 0.5 * 0.92 = 0.54 of 10,000 pixels at ratio 1: 73.48 -> 73
        ((100, 100), tries((0.5, 0.5)), (0, 0, 73, 73)),
        ((100, 100), tries((0.5, 0.5), left=LAST, top=0.5), (27, 14, 100, 87)),
        # the smallest, at ratio 3/4: 800 pixels, sqrt(600) = 24.49, sqrt(1066.7) = 32.66
        ((100, 100), tries((0.0, 0.0)), (0, 0, 24, 33)),
        ((100, 100), tries(FITS_NOT, FITS_NOT, (0.5, 0.5)), (0, 0, 73, 73)),
        ((100, 100), tries(FITS_NOT), (0, 0, 100, 100)),
        # far too wide: the middle at ratio 4/3; far too high: at 3/4
        ((900, 30), tries(FITS_NOT), (430, 0, 470, 30)),
        ((30, 900), tries(FITS_NOT), (0, 430, 30, 470)),
        ((1, 1), tries((0.0, 0.5)), (0, 0, 1, 1)),
    ],
)
def test_scale_and_ratio_crop_by_hand(photograph, numbers, expected):
    framing = RandomResizedCrop(224)
    assert len(numbers) == framing.uniforms
    assert framing.box(*photograph, numbers) == expected


def test_scale_and_ratio_crops_draws():
    """Within a large photograph: area evenly spread over its range, ratio evenly in its logarithm, places too."""
    framing = RandomResizedCrop(8, scale=(0.1, 0.4))  # small enough that the first try always fits
    count, side = 10_000, 10_000
    u = SampleNumbers(3, 1, np.arange(count)).uniforms(0, framing.uniforms)
    left, top, right, bottom = np.array([framing.box(side, side, numbers) for numbers in u]).T
    width, height = right - left, bottom - top
    assert min(left.min(), top.min()) >= 0 and max(right.max(), bottom.max()) <= side
    spread = [
        ((width * height / side**2 - 0.1) / 0.3),
        (np.log(width / height) / (2 * math.log(4 / 3)) + 0.5),
        left / (side - width),
        top / (side - height),
    ]
    for values in spread:
        # of numbers evenly spread over 0..1: mean and deviation of ten cells; rounding to pixels moves none by 1e-3
        assert -1e-3 < values.min() and values.max() < 1 + 1e-3
        cells = np.histogram(values, 10, range=(-1e-3, 1 + 1e-3))[0]
        assert np.abs(cells - count / 10).max() < 5 * math.sqrt(count * 0.1 * 0.9) + 0.002 * count
    assert np.abs(np.corrcoef(spread) - np.eye(4)).max() < 5 / math.sqrt(count)


@pytest.mark.parametrize("seed", range(3))
def test_boxes_lie_inside(seed):
    """Any photograph, also of one pixel and far longer than wide; up to the rounding of a float."""
    generator = np.random.default_rng(seed)
    for framing in (RandomResizedCrop(5), ShorterEdgeCrop(5, 7), ShorterEdgeCrop(7, 7), CentreCrop(5, 6)):
        for width, height in [(1, 1), (1, 50), (50, 1), *generator.integers(1, 600, (200, 2)).tolist()]:
            left, top, right, bottom = framing.box(width, height, generator.random(framing.uniforms))
            assert 0 <= left < right <= width * (1 + 1e-15) and 0 <= top < bottom <= height * (1 + 1e-15)


def test_errors():
    assert Whole(64).box(64, 64, ()) == (0, 0, 64, 64)
    with pytest.raises(ValueError, match="expected 64 x 64 pixels; found 64 x 63"):
        Whole(64).box(64, 63, ())
    for framing in (CentreCrop, ShorterEdgeCrop):
        for size, shorter in [(0, 4), (5, 4)]:
            message = f"{framing.__name__}: size must be .* got size={size}, shorter={shorter}"
            with pytest.raises(ValueError, match=message):
                framing(size, shorter)
    with pytest.raises(ValueError, match="RandomResizedCrop: size must be at least 1; got 0"):
        RandomResizedCrop(0)
    for options in ({"scale": (0, 1)}, {"scale": (0.5, 1.5)}, {"scale": (0.6, 0.5)}, {"ratio": (2, 1)}):
        with pytest.raises(ValueError, match="RandomResizedCrop: scale must lie above 0 and up to 1"):
            RandomResizedCrop(4, **options)
