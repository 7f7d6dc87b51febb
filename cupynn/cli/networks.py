"""Networks that a command line names: by the name `models.create` takes, or by an id of the catalogue."""

from __future__ import annotations

import argparse
import ast
from typing import Any

from cupynn import models
from cupynn.cli.common import BAD_USE, CommandError, expected
from cupynn.nn import Module


def add_network(parser: argparse.ArgumentParser) -> None:
    """--option, --expand, --rate and --composition."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the network, e.g. kernel_size=7; may be repeated",
    )
    group.add_argument("--expand", metavar="HOW", help="expanded: cl, ck, fc, do, ac, cl+fc ... (default: plain)")
    group.add_argument("--rate", type=float, help="how many times wider expanded layers are (default: 4)")
    group.add_argument(
        "--composition",
        choices=("kernel", "feature"),
        help="train through the contracted kernel, or layer after layer as the paper's code does (default: kernel)",
    )


def add_images(group: Any, batch: int) -> None:
    """--batch and --image."""
    group.add_argument("--batch", type=int, default=batch, metavar="N", help="images (default: %(default)s)")
    group.add_argument("--image", type=int, metavar="N", help="of N x N pixels (default: the network's own)")


def resolve(network: str) -> tuple[str, dict[str, Any]]:
    """The name and options of `models.create` that a name or an id stands for."""
    if network in models.names():
        return network, {}
    if entry := models.catalogue.ENTRIES.get(network):
        return entry.name, dict(entry.options)
    raise CommandError(
        f"there is no network {network!r}; there are {', '.join(models.names())}, and those that `cupynn models` lists",
        BAD_USE,
    )


def create(arguments: argparse.Namespace, **options: Any) -> Module:
    """The network of the arguments `model` and of `add_network`; options are those that the data decides.

    Of these a network gets the ones it takes, and the command line's own win.
    """
    name, chosen = resolve(arguments.model)
    takes = models.takes(name)
    chosen |= {key: value for key, value in options.items() if key in takes}
    chosen |= dict(map(_option, arguments.option))
    for key in ("expand", "rate", "composition"):
        if getattr(arguments, key) is not None:
            chosen[key] = getattr(arguments, key)
    with expected(ValueError, TypeError, status=BAD_USE):
        return models.create(name, **chosen)


def create_for_images(arguments: argparse.Namespace) -> tuple[Module, tuple[int, ...]]:
    """The network of `create` and the shape of an image, for the arguments of `add_images` too."""
    for name in ("batch", "image"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise CommandError(f"--{name} must be at least 1; got {getattr(arguments, name)}", BAD_USE)
    side = arguments.image
    model = create(arguments, **({} if side is None else {"image_size": side}))
    entry = models.catalogue.ENTRIES.get(arguments.model)
    shape = entry.input_shape if entry else model.input_shape
    return model, shape if side is None else (shape[0], side, side)


def plain(model: Module) -> Module:
    """A new network as `model` was before it was expanded."""
    own = models.takes(model.creation["name"])
    options = {key: value for key, value in model.creation["options"].items() if key in own}
    return models.create(model.creation["name"], **options)


def _option(text: str) -> tuple[str, Any]:
    """kernel_size=7 -> ("kernel_size", 7): the value is a Python literal, else the text itself."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise CommandError(f"--option takes NAME=VALUE; got {text!r}", BAD_USE)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
