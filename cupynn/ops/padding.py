"""Padding of images."""

from __future__ import annotations

from cupynn import autograd
from cupynn.ops.arguments import integers, need_images


def pad2d(x, padding, value=0.0):
    """Put `padding` pixels of `value` round x (N, C, H, W): one number for all sides, or (left, right, top, bottom).

    Raises ValueError for anything else and for negative padding.
    """
    need_images("pad2d", x)
    sides = integers(padding, 4)
    if sides is None or min(sides) < 0:
        raise ValueError(
            f"pad2d: padding must be an integer >= 0 or four of them, (left, right, top, bottom); got {padding!r}"
        )
    left, right, top, bottom = sides
    return autograd.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), value)
