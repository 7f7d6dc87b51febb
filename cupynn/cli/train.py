"""cupynn train"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import pathlib
import time
from typing import Any

import cupynn
from cupynn import models
from cupynn.cli.common import BAD_USE, CommandError, add_data, add_device, choose_device, expected, load_data
from cupynn.data import ArrayDataset
from cupynn.nn import Module
from cupynn.train import Diverged, RunFolder, Settings, draw_curves, fit
from cupynn.train.run_folder import CURVES
from cupynn.train.settings import SCHEDULES

EPILOG = """\
examples:
  cupynn train smallnet --data digits --pad-to 32 --epochs 10 --crop 2
  cupynn train smallnet --data cifar10 --data-dir data/cifar-10-batches-py --expand ck --rate 4 \\
      --epochs 150 --batch-size 128 --lr 0.01 --schedule multistep --milestones 50 100 --crop 4 --flip
  cupynn train smallnet --data photographs --option kernel_size=9 --option convolutions=4 --expand cl+fc

written to the run folder:
  config.json        settings, data, versions, device, how the network was made
  metrics.jsonl      one line per epoch: losses, accuracies, seconds, images per second
  model.safetensors  weights after the last epoch, or as they were when Ctrl-C or SIGTERM came
  curves.png         loss and test accuracy (with matplotlib installed)

Classes, channels and image size are the data's. The same seed on the same device gives the same bits."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a network, plain or expanded",
        description="Train a network with SGD, evaluate it on the test set after each epoch, keep it all in a folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=f"network: {', '.join(models.names())}")
    add_data(parser, required=True)
    network = parser.add_argument_group("network")
    network.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the network, e.g. kernel_size=7; may be repeated",
    )
    network.add_argument("--expand", metavar="HOW", help="train it expanded: cl, ck, fc, cl+fc ... (default: plain)")
    network.add_argument("--rate", type=float, default=4, help="how many times wider expanded layers are (default: 4)")
    network.add_argument(
        "--composition",
        choices=("kernel", "feature"),
        default="kernel",
        help="train through the contracted kernel, or layer after layer as the paper's code does (default: kernel)",
    )
    default = Settings()
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--epochs", type=int, default=default.epochs, help="default: %(default)s")
    recipe.add_argument("--batch-size", type=int, default=default.batch_size, help="default: %(default)s")
    recipe.add_argument("--lr", type=float, default=default.lr, help="learning rate (default: %(default)s)")
    recipe.add_argument("--momentum", type=float, default=default.momentum, help="default: %(default)s")
    recipe.add_argument(
        "--nesterov", action=argparse.BooleanOptionalAction, default=default.nesterov, help="Nesterov's momentum"
    )
    recipe.add_argument("--weight-decay", type=float, default=default.weight_decay, help="default: %(default)s")
    recipe.add_argument("--schedule", choices=SCHEDULES, default=default.schedule, help="default: %(default)s")
    recipe.add_argument(
        "--milestones",
        type=int,
        nargs="+",
        default=(),
        metavar="EPOCH",
        help="for multistep: where lr falls to a tenth",
    )
    recipe.add_argument("--crop", type=int, default=default.crop, metavar="PIXELS", help="random crops")
    recipe.add_argument("--flip", action="store_true", help="mirror half of the images")
    recipe.add_argument("--seed", type=int, default=default.seed, help="of all random numbers (default: %(default)s)")
    parser.add_argument("--run", dest="folder", metavar="DIR", help="run folder (default: runs/MODEL-DATA-DATE-TIME)")
    add_device(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    with expected(ValueError, status=BAD_USE):
        settings = Settings(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)})
    if arguments.model not in models.names():
        raise CommandError(f"there is no network {arguments.model!r}; there are {', '.join(models.names())}", BAD_USE)
    options = dict(map(_option, arguments.option))
    device = choose_device(arguments.device)
    train_set, test_set = load_data(arguments.data, arguments.data_dir, arguments.pad_to)
    model = _create(arguments, options, train_set)
    with expected(OSError):
        folder = RunFolder(arguments.folder or _new_folder(arguments))
        folder.add_config(
            data={"load": {"name": arguments.data, "folder": arguments.data_dir, "pad_to": arguments.pad_to}}
        )
    parameters = sum(parameter.size for parameter in model.parameters())
    print(f"{arguments.model}: {parameters:,} parameters, on {device}, run folder {folder.path}")
    with expected(Diverged, OSError):
        records = fit(model, train_set, test_set, settings, folder)
    try:
        draw_curves(records, folder.path / CURVES, {"model": arguments.model})
    except ModuleNotFoundError as error:
        print(error)
    print(f"test accuracy {records[-1]['test_accuracy']:.1%}; weights in {folder.weights()}")


def _create(arguments: argparse.Namespace, options: dict[str, Any], train_set: ArrayDataset) -> Module:
    """The network for this data, with weights drawn from the seed."""
    channels, height, width = train_set.images.shape[1:]
    options = {"classes": len(train_set.class_names), "in_channels": channels, "image_size": height, **options}
    if height != width:
        raise CommandError(f"networks take square images; {arguments.data} has {height} x {width}")
    if arguments.expand is not None:
        options |= {"expand": arguments.expand, "rate": arguments.rate, "composition": arguments.composition}
    cupynn.manual_seed(arguments.seed)
    with expected(ValueError, TypeError, status=BAD_USE):
        return models.create(arguments.model, **options)


def _option(text: str) -> tuple[str, Any]:
    """kernel_size=7 -> ("kernel_size", 7): the value is a Python literal, else the text itself."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise CommandError(f"--option takes NAME=VALUE; got {text!r}", BAD_USE)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _new_folder(arguments: argparse.Namespace) -> pathlib.Path:
    return pathlib.Path("runs", f"{arguments.model}-{arguments.data}-{time.strftime('%Y%m%d-%H%M%S')}")
