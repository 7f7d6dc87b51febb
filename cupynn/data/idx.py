"""MNIST and sets in its format: IDX files [LeCun, Cortes, Burges], gzipped or not, from a local folder."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from cupynn.data.dataset import ArrayDataset, train_and_test

UNSIGNED_BYTE = 0x08
PARTS = {"train": "train", "test": "t10k"}  # how the files' names begin
DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def load_mnist(folder: str | os.PathLike) -> tuple[ArrayDataset, ArrayDataset]:
    """MNIST, uint8 (N, 1, H, W): 60,000 training and 10,000 test images of 28 x 28 pixels where it is the whole set.

    `folder` holds train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, each also with .gz.
    Raises FileNotFoundError for missing files, ValueError for truncated and foreign ones.
    """
    return _load("mnist", DIGITS, Path(folder))


def load_fashion_mnist(folder: str | os.PathLike) -> tuple[ArrayDataset, ArrayDataset]:
    """FashionMNIST [Xiao, Rasul, Vollgraf 2017], whose files are named as MNIST's; otherwise as `load_mnist`."""
    return _load("fashionmnist", CLOTHES, Path(folder))


def _load(name: str, class_names: tuple[str, ...], folder: Path) -> tuple[ArrayDataset, ArrayDataset]:
    parts = {}
    for part, prefix in PARTS.items():
        images_file = _find(name, folder, f"{prefix}-images", 3)
        labels_file = _find(name, folder, f"{prefix}-labels", 1)
        images, labels = read_idx(name, images_file, 3), read_idx(name, labels_file, 1)
        if len(images) != len(labels) or not len(images):
            raise ValueError(
                f"{name}: expected as many labels as images, and some; {images_file} holds {len(images)} images, "
                f"{labels_file} {len(labels)} labels"
            )
        if labels.max() >= len(class_names):
            raise ValueError(f"{name}: {labels_file}: expected labels 0..{len(class_names) - 1}; found {labels.max()}")
        parts[part] = images[:, None], labels.astype(np.int64)
    sizes = {part: images.shape[1:] for part, (images, _) in parts.items()}
    if sizes["train"] != sizes["test"]:
        raise ValueError(f"{name}: {folder}: expected one size of images; found {sizes}")
    return train_and_test(name, class_names, parts["train"], parts["test"])


def _find(name: str, folder: Path, start: str, dimensions: int) -> Path:
    """The file as it was published, or with the dot that some archives put into its name."""
    names = [f"{start}{mark}idx{dimensions}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz")]
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise FileNotFoundError(f"{name}: {folder}: expected one of {', '.join(names)}")


def read_idx(name: str, file: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an IDX file: two zero bytes, the type, the number of dimensions, their sizes, the values.

    Raises ValueError for a damaged file, and for one with other dimensions or another type.
    """
    wanted = f"{name}: {file}: expected an IDX file of unsigned bytes with {dimensions} dimensions"
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{wanted}; reading it failed: {error}") from error
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]) or len(content) < start:
        raise ValueError(f"{wanted}; it begins with the bytes {content[:4].hex(' ')} and has {len(content)} in all")
    shape = tuple(np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).tolist())
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{wanted}; its sizes are {shape}, but {len(content) - start} values follow")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
