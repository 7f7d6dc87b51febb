"""Data sets, in memory or as image files, and batches from them. Nothing here downloads.

    train, test = cupynn.data.load("digits", pad_to=32)
    for images, labels in cupynn.data.batches(train, 128, shuffle=True, seed=0, epoch=3):
        ...  # images: float32 (N, C, H, W), normalised; labels: int64 (N,)

Their order depends on seed and epoch alone.
"""

from cupynn.data.colour import ColourJitter, Lighting
from cupynn.data.dataset import ArrayDataset, Dataset, train_and_test
from cupynn.data.framing import CentreCrop, Framing, RandomResizedCrop, ShorterEdgeCrop, Whole
from cupynn.data.image_files import FileDataset
from cupynn.data.label_noise import corrupt_labels
from cupynn.data.loader import Batches, batches
from cupynn.data.registry import load, names
from cupynn.data.transforms import HorizontalFlip, RandomCrop, Transform, normalise, pad_images

__all__ = [
    "ArrayDataset",
    "Batches",
    "CentreCrop",
    "ColourJitter",
    "Dataset",
    "FileDataset",
    "Framing",
    "HorizontalFlip",
    "Lighting",
    "RandomCrop",
    "RandomResizedCrop",
    "ShorterEdgeCrop",
    "Transform",
    "Whole",
    "batches",
    "corrupt_labels",
    "load",
    "names",
    "normalise",
    "pad_images",
    "train_and_test",
]
