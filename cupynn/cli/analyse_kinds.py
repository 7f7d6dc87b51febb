"""The kinds of `cupynn analyse`: what each takes, and how it finds its figures."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

import cupynn
from cupynn import models
from cupynn.analysis import (
    Figures,
    cross_layer_norms,
    do_conv,
    expansion,
    gradient_confusion,
    group_weights,
    hidden_units,
    label_noise,
    landscape,
)
from cupynn.cli import networks
from cupynn.cli.common import (
    BAD_USE,
    CommandError,
    add_data,
    expected,
    image_shape,
    load_data,
    load_data_of,
    load_network,
    run_config,
    weights_file,
)
from cupynn.nn import Module
from cupynn.train import Diverged, Settings
from cupynn.train.progress_line import duration, say

DIGITS = {"name": "digits", "folder": None, "pad_to": 32}  # what a network without a run is trained on
QUICK = Settings(epochs=20, batch_size=64, lr=0.02, weight_decay=0.0, keep=0)


@dataclass(frozen=True)
class Kind:
    """module: of the analysis, whose docstring says what it measures; help: a line; example: what follows the kind's
    name; add: its arguments."""

    module: types.ModuleType
    help: str
    example: str
    add: Callable[[argparse.ArgumentParser], None]
    find: Callable[[argparse.Namespace], Figures]


class Tell:
    """A line on a terminal that says how far an analysis is; nothing where stdout is no terminal."""

    def __init__(self, what: str):
        self.what, self.began, self.shown = what, time.monotonic(), 0.0

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if not sys.stdout.isatty() or (now - self.shown < 0.2 and done < of):
            return
        self.shown = now
        left = duration((now - self.began) / done * (of - done))
        text = f"{self.what}: {done} of {of}  {left} left"
        say("\r" + (text if done < of else "").ljust(70) + ("\r" if done == of else ""), end="")


def _seed(parser: argparse.ArgumentParser, of: str) -> None:
    parser.add_argument("--seed", type=_whole, default=0, metavar="N", help=f"of {of} (default: 0)")


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0; got {text}")
    return int(text)


def _number(parser: argparse.ArgumentParser, name: str, default: int | float | None, help_: str) -> None:
    shown = "" if default is None else f" (default: {default})"
    kind = float if isinstance(default, float) else int
    parser.add_argument(name, type=kind, default=default, metavar="N", help=help_ + shown)


def _runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="RUN", help="run folders, or files of weights")
    add_data(parser, required=False)


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN_OR_NETWORK", help="run folder, file of weights, or network")
    networks.add_network(parser)


def _subject(arguments: argparse.Namespace, path: str | None = None, **options: object) -> Module:
    """The network of a run, or a new one of this name with random weights."""
    path = path or arguments.path
    if pathlib.Path(path).exists():
        if arguments.option or arguments.expand or arguments.rate or arguments.composition:
            raise CommandError(f"{path} is a run, whose network is made; options are for a network's name", BAD_USE)
        return load_network(path)
    if path not in models.names() and path not in models.catalogue.ENTRIES:
        raise CommandError(f"there is no run and no file {path}, and `cupynn models` lists no such network", BAD_USE)
    arguments.model = path
    cupynn.manual_seed(0)
    return networks.create(arguments, **options)


def _run(path: str) -> Module:
    """The network of a run."""
    if not pathlib.Path(path).exists():
        raise CommandError(f"there is no run and no file {path}; this analysis is of trained networks", BAD_USE)
    return load_network(path)


def _title(path: str) -> str:
    """What a run is called in a table: its folder's name, with the file's where it is not the usual one."""
    file = weights_file(path).absolute()
    return file.parent.name if file.name == "model.safetensors" else f"{file.parent.name}/{file.stem}"


def _titles(paths: list[str]) -> dict[str, str]:
    """By path, what each run is called where there are several: those of the same name by their paths."""
    titles = {path: _title(path) for path in paths}
    names = list(titles.values())
    return {path: title if names.count(title) == 1 else path for path, title in titles.items()}


def _add_confusion(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    _number(parser, "--batches", 100, "mini-batches whose gradients are compared, as far as the set has them")
    _number(parser, "--batch-size", None, "images of a mini-batch (default: that of the run)")
    parser.add_argument("--checkpoints", action="store_true", help="at every epoch whose checkpoint the run kept too")
    _seed(parser, "the batches")


def _find_confusion(arguments: argparse.Namespace) -> Figures:
    found = []
    for path, title in _titles(arguments.paths).items():
        model = _run(path)
        train_set, _ = load_data_of(path, arguments)
        size = arguments.batch_size
        if size is None:
            size = run_config(path).get("settings", {}).get("batch_size", 128)
        states = []
        for epoch in _epochs(path, model) if arguments.checkpoints else [None]:
            tell = Tell(title if epoch is None else f"{title}, epoch {epoch}")
            cosines = gradient_confusion.similarities(model, train_set, size, arguments.batches, arguments.seed, tell)
            states.append(gradient_confusion.Similarities(cosines, epoch))
        count = min(arguments.batches, len(train_set) // size)
        parameters = sum(parameter.size for parameter in model.parameters())
        found.append(gradient_confusion.RunConfusion(title, count, size, parameters, states))
    return gradient_confusion.GradientConfusion(found)


def _epochs(path: str, model: Module) -> Iterator[int]:
    """The epochs of a run whose checkpoints it kept, the model at each."""
    file, epoch = weights_file(path), None
    with expected(OSError):
        for epoch in gradient_confusion.epochs_of(file.parent, file.stem, model):
            yield epoch
    if epoch is None:
        raise CommandError(f"{file} has no checkpoint of an epoch beside it; train with --keep N")


def _add_landscape(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    parser.add_argument("--two", action="store_true", help="along two directions, as contours; else along one")
    _number(parser, "--points", None, "points along a direction (default: 41, with --two 21); an odd number")
    _number(parser, "--reach", 1.0, "how far to go, in norms of the filters")
    _number(parser, "--images", 500, "training images that the loss is the mean of")
    _seed(parser, "directions and images")


def _find_landscape(arguments: argparse.Namespace) -> Figures:
    points = arguments.points
    if points is None:
        points = 21 if arguments.two else 41
    if points < 3 or points % 2 == 0 or not 0 < arguments.reach < float("inf"):
        raise CommandError(
            f"landscape: --points must be odd and 3 or more, --reach above 0; got {points} and {arguments.reach}",
            BAD_USE,
        )
    steps = np.linspace(-arguments.reach, arguments.reach, points)
    found = []
    for path, title in _titles(arguments.paths).items():
        model = _run(path)
        train_set, _ = load_data_of(path, arguments)
        size = {"dimensions": 1 + arguments.two, "images": arguments.images, "seed": arguments.seed}
        surface = landscape.landscape(model, train_set, steps, **size, tell=Tell(title))
        found.append(landscape.RunLandscape(title, min(arguments.images, len(train_set)), *surface))
    return landscape.Landscape(steps, arguments.seed, found)


def _add_label_noise(parser: argparse.ArgumentParser) -> None:
    what = "run folders, whose settings and data are taken, or names of networks, which learn digits"
    parser.add_argument("paths", nargs="+", metavar="RUN_OR_NETWORK", help=what)
    networks.add_network(parser)
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[0.0, 0.2, 0.5, 0.8],
        metavar="X",
        help="shares of random labels (default: 0 0.2 0.5 0.8)",
    )
    _number(parser, "--images", 1000, "training images")
    _number(parser, "--epochs", None, f"epochs (default: those of the run; {QUICK.epochs} for a name)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of a run's data")
    _seed(parser, "weights, labels and order")


def _find_label_noise(arguments: argparse.Namespace) -> Figures:
    arguments.data = arguments.pad_to = None
    trainings = []
    for path, title in _titles(arguments.paths).items():
        is_run = pathlib.Path(path).exists()
        creation = _subject(arguments, path, in_channels=1, image_size=32).creation
        if creation["contracted"]:
            raise CommandError(f"{path} holds a contracted network, which is not trained; name its run", BAD_USE)
        config = run_config(path) if is_run else {}
        settings = Settings.from_table(config["settings"]) if "settings" in config else QUICK
        sets = load_data_of(path, arguments, label_noise=False) if is_run else load_data(**DIGITS)
        train_set = label_noise.some(sets[0], arguments.images, arguments.seed)
        epochs = settings.epochs if arguments.epochs is None else arguments.epochs
        settings = dataclasses.replace(settings, epochs=epochs, seed=arguments.seed, keep=0)
        create = functools.partial(models.create, creation["name"], **creation["options"])
        if not is_run:
            title = " ".join(filter(None, [path, arguments.expand]))
        with expected(Diverged):
            trainings += label_noise.label_noise(
                title, create, train_set, sets[1], settings, arguments.shares, Tell(title)
            )
    return label_noise.LabelNoise(trainings)


def _add_hidden_units(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="run folder, or file of weights")
    add_data(parser, required=False)
    _number(parser, "--images", 500, "test images that are looked at")


def _find_hidden_units(arguments: argparse.Namespace) -> Figures:
    return hidden_units.hidden_units(_run(arguments.path), load_data_of(arguments.path, arguments)[1], arguments.images)


def _add_expansion(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    _number(parser, "--batch", 64, "images of a step")
    _number(parser, "--rounds", 9, "rounds in which the ways take turns")


def _find_expansion(arguments: argparse.Namespace) -> Figures:
    for name in ("batch", "rounds"):
        if getattr(arguments, name) < 1:
            raise CommandError(f"--{name} must be at least 1; got {getattr(arguments, name)}", BAD_USE)
    model = _subject(arguments)
    if not pathlib.Path(arguments.path).exists():
        return expansion.expansion(model, arguments.path, arguments.batch, arguments.rounds)
    shape = image_shape(arguments.path, model)
    return expansion.expansion(model, _title(arguments.path), arguments.batch, arguments.rounds, shape)


KINDS = {
    "gradient-confusion": Kind(
        gradient_confusion,
        "cosine similarity of mini-batch gradients: its minimum and its density",
        "runs/plain runs/ck --batches 50 --picture confusion.svg",
        _add_confusion,
        _find_confusion,
    ),
    "landscape": Kind(
        landscape,
        "the loss along filter-normalised random directions, one or two",
        "runs/plain runs/ck --two --points 11 --picture landscape.png",
        _add_landscape,
        _find_landscape,
    ),
    "label-noise": Kind(
        label_noise,
        "training and test accuracy with random training labels, and their gap",
        "smallnet --expand ck --shares 0 0.5 --images 500 --epochs 5 --picture noise.svg",
        _add_label_noise,
        _find_label_noise,
    ),
    "cross-layer-norms": Kind(
        cross_layer_norms,
        "which earlier layers a DelugeNet's layers read",
        "runs/deluge --picture norms.svg",
        _add_network,
        lambda arguments: cross_layer_norms.cross_layer_norms(_subject(arguments)),
    ),
    "group-weights": Kind(
        group_weights,
        "which groups a SeqConv layer's groups read",
        "runs/seq --picture groups.svg",
        _add_network,
        lambda arguments: group_weights.group_weights(_subject(arguments)),
    ),
    "do-conv": Kind(
        do_conv,
        "how far DO-Conv's composed kernels are from their weights, by position",
        "runs/do --picture h.svg",
        _add_network,
        lambda arguments: do_conv.do_conv_difference(_subject(arguments)),
    ),
    "hidden-units": Kind(
        hidden_units,
        "how often the hidden units of WHE layers are active",
        "runs/whe --images 200 --picture units.svg",
        _add_hidden_units,
        _find_hidden_units,
    ),
    "expansion": Kind(
        expansion,
        "parameters, MACs and time of an expanded network beside the contracted one",
        "smallnet --expand ck --rate 4 --batch 32 --rounds 5",
        _add_expansion,
        _find_expansion,
    ),
}
