"""cupynn evaluate"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cupynn import models
from cupynn.cli.common import (
    BAD_USE,
    CommandError,
    add_data,
    add_device,
    choose_device,
    expected,
    load_data_of,
    load_network,
    table,
)
from cupynn.train import Score, evaluate
from cupynn.train.confusion import Confusion, draw_confusion

EPILOG = """\
examples:
  cupynn evaluate runs/demo                                    the network and the data of that run
  cupynn evaluate runs/demo/compact.safetensors                the contracted one on the same data
  cupynn evaluate net.safetensors --data digits --pad-to 32    any file that cupynn.save wrote
  cupynn evaluate runs/demo --confusion --picture confusion.png    which digits are taken for which

Of a class, recall is the share of its images that were taken for it, precision the share of the images taken for it
that are of it, accuracy the share of all images for which "is it of this class?" was answered rightly. Nothing is
written but the picture."""

MOST = 20  # classes whose matrix is shown whole; of more, so many confusions and classes
SHORT = 5  # letters of a name that may head a column


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="loss, accuracy and confusion matrix on a test set",
        description="Evaluate a trained network on the test set of the data it was trained on, or of another.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN_OR_FILE", help="run folder, or file of weights")
    add_data(parser, required=False)
    add_device(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--confusion", action="store_true", help="the confusion matrix, and each class's figures")
    output.add_argument("--picture", metavar="FILE", help="draw the confusion matrix to a .png, .svg or .pdf")
    output.add_argument("--dark", action="store_true", help="draw it for a dark page")
    output.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.dark and not arguments.picture:
        raise CommandError("--dark is for --picture FILE", BAD_USE)
    choose_device(arguments.device)
    model = load_network(arguments.path)
    test_set = load_data_of(arguments.path, arguments)[1]
    wanted, given = model.input_shape, test_set.image_shape
    any_size = "image_size" not in models.takes(model.creation["name"])
    if wanted != given and not (any_size and wanted[0] == given[0]):
        raise CommandError(f"{arguments.path} takes images of shape {wanted}; {test_set.name} has {given}", BAD_USE)
    confusion = Confusion(test_set.class_names)
    with expected(ValueError):
        score = evaluate(model, test_set, confusion=confusion)
    summary = f"{test_set.name}: {len(test_set)} images, accuracy {score.accuracy:.2%}, loss {score.loss:.4f}"
    if arguments.picture:
        with expected(ModuleNotFoundError, OSError, ValueError):
            draw_confusion(confusion, arguments.picture, summary, arguments.dark)
    if arguments.json:
        print(json.dumps(_record(test_set.name, score, confusion)))
        return
    print(summary)
    if arguments.confusion:
        _show(confusion)
    if arguments.picture:
        print(f"confusion matrix in {arguments.picture}")


def _show(confusion: Confusion) -> None:
    names, recall = confusion.class_names, confusion.recall
    if len(names) <= MOST:
        print("\nA row for the images of a class, a column for what they were taken for")
        print(_matrix(confusion) + "\n")
        print(_classes(confusion, range(len(names))))
        return
    if confusions := confusion.largest(MOST):
        rows = [["class", "taken for", "images", "share of class"]]
        for true, taken_for, count in confusions:
            rows.append([names[true], names[taken_for], f"{count:,}", _share(count / confusion.images[true])])
        print(f"\nThe {len(confusions)} most frequent confusions of {len(names)} classes\n{table(rows, left=2)}")
    lowest = np.argsort(recall, kind="stable")[:MOST]  # NaN comes last
    print(f"\nThe {MOST} classes with the lowest recall\n{_classes(confusion, lowest)}")


def _matrix(confusion: Confusion) -> str:
    names = confusion.class_names
    heads: Sequence[str] = names
    if max(map(len, names)) > SHORT:
        heads = [str(number) for number in range(len(names))]
        names = [f"{number:>2} {name}" for number, name in enumerate(names)]
    rows = zip(names, confusion.counts, strict=True)
    return table([["", *heads], *([name, *(str(count or ".") for count in row)] for name, row in rows)])


def _classes(confusion: Confusion, numbers: Iterable[int]) -> str:
    figures = (confusion.accuracy, confusion.precision, confusion.recall)
    rows = [["class", "images", "accuracy", "precision", "recall"]]
    for number in numbers:
        shares = [_share(figure[number]) for figure in figures]
        rows.append([confusion.class_names[number], f"{confusion.images[number]:,}", *shares])
    return table(rows)


def _share(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.2%}"


def _record(data: str, score: Score, confusion: Confusion) -> dict[str, Any]:
    figures = ("images", "taken_for", "accuracy", "precision", "recall")
    columns = [getattr(confusion, figure).tolist() for figure in figures]
    classes = [
        {"class": name, **dict(zip(figures, map(_plain, values), strict=True))}
        for name, *values in zip(confusion.class_names, *columns, strict=True)
    ]
    total = {"images": int(confusion.images.sum()), "accuracy": _plain(score.accuracy), "loss": _plain(score.loss)}
    return {"data": data, **total, "classes": classes, "confusion": confusion.counts.tolist()}


def _plain(number: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return number if math.isfinite(number) else None
