"""Which part of a photograph becomes the network's square image: rectangles of the papers' crops.

A framing only computes a rectangle; `image_files` cuts it out and resizes it in one pass, which gives what resizing
the whole photograph and then cropping would.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright photograph


class Framing:
    """A rectangle of a photograph that becomes an image of `size` x `size` pixels."""

    size: int
    uniforms: int  # random numbers that one photograph takes

    def box(self, width: int, height: int, uniforms: Sequence[float]) -> Box:
        """The rectangle in a photograph of `width` x `height`, with `uniforms` from 0..1 for random choices."""
        raise TypeError(f"{type(self).__name__} defines no box")


@dataclasses.dataclass(frozen=True)
class Whole(Framing):
    """The whole of images that already are `size` x `size`; ValueError for others."""

    size: int
    uniforms = 0

    def box(self, width: int, height: int, uniforms: Sequence[float]) -> Box:
        if (width, height) != (self.size, self.size):
            raise ValueError(f"expected {self.size} x {self.size} pixels; found {width} x {height}")
        return 0, 0, width, height


@dataclasses.dataclass(frozen=True)
class _ShorterEdge(Framing):
    """Resizes the shorter edge to `shorter` pixels, the longer one in proportion, then crops `size` x `size`."""

    size: int
    shorter: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.shorter:
            raise ValueError(
                f"{type(self).__name__}: size must be at least 1 and shorter at least size; "
                f"got size={self.size}, shorter={self.shorter}"
            )

    def box(self, width: int, height: int, uniforms: Sequence[float]) -> Box:
        edge = min(width, height)
        resized = width * self.shorter // edge, height * self.shorter // edge
        left, top = self.corner(resized[0] - self.size, resized[1] - self.size, uniforms)
        across, down = width / resized[0], height / resized[1]
        return left * across, top * down, (left + self.size) * across, (top + self.size) * down

    def corner(self, free_across: int, free_down: int, uniforms: Sequence[float]) -> tuple[int, int]:
        """Left and top of the crop, of the 0..free pixels that there are to choose from."""
        raise TypeError(f"{type(self).__name__} defines no corner")


class CentreCrop(_ShorterEdge):
    """The middle `size` x `size` after the shorter edge became `shorter`: 224 of 256 in most papers, 150 of 164."""

    uniforms = 0

    def corner(self, free_across: int, free_down: int, uniforms: Sequence[float]) -> tuple[int, int]:
        return round(free_across / 2), round(free_down / 2)


class ShorterEdgeCrop(_ShorterEdge):
    """A random `size` x `size` after the shorter edge became `shorter`; every place is equally likely."""

    uniforms = 2  # left, top

    def corner(self, free_across: int, free_down: int, uniforms: Sequence[float]) -> tuple[int, int]:
        return int(uniforms[0] * (free_across + 1)), int(uniforms[1] * (free_down + 1))


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Framing):
    """Scale and aspect ratio at random, then a random place [Szegedy et al. 2015].

    The area is a share of the photograph's from `scale`, evenly spread; width / height is from `ratio`, its logarithm
    evenly spread. Ten tries to fit inside the photograph, then the middle at the nearest ratio allowed.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    uniforms = 22  # ten times area and ratio; left, top

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"RandomResizedCrop: size must be at least 1; got {self.size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                f"RandomResizedCrop: scale must lie above 0 and up to 1, ratio above 0, the smaller number first; "
                f"got scale={self.scale}, ratio={self.ratio}"
            )

    def box(self, width: int, height: int, uniforms: Sequence[float]) -> Box:
        low, high = map(math.log, self.ratio)
        for area, ratio in zip(uniforms[0:20:2], uniforms[1:20:2], strict=True):
            pixels = width * height * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            aspect = math.exp(low + ratio * (high - low))
            across, down = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 1 <= across <= width and 1 <= down <= height:
                left, top = int(uniforms[20] * (width - across + 1)), int(uniforms[21] * (height - down + 1))
                return left, top, left + across, top + down
        across = min(width, max(1, round(height * self.ratio[1])))
        down = min(height, max(1, round(width / self.ratio[0])))
        left, top = (width - across) // 2, (height - down) // 2
        return left, top, left + across, top + down
