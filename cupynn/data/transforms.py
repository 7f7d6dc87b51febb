"""Image transforms over whole batches. Random ones turn numbers that belong to each image into a change of it.

The numbers come from outside, evenly spread over 0..1 (see counter_random.py), so that an image's augmentation does
not depend on which batch it falls into. Transforms see images only: labels cannot change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cupynn.device import Array, xp_of


class Transform:
    """A random change of images (N, C, H, W) that keeps their shape."""

    uniforms: int  # numbers that one image takes

    def __call__(self, images: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """The images changed as `uniforms`, float64 (N, self.uniforms), say; `images` stay as they are.

        Images are uint8, or float32 on the scale 0..1.
        """
        raise TypeError(f"{type(self).__name__} defines no call")


@dataclasses.dataclass(frozen=True)
class HorizontalFlip(Transform):
    """Mirrors an image left to right with the given probability."""

    probability: float = 0.5
    uniforms = 1

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"HorizontalFlip: probability must lie in 0..1; got {self.probability}")

    def __call__(self, images: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        chosen = uniforms[:, 0] < self.probability
        result = images.copy()
        result[chosen] = images[chosen][..., ::-1]
        return result


@dataclasses.dataclass(frozen=True)
class RandomCrop(Transform):
    """Pads each side by `padding` black pixels and cuts out the original size at a random place.

    Every one of the (2 padding + 1)^2 places is equally likely.
    """

    padding: int
    uniforms = 2  # top, left

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"RandomCrop: padding must be at least 0; got {self.padding}")

    def __call__(self, images: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        top, left = (uniforms * (2 * self.padding + 1)).astype(np.int64).T
        padded = np.pad(images, [(0, 0), (0, 0), (self.padding,) * 2, (self.padding,) * 2])
        windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[2:], axis=(2, 3))
        return windows[np.arange(len(images)), :, top, left]


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 images as float32 on the scale 0..1; float32 images as they are."""
    return images / np.float32(255) if images.dtype == np.uint8 else images


def normalise(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """y = (x - mean) / std per channel, where the images are: (N, C, H, W) to float32.

    x is uint8 / 255, or float32 on the scale 0..1.
    """
    xp = xp_of(images)
    if not images.ndim == 4 or not images.shape[1] == len(mean) == len(std):
        raise ValueError(
            f"normalise: mean has {len(mean)} numbers and std {len(std)}, so images need shape (N, {len(mean)}, H, W); "
            f"images have shape {images.shape}"
        )
    std = np.asarray(std, dtype=np.float64)
    white = 255 if images.dtype == np.uint8 else 1
    scale = xp.asarray((1 / (white * std)).astype(np.float32))[:, None, None]
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
