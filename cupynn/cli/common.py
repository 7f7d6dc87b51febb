"""What the subcommands share: expected errors, the device, data, networks on disk, tables."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import cupynn
from cupynn import data, device
from cupynn.data import ArrayDataset, Dataset
from cupynn.nn import Module
from cupynn.train import read_config, recipes

BAD_USE, FAILED = 2, 1


class CommandError(Exception):
    """An error that the user can do something about: one line, no traceback."""

    def __init__(self, message: object, status: int = FAILED):
        super().__init__("; ".join(line.strip() for line in str(message).splitlines()))
        self.status = status


@contextlib.contextmanager
def expected(*types: type[Exception], status: int = FAILED) -> Iterator[None]:
    """Inside a `with` block errors of these types are the user's to mend, not a fault of the program."""
    try:
        yield
    except types as error:
        raise CommandError(error, status) from error


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="cpu|cuda:N", help="where to compute (default: cuda:0 where there is a GPU, else cpu)"
    )


def choose_device(named: str | None) -> str:
    """Make `named`, or the best device there is, the default device."""
    if named is None:
        named = "cuda:0" if device.cuda_available() else "cpu"
    with expected(ValueError, status=BAD_USE), expected(RuntimeError):
        device.set_default_device(named)
    return device.default_device()


def add_data(parser: argparse.ArgumentParser, required: bool) -> None:
    names = ", ".join(data.names())
    source = "" if required else " (default: the data that the run was trained on)"
    parser.add_argument("--data", metavar="NAME", required=required, help=f"data set: {names}{source}")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data; what is packaged needs none")
    parser.add_argument("--pad-to", type=int, metavar="N", help="put images into black frames of N x N pixels")


def load_data(name: str, folder: str | None, pad_to: int | None) -> tuple[ArrayDataset, ArrayDataset]:
    """Training and test set, as `data.load` gives them."""
    if name not in data.names():
        raise CommandError(f"there is no data set {name!r}; there are {', '.join(data.names())}", BAD_USE)
    with expected(ValueError, OSError, ModuleNotFoundError):
        return data.load(name, folder, pad_to)


def weights_file(path: str) -> pathlib.Path:
    """The file of weights that RUN_OR_FILE means: a run folder's model.safetensors, or the file itself."""
    return pathlib.Path(path, "model.safetensors") if pathlib.Path(path).is_dir() else pathlib.Path(path)


def load_network(path: str) -> Module:
    """The network in a run folder or file."""
    with expected(ValueError, OSError):
        return cupynn.load(weights_file(path))


def run_config(path: str) -> dict[str, Any]:
    """The config.json beside a network's weights; empty where there is none."""
    with expected(ValueError), contextlib.suppress(FileNotFoundError):
        return read_config(weights_file(path).parent)
    return {}


def image_shape(path: str, model: Module) -> tuple[int, ...]:
    """(C, H, W) of the images that a run was trained on; where no config.json says it, the network's own."""
    return tuple(run_config(path).get("input_shape") or model.input_shape)


def load_data_of(path: str, arguments: argparse.Namespace, label_noise: bool = True) -> tuple[Dataset, Dataset]:
    """Training and test set that `add_data` names, else those of the run's config.json: framed, normalised, and unless
    label_noise=False with its random labels."""
    if arguments.data is not None:
        return load_data(arguments.data, arguments.data_dir, arguments.pad_to)
    config = run_config(path)
    load = dict(config.get("data", {}).get("load") or {})
    if not load:
        raise CommandError(f"{path} has no config.json that names its data; pass --data", BAD_USE)
    folder = load.pop("folder", None)
    if arguments.pad_to is not None:
        load["pad_to"] = arguments.pad_to
    if not label_noise:
        load.pop("label_noise", None)
    with expected(ValueError):
        trained_on = recipes.from_table(recipes.Data, load, "Data")
        sets = load_data(trained_on.name, arguments.data_dir or folder, trained_on.pad_to)
        return trained_on.prepare(*sets, config.get("settings", {}).get("seed", 0))


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of text as columns two spaces apart, the first `left` of them flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
