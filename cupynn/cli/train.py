"""cupynn train"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import time
from typing import Any

import cupynn
from cupynn import models
from cupynn.cli import networks
from cupynn.cli.common import BAD_USE, CommandError, add_data, add_device, choose_device, expected, load_data
from cupynn.data import Dataset
from cupynn.nn import Module
from cupynn.train import Diverged, RunFolder, Settings, draw_curves, environment, fit, versions
from cupynn.train.run_folder import CONFIG, CURVES
from cupynn.train.settings import SCHEDULES

EPILOG = """\
examples:
  cupynn train smallnet --data digits --pad-to 32 --epochs 10 --crop 2
  cupynn train smallnet --data cifar10 --data-dir data/cifar-10-batches-py --expand ck --rate 4 \\
      --epochs 150 --batch-size 128 --lr 0.01 --schedule multistep --milestones 50 100 --crop 4 --flip
  cupynn train --resume runs/ck
  cupynn train smallnet --data photographs --option kernel_size=9 --option convolutions=4 --expand cl+fc

written to the run folder:
  config.json        settings, data, versions, device, how the network was made
  metrics.jsonl      one line per epoch: losses, accuracies, seconds, images per second
  model.safetensors  weights after the last epoch, or as they were when Ctrl-C or SIGTERM came
  curves.png         loss and test accuracy (with matplotlib installed)

  checkpoints/       what --resume goes on from, and the best weights: model-best.safetensors

Classes, channels and image size are the data's. The same seed on the same device gives the same bits. A run that was
stopped or killed goes on with --resume to the very bits of a run that never stopped."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a network, plain or expanded",
        description="Train a network with SGD, evaluate it on the test set after each epoch, keep it all in a folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="network: a name or id of `cupynn models`")
    add_data(parser, required=False)
    networks.add_network(parser)
    _add_recipe(parser.add_argument_group("recipe"))
    parser.add_argument("--run", dest="folder", metavar="DIR", help="run folder (default: runs/MODEL-DATA-DATE-TIME)")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder, by its own settings, where it stopped"
    )
    add_device(parser)
    parser.set_defaults(command=run)


DECIDE_BITS = ("device", "processor", "threads", "kernels", "compiler", "cupynn", "numpy")
HELP = {
    "lr": "learning rate",
    "nesterov": "Nesterov's momentum",
    "decay_biases": "weight decay for biases and scales of norms too",
    "milestones": "for multistep: where lr falls",
    "milestone_factor": "for multistep: lr is multiplied by it",
    "warm_up": "epochs in which lr rises to its height",
    "warm_up_from": "where it rises from, as a share",
    "clip_norm": "the largest norm of all gradients together; 0: none",
    "label_smoothing": "share of a target's weight that all classes get",
    "teacher": "run folder or file of a network whose logits are learned too",
    "temperature": "of the softmax that is learned from the teacher",
    "teacher_weight": "share of the loss that is the teacher's",
    "product_decay": "weight decay of the kernels that expanded layers contract to",
    "frozen": "modules that are not trained",
    "crop": "pixels of border for random crops",
    "flip": "mirror half of the images",
    "seed": "of all random numbers",
    "workers": "threads that prepare batches",
    "keep": "checkpoints kept, besides the best; 0: none are written",
    "checkpoint_seconds": "a checkpoint at least so often",
    "checkpoint_steps": "one every so many steps of an epoch; 0: none",
}


def _add_recipe(group: Any) -> None:
    """An option for each field of Settings that one can put on a command line. What is not given is not there."""
    for field in dataclasses.fields(Settings):
        option = {"dest": field.name, "default": argparse.SUPPRESS}
        option["help"] = f"{HELP.get(field.name, '')} (default: {field.default})".lstrip()
        if isinstance(field.default, bool):
            option["action"] = argparse.BooleanOptionalAction
        elif field.name in ("milestones", "frozen"):
            kind, metavar = (float, "EPOCH") if field.name == "milestones" else (str, "NAME")
            option |= {"type": kind, "nargs": "+", "metavar": metavar, "help": HELP[field.name]}
        elif field.name == "teacher":
            option |= {"metavar": "RUN_OR_FILE", "help": HELP[field.name]}
        elif field.name == "schedule":
            option["choices"] = SCHEDULES
        elif field.name == "groups":
            continue
        else:
            option |= {"type": type(field.default), "metavar": "N"}
        group.add_argument("--" + field.name.replace("_", "-"), **option)


