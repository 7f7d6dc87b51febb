"""Batches on their way to a GPU: copied on a stream of their own, one batch ahead, while the GPU computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cupynn.device import Array

ALIGNMENT = 16  # bytes
Batch = tuple[Any, Any]  # images, labels


def ahead(batches: Iterable[Batch], take: Callable[[Array, Array], Batch]) -> Iterator[Batch]:
    """What `take` makes, on the default device, a GPU, of each of `batches`, which lie on the host.

    take: is given images and labels on the device, in memory that a later batch will be copied to: what it returns must
    be new arrays.

    The host writes a batch to pinned memory, from where a copy goes its way on a stream of its own; the current stream
    waits for it with an event, and so does the copy of a later batch until this one has been taken. There are two such
    places, so that the next batch is copied while this one is computed with. The host itself waits where it is two
    batches ahead of the copies. An error in `batches` is raised where its batch would have come.
    """
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    places = _Place(stream), _Place(stream)
    source = iter(batches)
    try:
        batch, number, error = next(source, None), 0, None
        if batch is not None:
            places[0].send(batch)
        while batch is not None:
            try:
                batch = next(source, None)
                if batch is not None:
                    places[1 - number % 2].send(batch)
            except Exception as raised:
                batch, error = None, raised
            yield places[number % 2].taken(take)
            number += 1
        if error is not None:
            raise error
    finally:
        stream.synchronize()  # before memory that a copy may still write to goes back to the pool


class _Place:
    """Pinned memory, and as much on the device, for one batch."""

    def __init__(self, stream: Any) -> None:
        import cupy

        self._stream = stream
        self._copied, self._used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        self._host = self._device = None
        self._parts: list[tuple[slice, np.dtype, tuple[int, ...]]] = []

    def send(self, batch: Batch) -> None:
        """Begin to copy a batch to the device."""
        parts, end = [], 0
        for array in batch:
            parts.append((slice(end, end + array.nbytes), array.dtype, array.shape))
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if not self._copied.done:
            self._copied.synchronize()
        if self._host is None or len(self._host) < end:
            self._allocate(end)
        for array, (part, dtype, shape) in zip(batch, parts, strict=True):
            self._host[part].view(dtype).reshape(shape)[...] = array
        self._stream.wait_event(self._used)
        self._device[:end].set(self._host[:end], stream=self._stream)
        self._copied.record(self._stream)
        self._parts = parts

    def _allocate(self, size: int) -> None:
        import cupy

        self._host = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
        self._device = cupy.empty(size, np.uint8)
        self._stream.wait_event(cupy.cuda.get_current_stream().record())  # whose memory it may have been

    def taken(self, take: Callable[[Array, Array], Batch]) -> Batch:
        import cupy

        now = cupy.cuda.get_current_stream()
        now.wait_event(self._copied)
        batch = take(*(self._device[part].view(dtype).reshape(shape) for part, dtype, shape in self._parts))
        self._used.record(now)
        return batch
