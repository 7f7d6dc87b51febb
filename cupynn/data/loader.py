"""Batches from a data set: shuffled, augmented, normalised, on the default device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from cupynn import device
from cupynn.data.dataset import ArrayDataset
from cupynn.data.transforms import Transform, normalise
from cupynn.device import Array


def batches(
    dataset: ArrayDataset,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    transform: Sequence[Transform] | None = None,
    drop_last: bool = False,
) -> Batches:
    """One epoch of `dataset`: yields (images, labels), float32 (N, C, H, W) normalised and int64 (N,).

    The order depends on `seed` and `epoch` alone, an image's augmentation on `seed`, `epoch` and its place in the set:
    neither changes with the batch size. `transform` lists random transforms, applied in turn to the uint8 images
    before they are normalised. The last batch may be smaller; `drop_last` leaves such a one out.
    `len()` of the result is the number of batches; it can be walked several times.

    Raises ValueError for a batch size below 1 and a negative seed or epoch, TypeError for what is no transform.
    """
    if batch_size < 1:
        raise ValueError(f"batches: batch_size must be at least 1; got {batch_size}")
    if seed < 0 or epoch < 0:
        raise ValueError(f"batches: seed and epoch must be at least 0; got seed={seed}, epoch={epoch}")
    transforms = [] if transform is None else list(transform)
    for item in transforms:
        if not isinstance(item, Transform):
            raise TypeError(f"batches: transform must list cupynn.data.Transform objects; got {item!r}")
    order_seed, augmentation_seed = np.random.SeedSequence([seed, epoch]).spawn(2)
    order = np.random.default_rng(order_seed).permutation(len(dataset)) if shuffle else np.arange(len(dataset))
    augmentation = np.random.default_rng(augmentation_seed)
    drawn = [(item, item.draw(len(dataset), augmentation)) for item in transforms]
    if drop_last:
        order = order[: len(order) - len(order) % batch_size]
    return Batches(dataset, batch_size, order, drawn)


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of one epoch. order: indices into the set; drawn: each transform with its numbers per image."""

    dataset: ArrayDataset
    batch_size: int
    order: np.ndarray
    drawn: list[tuple[Transform, np.ndarray]]

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        for start in range(0, len(self.order), self.batch_size):
            indices = self.order[start : start + self.batch_size]
            images = self.dataset.images[indices]
            for transform, numbers in self.drawn:
                images = transform.apply(images, numbers[indices])
            # uint8 crosses to the device, a quarter of float32's bytes.
            on_device = device.asarray(np.asarray(images, order="C"))
            yield (
                normalise(on_device, self.dataset.mean, self.dataset.std),
                device.asarray(self.dataset.labels[indices]),
            )
