"""Data sets by name."""

from __future__ import annotations

import os

from cupynn.data.cifar import load_cifar10, load_cifar100
from cupynn.data.dataset import ArrayDataset
from cupynn.data.digits import load_digits, load_digits_8x8
from cupynn.data.idx import load_fashion_mnist, load_mnist
from cupynn.data.image_files import FileDataset
from cupynn.data.image_folder import load_image_folder, load_tiny_imagenet
from cupynn.data.photographs import load_photographs

INSTALLED = {"digits": load_digits, "digits8x8": load_digits_8x8, "photographs": load_photographs}
ARRAYS = {"cifar10": load_cifar10, "cifar100": load_cifar100, "mnist": load_mnist, "fashionmnist": load_fashion_mnist}
IMAGE_FILES = {"tinyimagenet": load_tiny_imagenet, "imagefolder": load_image_folder}
FROM_FOLDER = ARRAYS | IMAGE_FILES


def names() -> list[str]:
    """The names that `load` knows."""
    return [*INSTALLED, *FROM_FOLDER]


def load(
    name: str = "digits", folder: str | os.PathLike | None = None, pad_to: int | None = None
) -> tuple[ArrayDataset, ArrayDataset] | tuple[FileDataset, FileDataset]:
    """The training and test set called `name`, with images padded to `pad_to` x `pad_to` where given.

    `"digits"` (MNIST-5k, 1x28x28), `"digits8x8"` and `"photographs"` (3x32x32) lie inside installed packages;
    the others are read from `folder`. `"tinyimagenet"` and `"imagefolder"` stay files that are decoded when they are
    asked for, and are not padded: `framed` says which part of them becomes an image, and how large.

    Raises ValueError for an unknown name, and for a folder or padding that is missing or not wanted.
    """
    if name not in names():
        raise ValueError(f"load: unknown data set {name!r}; there are {', '.join(names())}")
    if name in IMAGE_FILES and pad_to is not None:
        raise ValueError(f"load: {name} holds image files, which are not padded; got pad_to={pad_to}")
    if name in INSTALLED:
        if folder is not None:
            raise ValueError(f"load: {name} lies inside an installed package and takes no folder; got {str(folder)!r}")
        sets = INSTALLED[name]()
    else:
        if folder is None:
            raise ValueError(f"load: {name} is read from a folder of its own files; pass folder=")
        sets = FROM_FOLDER[name](folder)
    if pad_to is None:
        return sets
    train, test = sets
    return train.padded(pad_to), test.padded(pad_to)
