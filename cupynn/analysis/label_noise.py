"""What networks learn by heart: training and test accuracy when some training labels are random. [ExpandNets]

A share of the training labels is replaced by random ones (`data.corrupt_labels`), the test labels stay true. A network
that fits the training labels all the same has learned them by heart. The generalisation gap is

    gap = accuracy on the training images with the labels it was given - accuracy on the test images,

both after the last epoch, in evaluation mode, on images that are not augmented. After Zhang et al. 2017.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn.analysis.figures import Figures
from cupynn.data import ArrayDataset, Dataset, corrupt_labels
from cupynn.device import manual_seed
from cupynn.nn import Module
from cupynn.pictures import Theme
from cupynn.train import Interrupted, RunFolder, Settings, evaluate, fit


@dataclass(frozen=True)
class Training:
    """One network trained with one share of random labels. best_test_accuracy: the highest after any epoch."""

    network: str
    images: int
    epochs: int
    seed: int
    share: float
    train_accuracy: float
    test_accuracy: float
    best_test_accuracy: float

    @property
    def gap(self) -> float:
        return self.train_accuracy - self.test_accuracy


@dataclass(frozen=True)
class LabelNoise(Figures):
    """Several networks, each trained once for every share."""

    trainings: list[Training]

    @property
    def size(self) -> tuple[float, float]:
        return 10.0, 4.0

    def record(self) -> dict[str, Any]:
        found = super().record()
        for record, training in zip(found["trainings"], self.trainings, strict=True):
            record["gap"] = training.gap
        return found

    def rows(self) -> list[list[str]]:
        rows = [["network", "images", "epochs", "random labels", "training accuracy", "test accuracy", "best", "gap"]]
        for one in self.trainings:
            shares = (one.share, one.train_accuracy, one.test_accuracy, one.best_test_accuracy, one.gap)
            rows.append([one.network, f"{one.images:,}", str(one.epochs), *(f"{share:.1%}" for share in shares)])
        return rows

    def draw(self, figure: Any, theme: Theme) -> None:
        from matplotlib.ticker import PercentFormatter

        left, right = figure.subplots(1, 2)
        for number, network in enumerate(dict.fromkeys(one.network for one in self.trainings)):
            colour = theme.lines[number % len(theme.lines)]
            own = [one for one in self.trainings if one.network == network]
            shares = [one.share for one in own]
            left.plot(shares, [one.train_accuracy for one in own], "o--", color=colour, label=f"{network}, training")
            left.plot(shares, [one.test_accuracy for one in own], "o-", color=colour, label=f"{network}, test")
            right.plot(shares, [one.gap for one in own], "o-", color=colour, label=network)
        left.set(title="Accuracy after the last epoch", ylabel="share of images", ylim=(0, 1.02))
        right.set(title="Generalisation gap", ylabel="training accuracy - test accuracy")
        for axes in (left, right):
            axes.set_xlabel("training labels that are random")
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
            axes.legend(loc="best")
        right.axhline(0, color=theme.ink, linewidth=0.8, linestyle=":")


def label_noise(
    network: str,
    create: Callable[[], Module],
    train_set: Dataset,
    test_set: Dataset,
    settings: Settings,
    shares: Sequence[float],
    tell: Callable[[int, int], None] | None = None,
) -> list[Training]:
    """Train the network that `create()` makes once for every share, from the same weights by the same settings.

    settings.seed draws the weights and the labels. Nothing is kept of the runs. tell(done, of): progress.
    Raises ValueError as `corrupt_labels` does, before anything is trained, and Diverged as `fit` does.
    """
    corrupted = [corrupt_labels(train_set, share, settings.seed) for share in shares]
    found = []
    for share, given in zip(shares, corrupted, strict=True):
        manual_seed(settings.seed)
        model = create()
        with tempfile.TemporaryDirectory() as folder:
            try:
                records = fit(model, given, test_set, settings, RunFolder(folder), quiet=True)
            except Interrupted as stopped:  # it says where the weights are, which nobody keeps
                raise Interrupted(f"stopped at a share of {share:g}; nothing is kept", stopped.signal) from None
        train = evaluate(model, given).accuracy
        accuracies = [record["test_accuracy"] for record in records]
        how = (len(given), settings.epochs, settings.seed)
        found.append(Training(network, *how, float(share), train, accuracies[-1], max(accuracies)))
        if tell is not None:
            tell(len(found), len(shares))
    return found


def some(dataset: Dataset, images: int, seed: int) -> Dataset:
    """So many images of a set in memory, drawn by `seed`, in the set's order; all of them where it has no more.

    Raises ValueError for no images, and for a set of files.
    """
    if images < 1:
        raise ValueError(f"label-noise: needs one image at least; got images={images}")
    if images >= len(dataset):
        return dataset
    if not isinstance(dataset, ArrayDataset):
        raise ValueError(f"label-noise: takes a part of sets in memory only; {dataset.name} is read from files")
    chosen = np.sort(np.random.default_rng(seed).choice(len(dataset), images, replace=False))
    return dataclasses.replace(dataset, images=dataset.images[chosen], labels=dataset.labels[chosen])
