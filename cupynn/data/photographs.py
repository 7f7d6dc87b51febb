"""A small colour set: 32x32 patches of ten photographs that ship inside scikit-image and scikit-learn.

The class of a patch is the photograph it was cut from. Training patches come from the left three quarters of each
photograph, test patches from the right quarter: the two never share a pixel. Some patches are plain (sky, the black
beyond the retina's edge), so no network can be right about all. The set is for trying colour networks where no CIFAR
is at hand; its accuracies say nothing about other data.
"""

from __future__ import annotations

import numpy as np

from cupynn.data.dataset import ArrayDataset, train_and_test
from cupynn.data.packaged import missing_package, packaged_file

PATCH = 32
# Patches per photograph: rows x columns of a regular lattice, so 500 for training and 100 for the test.
LATTICE = {"train": (20, 25), "test": (20, 5)}

# Class name, package, file inside it, height, width. All of them lie in the wheels: scikit-image would download others.
PHOTOGRAPHS = (
    ("astronaut", "skimage", "data/astronaut.png", 512, 512),
    ("cat", "skimage", "data/chelsea.png", 300, 451),
    ("coffee", "skimage", "data/coffee.png", 400, 600),
    ("galaxies", "skimage", "data/hubble_deep_field.jpg", 872, 1000),
    ("tissue", "skimage", "data/ihc.png", 512, 512),
    ("motorcycle", "skimage", "data/motorcycle_left.png", 500, 741),
    ("retina", "skimage", "data/retina.jpg", 1411, 1411),
    ("rocket", "skimage", "data/rocket.jpg", 427, 640),
    ("temple", "sklearn", "datasets/images/china.jpg", 427, 640),
    ("flower", "sklearn", "datasets/images/flower.jpg", 427, 640),
)


def load_photographs() -> tuple[ArrayDataset, ArrayDataset]:
    """Ten classes of uint8 (N, 3, 32, 32) patches: 5000 for training, 1000 for the test.

    Raises ModuleNotFoundError with the pip command where scikit-image, scikit-learn or Pillow is missing,
    ValueError for a file that is not the photograph expected.
    """
    parts = {"train": [], "test": []}
    for _, package, path, height, width in PHOTOGRAPHS:
        photograph = read_photograph(package, path, height, width)
        for part, patches in parts.items():
            patches.append(cut_patches(photograph, part))
    names = tuple(row[0] for row in PHOTOGRAPHS)
    return train_and_test("photographs", names, _labelled(parts["train"]), _labelled(parts["test"]))


def read_photograph(package: str, path: str, height: int, width: int) -> np.ndarray:
    """The photograph as uint8 (height, width, 3). Decoded JPEG pixels may differ by 1 between versions of libjpeg."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing_package("photographs", "pillow", "data") from error
    file = packaged_file("photographs", package, path, extra="data")
    wanted = f"photographs: {file}: expected an RGB image of {width} x {height} pixels"
    try:
        with Image.open(file) as image:
            found = f"{image.mode}, {image.size[0]} x {image.size[1]} pixels"
            fits = image.size == (width, height) and image.mode == "RGB"
            pixels = np.asarray(image) if fits else None
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(f"{wanted}; reading it failed: {error}") from error
    if pixels is None:
        raise ValueError(f"{wanted}; found {found}")
    return pixels


def cut_patches(photograph: np.ndarray, part: str) -> np.ndarray:
    """The "train" or "test" patches (N, 3, 32, 32) of a photograph (H, W, 3).

    They stand on a regular lattice that spans the part's area; neighbours within a part may overlap.
    """
    height, width = photograph.shape[:2]
    border = width * 3 // 4
    left, right = (0, border) if part == "train" else (border, width)
    rows, columns = LATTICE[part]
    tops = np.linspace(0, height - PATCH, rows).astype(int)
    lefts = np.linspace(left, right - PATCH, columns).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (PATCH, PATCH), axis=(0, 1))
    return np.ascontiguousarray(windows[np.ix_(tops, lefts)]).reshape(-1, 3, PATCH, PATCH)


def _labelled(patches: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    counts = [len(group) for group in patches]
    return np.concatenate(patches), np.repeat(np.arange(len(patches), dtype=np.int64), counts)
