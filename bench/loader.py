"""Images per second of the data pipeline with 0, 1 and 2 worker threads; nothing else is done with the batches."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench.command import read_options, report
from cupynn.data import (
    ArrayDataset,
    ColourJitter,
    Dataset,
    FileDataset,
    HorizontalFlip,
    Lighting,
    RandomCrop,
    RandomResizedCrop,
    Transform,
    batches,
)

WORKERS = (0, 1, 2)
IN_MEMORY, FILES = 100, 8  # batches per epoch; the files are read again in each epoch
FILE_BATCH = 16


def cifar_size(count: int) -> ArrayDataset:
    """Random images of CIFAR's shape."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(0, 10, count)
    return ArrayDataset(images, labels, tuple("0123456789"), "random train", (0.5,) * 3, (0.25,) * 3)


def photographs(folder: str) -> FileDataset:
    """JPEGs of 500 x 375 pixels, ImageNet's most frequent size: smooth noise of some 100 kB each, as there."""
    from PIL import Image

    generator = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(FILES * FILE_BATCH)]
    for name in names:
        coarse = generator.integers(0, 256, (94, 125, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        picture.save(pathlib.Path(folder, name), quality=90)
    labels = np.zeros(len(names), dtype=np.int64)
    return FileDataset(folder, tuple(names), labels, ("a",), "photographs train", RandomResizedCrop(224))


def epoch(dataset: Dataset, batch: int, workers: int, transform: list[Transform]) -> Callable[[], None]:
    """A call that walks through one epoch."""

    def run() -> None:
        for _ in batches(dataset, batch, shuffle=True, transform=transform, workers=workers):
            pass

    return run


def main(arguments: list[str]) -> None:
    options = read_options("loader", __doc__, arguments, batch=128, rounds=7)
    crop, flip, colour = RandomCrop(4), HorizontalFlip(), [ColourJitter(), Lighting()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        arrays, files = cifar_size(IN_MEMORY * options.batch), photographs(folder)
        for what, dataset, batch, transform in (
            ("32x32 in memory, plain", arrays, options.batch, []),
            ("32x32 in memory, crop, flip", arrays, options.batch, [crop, flip]),
            ("32x32 in memory, crop, flip, colour, lighting", arrays, options.batch, [crop, flip, *colour]),
            ("500x375 JPEG, 224x224 of it, flip", files, FILE_BATCH, [flip]),
            ("500x375 JPEG, 224x224 of it, flip, colour, lighting", files, FILE_BATCH, [flip, *colour]),
        ):
            runs = {f"{workers} workers": epoch(dataset, batch, workers, transform) for workers in WORKERS}
            times = take_turns(runs, options.rounds, warm_up=1)
            row = {"images": what, "batch": batch}
            rows.append(row | {f"{name}: images/s": len(dataset) / times[name].median for name in runs})
    report(options, "Data pipeline", rows)
