"""A data set of image files, each decoded when it is asked for (Pillow, extra `data`)."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from cupynn.data.dataset import Dataset
from cupynn.data.framing import Framing
from cupynn.data.packaged import missing_package

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # Pillow knows others, one of which starts a program
# Statistics of ImageNet's training images that torchvision, GluonCV and the papers' authors use.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

ORIENTATION = 0x0112  # EXIF tag
LYING = (5, 6, 7, 8)  # its values for photographs whose rows are stored as columns


@dataclasses.dataclass(frozen=True, eq=False)
class FileDataset(Dataset):
    """Image files below the folder `root`; only their names are held in memory.

    framing: how a photograph becomes a square; the rest as in `Dataset`. Grey, palette and CMYK images become RGB.
    Reading raises ValueError that names a file which is damaged or does not fit the framing.

    Raises TypeError for labels that are not int64, ValueError for a number of labels that is not that of the files.
    """

    root: str
    files: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str
    framing: Framing
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.labels.dtype != np.int64:
            raise TypeError(f"{self.name}: labels must be int64; they are {self.labels.dtype}")
        if self.labels.shape != (len(self.files),):
            raise ValueError(
                f"{self.name}: {len(self.files)} files, so labels must have shape ({len(self.files)},); "
                f"they have shape {self.labels.shape}"
            )
        self._check()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.framing.size, self.framing.size

    @property
    def uniforms(self) -> int:
        return self.framing.uniforms

    def framed(self, framing: Framing) -> FileDataset:
        """The same files under another framing."""
        return dataclasses.replace(self, framing=framing)

    def read(self, indices: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        images = np.empty((len(indices), *self.image_shape), dtype=np.uint8)
        for image, index, numbers in zip(images, indices, uniforms, strict=True):
            file = os.path.join(self.root, self.files[index])
            try:
                image[:] = read_image(file, self.framing, numbers).transpose(2, 0, 1)
            except Exception as error:  # decoders raise whatever a damaged file leads them into
                raise ValueError(
                    f"{self.name}: {file}: reading the image failed: {type(error).__name__}: {error}"
                ) from error
        return images


def read_image(file: str, framing: Framing, uniforms: np.ndarray) -> np.ndarray:
    """The framed part of a photograph, uint8 (size, size, 3), upright as its EXIF orientation says.

    A JPEG is decoded at a half, quarter or eighth of its size where the crop is then still as large as the result
    (Pillow's draft mode); the rectangle is resized with a triangle filter that widens as it shrinks (antialiasing).
    """
    from PIL import Image, ImageOps

    with Image.open(file, formats=FORMATS) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"expected 8 bits per channel; found Pillow's mode {image.mode}")
        width, height = image.size
        if image.getexif().get(ORIENTATION) in LYING:
            width, height = height, width
        left, top, right, bottom = framing.box(width, height, uniforms)
        room = min(right - left, bottom - top) / framing.size
        shrink = max(factor for factor in (1, 2, 4, 8) if factor <= max(room, 1))
        image.draft(None, (image.width // shrink, image.height // shrink))
        upright = ImageOps.exif_transpose(image).convert("RGB")
    across, down = upright.width / width, upright.height / height
    box = left * across, top * down, right * across, bottom * down
    return np.asarray(upright.resize((framing.size, framing.size), Image.Resampling.BILINEAR, box=box))


def require_pillow(data_set: str) -> None:
    """Raise ModuleNotFoundError with the pip command where Pillow is missing: now, not at the first image."""
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package(data_set, "pillow", "data") from error