def run(arguments: argparse.Namespace) -> None:
    given = {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(Settings)
        if hasattr(arguments, field.name)
    }
    if arguments.resume is not None:
        _resume(arguments, given)
        return
    if missing := [name for name, value in (("MODEL", arguments.model), ("--data", arguments.data)) if value is None]:
        raise CommandError(f"the following arguments are required: {', '.join(missing)}", BAD_USE)
    with expected(ValueError, status=BAD_USE):
        settings = Settings.from_table(given)
    networks.resolve(arguments.model)  # before data is read
    device = choose_device(arguments.device)
    train_set, test_set = load_data(arguments.data, arguments.data_dir, arguments.pad_to)
    model = _create(arguments, train_set, settings.seed)
    with expected(OSError):
        folder = RunFolder(arguments.folder or _new_folder(arguments))
    # fit writes it, together with all else that --resume needs
    folder.config["data"] = {"load": {"name": arguments.data, "folder": arguments.data_dir, "pad_to": arguments.pad_to}}
    _fit(arguments.model, model, (train_set, test_set), settings, folder, device)


def _resume(arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    """Go on with a run: network, data and settings come from its config.json; --data-dir and --device may be new."""
    others = {"MODEL": arguments.model, "--data": arguments.data, "--pad-to": arguments.pad_to}
    others |= {"--run": arguments.folder, "--option": arguments.option or None, "--expand": arguments.expand}
    others |= {"--rate": arguments.rate, "--composition": arguments.composition}
    others |= {"--" + name.replace("_", "-"): value for name, value in given.items()}
    if extra := [name for name, value in others.items() if value is not None]:
        raise CommandError(f"--resume takes all settings from the run; {', '.join(extra)} cannot be given", BAD_USE)
    with expected(ValueError, OSError):
        folder = RunFolder.reopen(arguments.resume)
    config, path = folder.config, folder.path / CONFIG
    try:
        settings = Settings.from_table(config["settings"])
        load, creation = config["data"]["load"], config["networks"]["model"]
        ran_on = config["environment"]
        model_name, options = creation["name"], creation["options"]
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{path} is not of a run that `cupynn train` began: {error!r}") from error
    device = choose_device(arguments.device or ran_on.get("device"))
    sets = load_data(load["name"], arguments.data_dir or load["folder"], load["pad_to"])
    cupynn.manual_seed(settings.seed)
    with expected(ValueError, TypeError):
        model = models.create(model_name, **options)
    then, now = ran_on | config.get("versions", {}), environment() | versions()
    for what in DECIDE_BITS:
        if then.get(what) != now.get(what):
            print(f"{what}: {now.get(what)}, was {then.get(what)}; the bits may differ from a run that never stopped")
    _fit(model_name, model, sets, settings, folder, device, resume=True)


def _fit(
    title: str,
    model: Module,
    sets: tuple[Dataset, Dataset],
    settings: Settings,
    folder: RunFolder,
    device: str,
    resume: bool = False,
) -> None:
    parameters = sum(parameter.size for parameter in model.parameters())
    print(f"{title}: {parameters:,} parameters, on {device}, run folder {folder.path}", flush=True)
    with expected(Diverged, OSError, ValueError):
        records = fit(model, *sets, settings, folder, resume=resume)
    try:
        draw_curves(records, folder.path / CURVES, {"model": title})
    except ModuleNotFoundError as error:
        print(error)
    print(f"test accuracy {records[-1]['test_accuracy']:.1%}; weights in {folder.weights()}")


def _create(arguments: argparse.Namespace, train_set: Dataset, seed: int) -> Module:
    """The network for this data, with weights drawn from the seed."""
    channels, height, width = train_set.image_shape
    if height != width:
        raise CommandError(f"networks take square images; {arguments.data} has {height} x {width}")
    cupynn.manual_seed(seed)
    sizes = {"classes": len(train_set.class_names), "in_channels": channels, "image_size": height}
    return networks.create(arguments, **sizes)


def _new_folder(arguments: argparse.Namespace) -> pathlib.Path:
    name, _ = networks.resolve(arguments.model)
    return pathlib.Path("runs", f"{name}-{arguments.data}-{time.strftime('%Y%m%d-%H%M%S')}")
