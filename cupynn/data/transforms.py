"""Image transforms over whole batches. Random ones first draw numbers per image, then apply them.

Drawing apart from applying lets the loader draw once per epoch for every image of the set, so that an image's
augmentation does not depend on which batch it falls into. Transforms see images only: labels cannot change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cupynn.device import Array, xp_of


class Transform:
    """A random change of images (N, C, H, W) that keeps their shape."""

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """The random numbers for `count` images, one row each."""
        raise NotImplementedError

    def apply(self, images: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """The images changed as `drawn` (one row per image) says; `images` themselves stay as they are."""
        raise NotImplementedError

    def __call__(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return self.apply(images, self.draw(len(images), generator))


@dataclasses.dataclass(frozen=True)
class HorizontalFlip(Transform):
    """Mirrors an image left to right with the given probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"HorizontalFlip: probability must lie in 0..1; got {self.probability}")

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return generator.random(count) < self.probability

    def apply(self, images: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return np.where(drawn[:, None, None, None], images[..., ::-1], images)


@dataclasses.dataclass(frozen=True)
class RandomCrop(Transform):
    """Pads each side by `padding` black pixels and cuts out the original size at a random place.

    Every one of the (2 padding + 1)^2 places is equally likely.
    """

    padding: int

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"RandomCrop: padding must be at least 0; got {self.padding}")

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(0, 2 * self.padding + 1, size=(count, 2))  # top, left

    def apply(self, images: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        padded = np.pad(images, [(0, 0), (0, 0), (self.padding,) * 2, (self.padding,) * 2])
        windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[2:], axis=(2, 3))
        return windows[np.arange(len(images)), :, drawn[:, 0], drawn[:, 1]]


def normalise(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """y = (x / 255 - mean) / std per channel: uint8 (N, C, H, W) to float32, where the images are."""
    xp = xp_of(images)
    if not images.ndim == 4 or not images.shape[1] == len(mean) == len(std):
        raise ValueError(
            f"normalise: mean has {len(mean)} numbers and std {len(std)}, so images need shape (N, {len(mean)}, H, W); "
            f"images have shape {images.shape}"
        )
    std = np.asarray(std, dtype=np.float64)
    scale = xp.asarray((1 / (255 * std)).astype(np.float32))[:, None, None]
    shift = xp.asarray((np.asarray(mean) / std).astype(np.float32))[:, None, None]
    y = images.astype(xp.float32)
    y *= scale
    y -= shift
    return y


def pad_images(images: np.ndarray, size: int) -> np.ndarray:
    """Images (N, C, H, W) in the middle of black `size` x `size` frames; an odd pixel goes below and to the right."""
    height, width = images.shape[2:]
    if size < max(height, width):
        raise ValueError(f"pad_images: images have shape {images.shape}, so size must be at least {max(height, width)}")
    top, left = (size - height) // 2, (size - width) // 2
    frames = np.zeros((*images.shape[:2], size, size), dtype=images.dtype)
    frames[:, :, top : top + height, left : left + width] = images
    return frames
