"""ImageNet and sets laid out like it, from a local folder with one folder of image files per class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cupynn.data.framing import CentreCrop, Framing, RandomResizedCrop, Whole
from cupynn.data.image_files import FileDataset, require_pillow

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # in any case
TINY_FOLDER = "tiny-imagenet-200"  # what Tiny ImageNet's archive unpacks to


def load_image_folder(folder: str | os.PathLike) -> tuple[FileDataset, FileDataset]:
    """Files in `folder`/train/CLASS/ and `folder`/val/CLASS/, classes in the order of their names.

    Training images are framed as scale and aspect-ratio crops of 224 pixels, the others as the middle 224 of 256;
    `framed` gives another framing. They are normalised with ImageNet's mean and deviation.

    Raises FileNotFoundError for folders and images that are missing, ValueError for a class in val that train has not.
    """
    name, folder = "imagefolder", _existing("imagefolder", Path(folder))
    require_pillow(name)
    classes = _subfolders(name, folder / "train")
    unknown = [entry for entry in _subfolders(name, folder / "val") if entry not in set(classes)]
    if unknown:
        raise ValueError(f"{name}: {folder / 'val'}: the class {unknown[0]!r} is not in {folder / 'train'}")
    train = _by_class(name, folder, {label: f"train/{entry}" for label, entry in enumerate(classes)})
    val = {label: f"val/{entry}" for label, entry in enumerate(classes) if (folder / "val" / entry).is_dir()}
    return _sets(
        name, folder, classes, train, _by_class(name, folder, val), RandomResizedCrop(224), CentreCrop(224, 256)
    )


def load_tiny_imagenet(folder: str | os.PathLike) -> tuple[FileDataset, FileDataset]:
    """Tiny ImageNet: 64 x 64 images in train/CLASS/images/ and val/images/ with val/val_annotations.txt.

    `folder` holds them, or the folder that the archive unpacks to. Classes are in the order of their WordNet numbers.
    They are normalised with ImageNet's mean and deviation.

    Raises FileNotFoundError for folders and images that are missing, ValueError for annotations that do not fit.
    """
    name, folder = "tinyimagenet", _existing("tinyimagenet", Path(folder))
    require_pillow(name)
    if not (folder / "train").is_dir() and (folder / TINY_FOLDER).is_dir():
        folder = folder / TINY_FOLDER
    classes = _subfolders(name, folder / "train")
    train = _by_class(name, folder, {label: f"train/{entry}/images" for label, entry in enumerate(classes)})
    return _sets(name, folder, classes, train, _annotated(name, folder, classes), Whole(64), Whole(64))


def _sets(
    name: str,
    folder: Path,
    classes: tuple[str, ...],
    train: list[tuple[str, int]],
    test: list[tuple[str, int]],
    train_framing: Framing,
    test_framing: Framing,
) -> tuple[FileDataset, FileDataset]:
    """A training and a test set from pairs of file and label."""
    sets = []
    for part, rows, framing in (("train", train, train_framing), ("test", test, test_framing)):
        labels = np.array([label for _, label in rows], dtype=np.int64)
        files = tuple(file for file, _ in rows)
        sets.append(FileDataset(os.fspath(folder), files, labels, classes, f"{name} {part}", framing))
    return sets[0], sets[1]


def _existing(name: str, folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: {folder} is no folder")
    return folder


def _subfolders(name: str, folder: Path) -> tuple[str, ...]:
    _existing(name, folder)
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise FileNotFoundError(f"{name}: expected a folder per class in {folder}; found none")
    return tuple(found)


def _images(name: str, folder: Path) -> list[str]:
    """The image files in `folder`, by name. Hidden files, which some systems write beside each file, are none."""
    _existing(name, folder)
    found = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
    )
    if not found:
        raise FileNotFoundError(f"{name}: expected image files ({', '.join(SUFFIXES)}) in {folder}; found none")
    return found


def _by_class(name: str, folder: Path, places: dict[int, str]) -> list[tuple[str, int]]:
    """(file, label) of every image in the folder of each label."""
    return [(f"{place}/{file}", label) for label, place in places.items() for file in _images(name, folder / place)]


def _annotated(name: str, folder: Path, classes: tuple[str, ...]) -> list[tuple[str, int]]:
    """(file, label) of every line "FILE CLASS x y width height", separated by tabs, of val_annotations.txt."""
    annotations = folder / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise FileNotFoundError(f"{name}: expected the file {annotations}")
    labels = {entry: label for label, entry in enumerate(classes)}
    present = set(_images(name, folder / "val" / "images"))
    rows: dict[str, int] = {}
    lines = annotations.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        wanted = f"{name}: {annotations}, line {number}: expected an image's name, a tab and its class"
        file, entry, *_ = [*line.split("\t"), "", ""]
        if entry not in labels:
            raise ValueError(f"{wanted}, one of the {len(classes)} in train; found {line[:80]!r}")
        if file not in present or file in rows:
            why = "was named before" if file in rows else f"is not in {folder / 'val' / 'images'}"
            raise ValueError(f"{wanted}; {file!r} {why}")
        rows[file] = labels[entry]
    if missing := sorted(present - rows.keys()):
        raise ValueError(f"{name}: {annotations}: {len(missing)} images have no line, the first is {missing[0]!r}")
    return [(f"val/images/{file}", label) for file, label in rows.items()]
