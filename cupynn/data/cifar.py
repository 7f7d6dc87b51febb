"""CIFAR-10 and CIFAR-100 from a local folder, in the "binary" or the "python" version of the archives.

https://www.cs.toronto.edu/~kriz/cifar.html [Krizhevsky 2009]. Both versions give identical arrays. Where a folder
holds both, the binary one is read: it needs no unpickling.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from cupynn.data.dataset import ArrayDataset, train_and_test
from cupynn.data.unpickle import unpickle

PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Archive:
    """What the files of one set hold.

    train, test: file names of the python version, with ".bin" after them the binary version's; images_per_file: for
    each, how many images; labels: the pickles' key for the labels, and names its key for the class names in `meta`;
    label_bytes: bytes before the pixels of a binary record, of which the last is the label.
    """

    name: str
    folders: tuple[str, str]  # what the archives unpack to: binary, python
    train: tuple[str, ...]
    test: str
    images_per_file: dict[str, int]
    labels: str
    label_bytes: int
    classes: int
    meta: str
    meta_names: str
    binary_names: str


CIFAR10 = Archive(
    name="cifar10",
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    images_per_file={**{f"data_batch_{number}": 10_000 for number in range(1, 6)}, "test_batch": 10_000},
    labels="labels",
    label_bytes=1,
    classes=10,
    meta="batches.meta",
    meta_names="label_names",
    binary_names="batches.meta.txt",
)
CIFAR100 = Archive(
    name="cifar100",
    folders=("cifar-100-binary", "cifar-100-python"),
    train=("train",),
    test="test",
    images_per_file={"train": 50_000, "test": 10_000},
    labels="fine_labels",
    label_bytes=2,  # the coarse label (20 groups), then the fine one
    classes=100,
    meta="meta",
    meta_names="fine_label_names",
    binary_names="fine_label_names.txt",
)


def load_cifar10(folder: str | os.PathLike) -> tuple[ArrayDataset, ArrayDataset]:
    """CIFAR-10: 50,000 training and 10,000 test images, uint8 (N, 3, 32, 32), ten classes.

    `folder` holds the files, or the folder that the archive unpacks to.
    Raises FileNotFoundError for missing files, ValueError for truncated and foreign ones.
    """
    return load_archive(CIFAR10, folder)


def load_cifar100(folder: str | os.PathLike) -> tuple[ArrayDataset, ArrayDataset]:
    """CIFAR-100 with its 100 fine labels; otherwise as `load_cifar10`."""
    return load_archive(CIFAR100, folder)


def load_archive(archive: Archive, folder: str | os.PathLike) -> tuple[ArrayDataset, ArrayDataset]:
    """The training and test set of `archive` in `folder`."""
    place, binary = _find(archive, Path(folder))
    read_names, read_images = (_binary_names, _binary_images) if binary else (_pickled_names, _pickled_images)
    class_names = read_names(archive, place)
    if len(class_names) != archive.classes:
        file = place / (archive.binary_names if binary else archive.meta)
        raise ValueError(f"{archive.name}: {file}: expected {archive.classes} class names; found {len(class_names)}")
    parts = [read_images(archive, place, name) for name in archive.train]
    train = np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
    return train_and_test(archive.name, class_names, train, read_images(archive, place, archive.test))


def _find(archive: Archive, folder: Path) -> tuple[Path, bool]:
    """Where the files lie, and whether they are the binary version. Any of its files names a version."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{archive.name}: {folder} is no folder")
    binary_files = [f"{name}.bin" for name in (*archive.train, archive.test)]
    python_files = [*archive.train, archive.test]
    for files, subfolder, binary in zip((binary_files, python_files), archive.folders, (True, False), strict=True):
        for place in (folder, folder / subfolder):
            if any((place / file).is_file() for file in files):
                return place, binary
    found = sorted(entry.name for entry in folder.iterdir())
    raise FileNotFoundError(
        f"{archive.name}: {folder}: expected {', '.join(binary_files)} or {', '.join(python_files)}, "
        f"there or in {' or '.join(archive.folders)}; found {', '.join(found[:8]) or 'nothing'}"
        + (" and more" if len(found) > 8 else "")
    )


def _existing(archive: Archive, file: Path) -> Path:
    if not file.is_file():
        found = sorted(entry.name for entry in file.parent.iterdir())
        raise FileNotFoundError(f"{archive.name}: expected the file {file}; beside it are {', '.join(found[:12])}")
    return file


def _checked_labels(archive: Archive, file: Path, labels: np.ndarray) -> np.ndarray:
    if labels.min() < 0 or labels.max() >= archive.classes:
        raise ValueError(
            f"{archive.name}: {file}: expected labels 0..{archive.classes - 1}; found {labels.min()}..{labels.max()}"
        )
    return labels


# The binary version: records of label bytes and 3072 pixels (red, green, blue planes), nothing else.


def _binary_names(archive: Archive, place: Path) -> tuple[str, ...]:
    file = _existing(archive, place / archive.binary_names)
    try:
        return tuple(file.read_text(encoding="ascii").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{archive.name}: {file}: expected class names in ASCII, one per line; {error}") from error


def _binary_images(archive: Archive, place: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    file = _existing(archive, place / f"{name}.bin")
    count, record = archive.images_per_file[name], archive.label_bytes + PIXELS
    size = file.stat().st_size
    if size != count * record:
        raise ValueError(
            f"{archive.name}: {file}: expected {count} records of {record} bytes, {count * record} bytes in all; "
            f"found {size} bytes, {size // record} records and {size % record} bytes"
        )
    records = np.fromfile(file, dtype=np.uint8).reshape(count, record)
    labels = records[:, archive.label_bytes - 1].astype(np.int64)
    return records[:, archive.label_bytes :].reshape(-1, 3, 32, 32), _checked_labels(archive, file, labels)


# The python version: pickled dictionaries.


def _pickled_names(archive: Archive, place: Path) -> tuple[str, ...]:
    file = _existing(archive, place / archive.meta)
    names = _entry(archive, file, unpickle(archive.name, file), archive.meta_names, list)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{archive.name}: {file}: expected strings in {archive.meta_names!r}; found others")
    return tuple(names)


def _pickled_images(archive: Archive, place: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    file = _existing(archive, place / name)
    content = unpickle(archive.name, file)
    images = _entry(archive, file, content, "data", np.ndarray)
    labels = _entry(archive, file, content, archive.labels, list)
    count = archive.images_per_file[name]
    if images.shape != (count, PIXELS) or len(labels) != count:
        raise ValueError(
            f"{archive.name}: {file}: expected 'data' of shape ({count}, {PIXELS}) and {count} {archive.labels!r}; "
            f"found shape {images.shape} and {len(labels)} labels"
        )
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < archive.classes]
    if wrong:
        raise ValueError(
            f"{archive.name}: {file}: expected whole numbers 0..{archive.classes - 1} in {archive.labels!r}; "
            f"found {wrong[0] if type(wrong[0]) is int else type(wrong[0]).__name__}"
        )
    return images.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _entry(archive: Archive, file: Path, content: dict, key: str, kind: type):
    if not isinstance(content.get(key), kind):
        # Keys may come from anywhere: show strings only.
        keys = sorted(key for key in content if isinstance(key, str))
        raise ValueError(
            f"{archive.name}: {file}: expected {key!r} to be of type {kind.__name__}; "
            + (f"it is of type {type(content[key]).__name__}" if key in content else f"found the keys {keys[:8]}")
        )
    return content[key]
