"""cupynn train"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import cupynn
from cupynn import data, models
from cupynn.cli import networks
from cupynn.cli.common import BAD_USE, CommandError, add_data, add_device, choose_device, expected, load_data, table
from cupynn.data import Dataset
from cupynn.data.registry import FROM_FOLDER
from cupynn.distributed import World, WorldError, join
from cupynn.nn import Module
from cupynn.train import Diverged, Interrupted, RunFolder, Settings, draw_curves, environment, fit, recipes, versions
from cupynn.train.events import Events
from cupynn.train.progress_line import say
from cupynn.train.run_folder import CONFIG, CURVES
from cupynn.train.settings import PRECISIONS, SCHEDULES

EPILOG = """\
examples:
  cupynn train smallnet --data digits --pad-to 32 --epochs 10 --crop 2
  cupynn train smallnet --data cifar10 --data-dir data/cifar-10-batches-py --expand ck --rate 4 \\
      --epochs 150 --batch-size 128 --lr 0.01 --schedule multistep --milestones 50 100 --crop 4 --flip
  cupynn train --recipe list
  cupynn train --recipe whe/resnet20_cifar100 --data data/cifar-100-python --epochs 30 --milestones 16 24
  cupynn train --resume runs/ck
  OMP_NUM_THREADS=4 mpiexec -n 4 python -m mpi4py -m cupynn train cifar_resnet --data cifar10 --data-dir DIR
  cupynn train smallnet --data photographs --option kernel_size=9 --option convolutions=4 --expand cl+fc

written to the run folder:
  config.json        settings, data, versions, device, how the network was made
  metrics.jsonl      one line per epoch: losses, accuracies, seconds, images per second
  model.safetensors  weights after the last epoch, or as they were when Ctrl-C or SIGTERM came
  curves.png         loss and test accuracy (with matplotlib installed)
  events/            event files for TensorBoard, with --tensorboard
  checkpoints/       what --resume goes on from, and the best weights: model-best.safetensors

A recipe is a file of settings (TOML), a paper's or your own: what is given beside --recipe NAME or --recipe FILE.toml
replaces what it says. MODEL replaces its network with all options, --schedule its milestones too, --data NAME its data
set with framing, mean and deviation; --data DIR is where its own data set lies.

Started by mpiexec as above, with cupynn[mpi] and an MPI library installed (pip install mpich), every rank reads its
part of each batch, on a GPU of its own where there are GPUs; else OMP_NUM_THREADS are the cores for each rank.

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
    parser.add_argument(
        "--recipe", metavar="NAME", help="all settings of a paper's run, or those in a TOML file; `list` lists them"
    )
    add_data(parser, required=False)
    networks.add_network(parser)
    _add_settings(parser.add_argument_group("data preparation"), DATA_FIELDS)
    _add_settings(parser.add_argument_group("settings"), dataclasses.fields(Settings))
    parser.add_argument("--run", dest="folder", metavar="DIR", help="run folder (default: runs/MODEL-DATA-DATE-TIME)")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder, by its own settings, where it stopped"
    )
    parser.add_argument(
        "--tensorboard",
        nargs="?",
        type=int,
        const=50,
        metavar="STEPS",
        help="event files for TensorBoard in RUN/events, the loss every so many steps (default: 50)",
    )
    add_device(parser)
    parser.set_defaults(command=run)


DECIDE_BITS = ("device", "processor", "threads", "kernels", "compiler", "cupynn", "numpy")
HELP = {
    "framing": "of training images that are files (default: the data set's own)",
    "size": "with --framing: pixels of a framed image's edge",
    "shorter_edge": "with --framing: pixels of the shorter edge that it is cut from",
    "mean": "per channel, on the scale 0..1, to normalise with (default: the training images')",
    "std": "deviation per channel, likewise",
    "label_noise": "share of training labels that are random (default: 0)",
    "lr": "learning rate",
    "nesterov": "Nesterov's momentum",
    "decay_biases": "weight decay for biases and scales of norms too",
    "milestones": "for multistep: where lr falls; for linear: where it is 0",
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
    "precision": "type of activations; parameters stay float32",
    "crop": "pixels of border for random crops",
    "synchronise_batch_norm": "with several ranks: batch norm over all of them",
    "flip": "mirror half of the images",
    "colour_jitter": "brightness, contrast and saturation change by up to this share",
    "lighting": "deviation of a random colour along ImageNet's components",
    "seed": "of all random numbers",
    "workers": "threads that prepare batches",
    "cuda_graph": "on a GPU: launch a whole step at once",
    "keep": "checkpoints kept, besides the best; 0: none are written",
    "checkpoint_seconds": "a checkpoint at least so often",
    "checkpoint_steps": "one every so many steps of an epoch; 0: none",
}
DATA_FIELDS = [field for field in dataclasses.fields(recipes.Data) if field.name not in ("name", "pad_to")]


def _groups(text: str) -> Any:
    try:
        return recipes.tomllib.loads(f"groups = {text}")["groups"]
    except recipes.tomllib.TOMLDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected an array of TOML; got {text!r}: {error}") from error


