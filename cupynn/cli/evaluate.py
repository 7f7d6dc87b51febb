"""cupynn evaluate"""

from __future__ import annotations

import argparse
from typing import Any

from cupynn import models
from cupynn.cli.common import (
    BAD_USE,
    CommandError,
    add_data,
    add_device,
    choose_device,
    load_data,
    load_network,
    run_config,
)
from cupynn.train import evaluate

EPILOG = """\
examples:
  cupynn evaluate runs/demo                                    the network and the data of that run
  cupynn evaluate runs/demo/compact.safetensors                the contracted one on the same data
  cupynn evaluate net.safetensors --data digits --pad-to 32    any file that cupynn.save wrote

Nothing is written."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="loss and accuracy on a test set",
        description="Evaluate a trained network on the test set of the data it was trained on, or of another.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN_OR_FILE", help="run folder, or file of weights")
    add_data(parser, required=False)
    add_device(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    choose_device(arguments.device)
    model = load_network(arguments.path)
    _, test_set = load_data(*_which_data(arguments))
    wanted, given = model.input_shape, test_set.image_shape
    any_size = "image_size" not in models.takes(model.creation["name"])
    if wanted != given and not (any_size and wanted[0] == given[0]):
        raise CommandError(f"{arguments.path} takes images of shape {wanted}; {test_set.name} has {given}", BAD_USE)
    score = evaluate(model, test_set)
    print(f"{test_set.name}: {len(test_set)} images, accuracy {score.accuracy:.2%}, loss {score.loss:.4f}")


def _which_data(arguments: argparse.Namespace) -> tuple[str, str | None, int | None]:
    """Name, folder and frame of the data: from the command line, else from the run's config.json."""
    if arguments.data is not None:
        return arguments.data, arguments.data_dir, arguments.pad_to
    trained_on = run_config(arguments.path).get("data", {}).get("load")
    if trained_on is None:
        raise CommandError(f"{arguments.path} has no config.json that names its data; pass --data", BAD_USE)
    return trained_on["name"], arguments.data_dir or trained_on["folder"], arguments.pad_to or trained_on["pad_to"]
