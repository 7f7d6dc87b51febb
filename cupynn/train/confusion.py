"""Which classes a network takes for which: the confusion matrix, what it says of each class, and its picture."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cupynn.device import Array, to_numpy
from cupynn.pictures import Draw, Theme, save_picture

WITH_NUMBERS, WITH_NAMES = 20, 100  # the most classes whose cells hold numbers, and whose axes hold names
SHARES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)


class Confusion:
    """Counts images by their class and by the class that a network takes them for, batch by batch.

    class_names: K names. `counts` is int64 (K, K): row i, column j for images of class i whose largest logit is j's.
    What follows from it is (K,), NaN where it would be 0 / 0.
    """

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        self._pairs: list[Array] = []

    def add(self, logits: Array, labels: Array) -> None:
        """Count one batch: its logits (N, K), its labels (N,). They stay where they are until `counts` is read.

        Raises ValueError where the logits are those of another number of classes.
        """
        classes = len(self.class_names)
        if logits.shape[1:] != (classes,):
            raise ValueError(
                f"confusion: {classes} classes, so logits must have shape (N, {classes}); they have {logits.shape}"
            )
        self.__dict__.pop("counts", None)
        self._pairs.append(labels * classes + logits.argmax(axis=1))

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """The matrix."""
        classes = len(self.class_names)
        flat = [to_numpy(pairs) for pairs in self._pairs] or [np.zeros(0, np.int64)]
        return np.bincount(np.concatenate(flat), minlength=classes**2).reshape(classes, classes)

    @property
    def images(self) -> np.ndarray:
        """How many images of each class there are."""
        return self.counts.sum(axis=1)

    @property
    def taken_for(self) -> np.ndarray:
        """How many images were taken for each class."""
        return self.counts.sum(axis=0)

    @property
    def recall(self) -> np.ndarray:
        """The share of a class's images that were taken for it."""
        return _share(np.diagonal(self.counts), self.images)

    @property
    def precision(self) -> np.ndarray:
        """The share of the images taken for a class that are of it."""
        return _share(np.diagonal(self.counts), self.taken_for)

    @property
    def accuracy(self) -> np.ndarray:
        """The share of all images for which "is it of this class?" was answered rightly."""
        total = self.counts.sum()
        wrong = self.images + self.taken_for - 2 * np.diagonal(self.counts)
        return _share(total - wrong, np.full(len(self.class_names), total))

    def largest(self, most: int) -> list[tuple[int, int, int]]:
        """The most frequent confusions: class, class it was taken for, images; the most frequent first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        places = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(int(row), int(column), int(wrong[row, column])) for row, column in places if wrong[row, column]]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), math.nan), where=whole > 0)


def draw_confusion(confusion: Confusion, path: str | os.PathLike, title: str | None = None, dark: bool = False) -> None:
    """Draw `heat_map` to a file, for a light or a dark page. Raises what `save_picture` does."""
    draw, size = heat_map(confusion, title)
    save_picture(draw, path, size, dark)


def heat_map(confusion: Confusion, title: str | None = None) -> tuple[Draw, tuple[float, float]]:
    """The matrix as a picture, and its size: each row as shares of its class's images, numbers in it where they fit."""
    classes = len(confusion.class_names)
    side = min(max(0.42 * classes, 6), 15)

    def draw(figure: Any, theme: Theme) -> None:
        from matplotlib.colors import PowerNorm

        axes = figure.subplots()
        shares = confusion.counts / np.maximum(confusion.images, 1)[:, None]
        scale = PowerNorm(0.5, 0, 1)  # rare confusions are seen beside the diagonal
        picture = axes.imshow(shares, cmap=theme.sequential, norm=scale, interpolation="nearest")
        bar = figure.colorbar(picture, ax=axes, ticks=SHARES, format=lambda share, _: f"{share:.0%}", shrink=0.8)
        bar.set_label("share of the images of a class")
        axes.set(xlabel="taken for", ylabel="class of the image", title=title or "")
        if classes <= WITH_NAMES:
            small = 10 if classes <= WITH_NUMBERS else 6
            axes.set_xticks(range(classes), confusion.class_names, rotation=_rotation(confusion), fontsize=small)
            axes.set_yticks(range(classes), confusion.class_names, fontsize=small)
        if classes <= WITH_NUMBERS:
            _write_numbers(axes, confusion.counts, picture.to_rgba(shares))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(False)

    return draw, (side + 1, side)


def _rotation(confusion: Confusion) -> int:
    return 90 if max(map(len, confusion.class_names)) > 3 else 0


def _write_numbers(axes: Any, counts: np.ndarray, colours: np.ndarray) -> None:
    """Each count on the colour of its cell, (K, K, 4)."""
    width = max(len(str(counts.max())), 3)
    brightness = colours[..., :3] @ (0.30, 0.59, 0.11)
    for row, column in np.argwhere(counts):
        colour = "#22262b" if brightness[row, column] > 0.55 else "white"
        text = f"{counts[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=min(9, 27 / width))