GROUPS = """parameters with a learning rate or weight decay of their own: '[{layers = ["WHE"], weight_decay = 1e-6}]'"""
OWN_FORM = {
    "schedule": {"choices": SCHEDULES},
    "precision": {"choices": PRECISIONS},
    "milestones": {"type": float, "nargs": "+", "metavar": "EPOCH"},
    "frozen": {"type": str, "nargs": "+", "metavar": "NAME"},
    "teacher": {"metavar": "RUN_OR_FILE"},
    "groups": {"type": _groups, "metavar": "TOML", "help": GROUPS},
    "framing": {"choices": recipes.FRAMINGS},
    "size": {"type": int, "metavar": "N"},
    "shorter_edge": {"type": int, "metavar": "N"},
    "mean": {"type": float, "nargs": "+", "metavar": "X"},
    "std": {"type": float, "nargs": "+", "metavar": "X"},
    "label_noise": {"type": float, "metavar": "SHARE"},
}


def _add_settings(group: Any, fields: Sequence[dataclasses.Field]) -> None:
    """An option for each field. What is not given is not there."""
    for field in fields:
        option = {"dest": field.name, "default": argparse.SUPPRESS, "help": HELP.get(field.name, "")}
        if field.name in OWN_FORM:
            option |= OWN_FORM[field.name]
        elif isinstance(field.default, bool):
            option["action"] = argparse.BooleanOptionalAction
        else:
            option |= {"type": type(field.default), "metavar": "N"}
        if field.name not in OWN_FORM or field.name in ("schedule", "precision"):
            option["help"] = f"{option['help']} (default: {field.default})".lstrip()
        group.add_argument("--" + field.name.replace("_", "-"), **option)


def run(arguments: argparse.Namespace) -> None:
    given = _given(arguments, dataclasses.fields(Settings))
    if arguments.resume is not None:
        _resume(arguments, given)
        return
    if arguments.recipe == "list":
        _list()
        return
    recipe = _read_recipe(arguments)
    if missing := [name for name, value in (("MODEL", arguments.model), ("--data", arguments.data)) if value is None]:
        raise CommandError(f"the following arguments are required: {', '.join(missing)}", BAD_USE)
    with expected(ValueError, status=BAD_USE):
        settings = Settings.from_table(_settings_of(recipe, given) | given)
        chosen = recipes.from_table(recipes.Data, _data_of(recipe, arguments), "Data")
    networks.resolve(arguments.model)  # before data is read
    if arguments.tensorboard is not None:
        _events(".", arguments.tensorboard)  # what it refuses, before anything is made
    with expected(WorldError):
        world = join()
    device = choose_device(arguments.device or world.device())
    sets = _load(chosen, arguments.data_dir, settings.seed)
    model = _create(arguments, sets[0], settings.seed)
    with expected(OSError):
        folder = world.copied(RunFolder(arguments.folder or _new_folder(arguments)) if world.rank == 0 else None)
    # fit writes it, together with all else that --resume needs
    folder.config |= {"recipe": recipe.name} if recipe else {}
    folder.config["data"] = {"load": {"folder": arguments.data_dir, **dataclasses.asdict(chosen)}}
    if arguments.tensorboard is not None:
        folder.config["events"] = {"every": arguments.tensorboard}
    _fit(arguments.model, model, sets, settings, folder, device, world)


def _given(arguments: argparse.Namespace, fields: Sequence[dataclasses.Field]) -> dict[str, Any]:
    return {field.name: getattr(arguments, field.name) for field in fields if hasattr(arguments, field.name)}


def _list() -> None:
    with expected(ValueError, OSError):
        found = map(recipes.read, recipes.names())
        rows = [(recipe.name, recipe.network, recipe.data.name, recipe.source) for recipe in found]
    print(table([("recipe", "network", "data", "source"), *rows], left=4))


def _read_recipe(arguments: argparse.Namespace) -> recipes.Recipe | None:
    """The recipe, if there is one, after its network and data went into the arguments that are not given."""
    if arguments.recipe is None:
        return None
    with expected(ValueError, OSError, status=BAD_USE):
        recipe = recipes.read(arguments.recipe)
    if arguments.model is None:
        arguments.model = recipe.network
        arguments.option = [f"{name}={value!r}" for name, value in recipe.options.items()] + arguments.option
    if arguments.data is not None and arguments.data not in data.names():
        if not pathlib.Path(arguments.data).is_dir():
            names = ", ".join(data.names())
            raise CommandError(
                f"--data {arguments.data} is neither a folder nor a data set; there are {names}", BAD_USE
            )
        if arguments.data_dir is not None:
            raise CommandError(f"--data {arguments.data} and --data-dir {arguments.data_dir} are two folders", BAD_USE)
        arguments.data, arguments.data_dir = None, arguments.data
    if arguments.data is None:
        arguments.data = recipe.data.name
    if arguments.data in FROM_FOLDER and arguments.data_dir is None:
        raise CommandError(f"{recipe.name}: {arguments.data} is read from a folder; pass --data DIR", BAD_USE)
    return recipe


