"""Random labels, to see what a network learns by heart."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np

from cupynn.data.dataset import Dataset

AnyDataset = TypeVar("AnyDataset", bound=Dataset)


def corrupt_labels(dataset: AnyDataset, share: float, seed: int) -> AnyDataset:
    """The set with each label replaced by a random one with probability `share`, drawn once from `seed`.

    As in ExpandNets (20, 50 and 80 %), after Zhang et al. 2017, "Understanding deep learning requires rethinking
    generalization": the random label is any of the K classes with equal chance, the true one among them, so a share
    (1 - 1/K) `share` of all labels becomes wrong. It is for training sets: a test set keeps its labels.

    Raises ValueError for a share outside 0..1, and for a test set, which is known by its name.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"corrupt_labels: share must lie in 0..1; got {share}")
    if dataset.name.endswith(" test"):
        raise ValueError(f"corrupt_labels: expected a training set; got {dataset.name!r}, whose labels stay true")
    generator = np.random.default_rng(seed)
    chosen = generator.random(len(dataset)) < share
    random_labels = generator.integers(0, len(dataset.class_names), len(dataset))
    return dataclasses.replace(dataset, labels=np.where(chosen, random_labels, dataset.labels))
