"""Batches from a data set: shuffled, augmented, normalised, on the default device."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cupynn import device
from cupynn.data import to_gpu
from cupynn.data.counter_random import SampleNumbers
from cupynn.data.dataset import Dataset
from cupynn.data.transforms import Transform, normalise
from cupynn.device import Array

AHEAD = 2  # batches in work or ready, per worker


def batches(
    dataset: Dataset,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    transform: Sequence[Transform] | None = None,
    drop_last: bool = False,
    workers: int = 0,
    start: int = 0,
) -> Batches:
    """One epoch of `dataset`: yields (images, labels), float32 (N, C, H, W) normalised and int64 (N,).

    The order depends on `seed` and `epoch` alone, an image's augmentation on `seed`, `epoch` and its place in the set:
    neither changes with the batch size or the number of workers. `transform` lists random transforms, applied in turn
    before the images are normalised. The last batch may be smaller; `drop_last` leaves such a one out.

    workers: threads that read and augment batches ahead, at most `2 * workers` of them beyond the one last yielded;
    0 reads each batch when it is asked for. What a worker raises is raised where its batch would have come. Leaving
    the loop, in whatever way, ends the threads once the batches in work are done.

    On a GPU a batch is copied beside the computation, one ahead, see to_gpu.py.

    start: the first batches to leave out; none of their images is read. What follows is what would have followed.

    `len()` of the result is the number of batches it yields; it can be walked several times.

    Raises ValueError for a batch size below 1, a negative seed, epoch or number of workers, and a start outside the
    epoch, TypeError for what is no transform.
    """
    if batch_size < 1:
        raise ValueError(f"batches: batch_size must be at least 1; got {batch_size}")
    if seed < 0 or epoch < 0:
        raise ValueError(f"batches: seed and epoch must be at least 0; got seed={seed}, epoch={epoch}")
    if workers < 0:
        raise ValueError(f"batches: workers must be at least 0; got {workers}")
    transforms = () if transform is None else tuple(transform)
    for item in transforms:
        if not isinstance(item, Transform):
            raise TypeError(f"batches: transform must list cupynn.data.Transform objects; got {item!r}")
    count = len(dataset)
    if drop_last:
        count -= count % batch_size
    steps = -(-count // batch_size)
    if not 0 <= start <= steps:
        raise ValueError(f"batches: the epoch has {steps} batches, so start must lie in 0..{steps}; got {start}")
    order_seed, _ = np.random.SeedSequence([seed, epoch]).spawn(2)
    order = np.random.default_rng(order_seed).permutation(len(dataset)) if shuffle else np.arange(len(dataset))
    return Batches(dataset, batch_size, order[start * batch_size : count], transforms, seed, epoch, workers)


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of one epoch, or of its rest. order: indices into the set."""

    dataset: Dataset
    batch_size: int
    order: np.ndarray
    transforms: tuple[Transform, ...]
    seed: int
    epoch: int
    workers: int

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        read = self._ahead() if self.workers else map(self._read, range(len(self)))
        if device.default_device() != "cpu":
            yield from to_gpu.ahead(read, lambda images, labels: (self._normalised(images), labels.copy()))
            return
        for images, labels in read:
            yield self._normalised(images), labels

    def _normalised(self, images: Array) -> Array:
        # uint8 crosses to the device, a quarter of float32's bytes, unless a transform made floats of it.
        return normalise(images, self.dataset.mean, self.dataset.std)

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number` on the host: images not yet normalised, and labels."""
        indices = self.order[number * self.batch_size : (number + 1) * self.batch_size]
        numbers = SampleNumbers(self.seed, self.epoch, indices)
        images = self.dataset.read(indices, numbers.uniforms(0, self.dataset.uniforms))
        for stream, transform in enumerate(self.transforms, start=1):
            images = transform(images, numbers.uniforms(stream, transform.uniforms))
        return np.ascontiguousarray(images), self.dataset.labels[indices]

    def _ahead(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches in order, read by threads."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="cupynn-batches")
        waiting = collections.deque()
        try:
            for number in range(len(self)):
                waiting.append(pool.submit(self._read, number))
                if len(waiting) == AHEAD * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also when the loop is left early: the generator is closed
            pool.shutdown(wait=True, cancel_futures=True)