def _settings_of(recipe: recipes.Recipe | None, given: dict[str, Any]) -> dict[str, Any]:
    """The recipe's settings. Another schedule than its own comes without its milestones."""
    settings = dataclasses.asdict(recipe.settings) if recipe else {}
    if given.get("schedule", settings.get("schedule")) != settings.get("schedule"):
        settings.pop("milestones", None)
    return settings


def _data_of(recipe: recipes.Recipe | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """The table of `recipes.Data`. Another data set than the recipe's comes as it is, but for random labels."""
    chosen = dataclasses.asdict(recipe.data) if recipe else {}
    if recipe and arguments.data != recipe.data.name:
        chosen = {"label_noise": recipe.data.label_noise}
    chosen |= {"name": arguments.data} | ({} if arguments.pad_to is None else {"pad_to": arguments.pad_to})
    return {key: value for key, value in (chosen | _given(arguments, DATA_FIELDS)).items() if value is not None}


def _load(chosen: recipes.Data, folder: str | None, seed: int) -> tuple[Dataset, Dataset]:
    sets = load_data(chosen.name, folder, chosen.pad_to)
    with expected(ValueError):
        return chosen.prepare(*sets, seed)


def _resume(arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    """Go on with a run: network, data and settings come from its config.json; --data-dir and --device may be new."""
    others = {"MODEL": arguments.model, "--data": arguments.data, "--pad-to": arguments.pad_to}
    others |= {"--run": arguments.folder, "--option": arguments.option or None, "--expand": arguments.expand}
    others |= {"--rate": arguments.rate, "--composition": arguments.composition, "--tensorboard": arguments.tensorboard}
    others |= {"--recipe": arguments.recipe}
    given = _given(arguments, DATA_FIELDS) | given
    others |= {"--" + name.replace("_", "-"): value for name, value in given.items()}
    if extra := [name for name, value in others.items() if value is not None]:
        raise CommandError(f"--resume takes all settings from the run; {', '.join(extra)} cannot be given", BAD_USE)
    with expected(WorldError):
        world = join()
    with expected(ValueError, OSError):
        folder = world.copied(RunFolder.reopen(arguments.resume) if world.rank == 0 else None)
    config, path = folder.config, folder.path / CONFIG
    try:
        settings = Settings.from_table(config["settings"])
        load, creation = dict(config["data"]["load"]), config["networks"]["model"]
        stored_folder = load.pop("folder")
        chosen = recipes.from_table(recipes.Data, load, "Data")
        then = {"ranks": 1} | config["environment"] | config.get("versions", {})
        model_name, options = creation["name"], creation["options"]
        every = config.get("events", {"every": None})["every"]
        if not (every is None or type(every) is int):
            raise TypeError(f"events: every must be a whole number; got {every!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{path} is not of a run that `cupynn train` began: {error!r}") from error
    device = choose_device(arguments.device or world.device() or then.get("device"))
    sets = _load(chosen, arguments.data_dir or stored_folder, settings.seed)
    cupynn.manual_seed(settings.seed)
    with expected(ValueError, TypeError):
        model = models.create(model_name, **options)
    now = environment() | versions() | {"ranks": world.size}
    for what in (*DECIDE_BITS, "ranks"):
        if world.rank == 0 and then.get(what) != now.get(what):
            say(f"{what}: {now.get(what)}, was {then.get(what)}; the bits may differ from a run that never stopped")
    _fit(model_name, model, sets, settings, folder, device, world, resume=True)


def _fit(
    title: str,
    model: Module,
    sets: tuple[Dataset, Dataset],
    settings: Settings,
    folder: RunFolder,
    device: str,
    world: World,
    resume: bool = False,
) -> None:
    parameters = sum(parameter.size for parameter in model.parameters())
    if world.rank == 0:
        ranks = f" and {world.size - 1} other ranks" if world.size > 1 else ""
        say(f"{title}: {parameters:,} parameters, on {device}{ranks}, run folder {folder.path}")
    every = folder.config.get("events", {}).get("every") if world.rank == 0 else None
    events = None if every is None else _events(folder.path, every)
    try:
        with expected(Diverged, ImportError, OSError, ValueError):
            records = fit(model, *sets, settings, folder, resume=resume, events=events, world=world)
    except Interrupted:
        if world.rank == 0:
            raise
    if world.rank > 0:  # a status other than 0 would end rank 0, which may still write
        return
    if not records:  # metrics.jsonl of a run that was done is gone
        say(f"weights in {folder.weights()}")
        return
    try:
        draw_curves(records, folder.path / CURVES, {"model": title})
    except ModuleNotFoundError as error:
        say(str(error))
    except OSError as error:  # a full disk: all that counts is written
        say(f"{CURVES} could not be drawn: {error}")
    say(f"test accuracy {records[-1]['test_accuracy']:.1%}; weights in {folder.weights()}")


def _events(folder: str | pathlib.Path, every: int) -> Events:
    with expected(ModuleNotFoundError), expected(ValueError, status=BAD_USE):
        return Events(folder, every=every)


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
