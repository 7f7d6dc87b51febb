"""Which images a rank reads."""

from __future__ import annotations

import dataclasses

import numpy as np

from cupynn.data.loader import Batches
from cupynn.distributed.world import World


def shard(batches: Batches, world: World) -> Batches:
    """This rank's part of every batch. All ranks' parts of a batch, in the order of ranks, are the batch.

    So the global batches are those of one process, and an image is augmented as it is there, whatever the number of
    ranks. Parts of the last, smaller batch differ by at most one image.

    Raises ValueError where the batch size is no multiple of the number of ranks, and where the last batch has fewer
    images than there are ranks.
    """
    if world.size == 1:
        return batches
    whole, ranks = batches.batch_size, world.size
    if whole % ranks:
        raise ValueError(f"distributed: {ranks} ranks share a batch, so batch_size must be a multiple; got {whole}")
    if 0 < len(batches.order) % whole < ranks:
        raise ValueError(
            f"distributed: the last batch of an epoch has {len(batches.order) % whole} images of {whole}, and each of "
            f"{ranks} ranks needs one; choose another batch_size"
        )
    parts = [np.array_split(batch, ranks)[world.rank] for batch in _blocks(batches)]
    return _with(batches, parts, whole // ranks)


def deal(batches: Batches, world: World) -> Batches:
    """Every `world.size`-th batch, whole, beginning with number `world.rank`: for evaluation, where each batch stands
    for itself. A rank may get none.
    """
    if world.size == 1:
        return batches
    return _with(batches, _blocks(batches)[world.rank :: world.size], batches.batch_size)


def _blocks(batches: Batches) -> list[np.ndarray]:
    """The indices of each batch."""
    return [batches.order[i : i + batches.batch_size] for i in range(0, len(batches.order), batches.batch_size)]


def _with(batches: Batches, parts: list[np.ndarray], batch_size: int) -> Batches:
    # Every part but the last has batch_size images, so that the parts can stand in one array again.
    return dataclasses.replace(batches, order=np.concatenate([batches.order[:0], *parts]), batch_size=batch_size)
