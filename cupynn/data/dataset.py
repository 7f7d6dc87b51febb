"""What a data set is, and one held in memory."""

from __future__ import annotations

import dataclasses

import numpy as np

from cupynn.data.transforms import pad_images


class Dataset:
    """Images with labels, read by their places in the set.

    labels: int64 (N,) in 0..K-1; class_names: K names. mean, std: one number per channel, of the *training* images
    on the scale 0..1, so that a test set is normalised exactly as its training set.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    uniforms: int  # random numbers that reading an image takes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image that `read` gives."""
        raise TypeError(f"{type(self).__name__} defines no image_shape")

    def read(self, indices: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """The images at `indices` (N,), uint8 (N, C, H, W), with uniforms (N, self.uniforms) from 0..1 for the choices.

        Called from several threads at once.
        """
        raise TypeError(f"{type(self).__name__} defines no read")

    def __len__(self) -> int:
        return len(self.labels)

    def _check(self) -> None:
        """Raise ValueError for labels and statistics that do not fit the rest."""
        labels, channels, classes = self.labels, self.image_shape[0], len(self.class_names)
        if len(self.mean) != channels or len(self.std) != channels or not all(s > 0 for s in self.std):
            raise ValueError(
                f"{self.name}: images have {channels} channels, so mean needs {channels} numbers and std {channels} "
                f"positive numbers; mean is {self.mean}, std {self.std}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"{self.name}: {classes} class names, so labels must lie in 0..{classes - 1}; "
                f"they lie in {labels.min()}..{labels.max()}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset(Dataset):
    """A set in memory. images: uint8 (N, C, H, W), on the host; the rest as in `Dataset`.

    Raises TypeError for other dtypes, ValueError for shapes and labels that do not fit together.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    uniforms = 0

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or labels.dtype != np.int64:
            raise TypeError(
                f"{self.name}: images must be uint8 and labels int64; images are {images.dtype}, labels {labels.dtype}"
            )
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{self.name}: images must have shape (N, C, H, W) and labels (N,); "
                f"images have shape {images.shape}, labels {labels.shape}"
            )
        self._check()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    def read(self, indices: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        return self.images[indices]

    def padded(self, size: int) -> ArrayDataset:
        """The same set with every image inside a black frame of `size` x `size` pixels."""
        return dataclasses.replace(self, images=pad_images(self.images, size))


def train_and_test(
    name: str,
    class_names: tuple[str, ...],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> tuple[ArrayDataset, ArrayDataset]:
    """A training and a test set from pairs (images, labels); both carry the training images' mean and std."""
    mean, std = channel_statistics(train[0])
    return (
        ArrayDataset(*train, class_names, f"{name} train", mean, std),
        ArrayDataset(*test, class_names, f"{name} test", mean, std),
    )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, C, H, W), on the scale 0..1.

    They come from a histogram of the 256 values: exact sums, and no float copy of a large set.
    """
    counts = np.zeros((images.shape[1], 256))
    for start in range(0, len(images), 1024):
        for channel, row in enumerate(counts):
            row += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
    weights = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(axis=1)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


def last_fifth(labels: np.ndarray) -> np.ndarray:
    """True for the last fifth of each class in the order of `labels` (rounded down): a stratified test part.

    Taking the end of each class, not every fifth image, keeps images by one writer, which lie near each other,
    together on one side.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label)
        chosen[indices[len(indices) - len(indices) // 5 :]] = True
    return chosen
