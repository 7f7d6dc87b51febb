"""Runs side by side: what each network in each run folder below a folder has come to, read from its files."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cupynn import models
from cupynn.nn import init
from cupynn.train import checkpoints, events
from cupynn.train.run_folder import CONFIG, METRICS, read_config

FIGURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "images_per_second")


@dataclasses.dataclass(frozen=True)
class Summary:
    """One network of one run.

    name: the folder as seen from where the search began, with :NETWORK where the run trains several. path: the folder.
    model, options: how the network was made. data: name and image size. settings: the recipe. preparation: what
    was done to the data, the fields of `recipes.Data` but its name, and for "imagefolder" its folder. planned: epochs.
    parameters: of the network as it is trained. written: when its last file was, in seconds since 1970.
    records: those of metrics.jsonl in the order of epochs, each with "epoch" and FIGURES; NaN stands for what is
    missing or not finite. faults: what is broken, in words.
    """

    name: str
    path: pathlib.Path
    model: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preparation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    planned: int | None = None
    parameters: int | None = None
    written: float = math.nan
    records: tuple[Mapping[str, float], ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """Epochs that are done."""
        return int(self.records[-1]["epoch"]) if self.records else 0

    @property
    def best(self) -> Mapping[str, float]:
        """The record of the epoch with the best test accuracy, the first of equals; of NaNs where there is none."""
        return max((r for r in self.records if r["test_accuracy"] >= 0), key=_accuracy, default=NOTHING)

    @property
    def last(self) -> Mapping[str, float]:
        """The record of the last epoch; of NaNs where there is none."""
        return self.records[-1] if self.records else NOTHING

    @property
    def seconds(self) -> float:
        """What all steps took, evaluation left out."""
        return sum(r["seconds"] for r in self.records) if self.records else math.nan

    @property
    def images_per_second(self) -> float:
        """Over all steps of all epochs."""
        images = sum(r["seconds"] * r["images_per_second"] for r in self.records)
        return images / self.seconds if self.records and self.seconds else math.nan


NOTHING: Mapping[str, float] = {"epoch": math.nan, **dict.fromkeys(FIGURES, math.nan)}


def _accuracy(record: Mapping[str, float]) -> float:
    return record["test_accuracy"]


def find_runs(folder: str | os.PathLike) -> list[Summary]:
    """Every network of every run at or below `folder`, in the order of their names; runs may lie within runs.

    A run is a folder with metrics.jsonl, or with a config.json that is a run's or is damaged. What cannot be read
    becomes one of the faults of its run. Raises NotADirectoryError where there is no such folder.
    """
    top = pathlib.Path(folder)
    if not top.is_dir():
        raise NotADirectoryError(f"there is no folder {top}")
    found: list[Summary] = []

    def unreadable(error: OSError) -> None:
        place = pathlib.Path(error.filename)
        found.append(Summary(_name(place, top), place, faults=(f"cannot be read: {error.strerror}",)))

    for place, folders, files in os.walk(top, onerror=unreadable):
        own = {checkpoints.FOLDER, events.FOLDER} if CONFIG in files else set()
        folders[:] = [name for name in folders if not name.startswith(".") and name not in own]
        if CONFIG in files or METRICS in files:
            path = pathlib.Path(place)
            found.extend(_summaries(path, _name(path, top)))
    return sorted(found, key=lambda summary: summary.name)


def _name(path: pathlib.Path, top: pathlib.Path) -> str:
    return top.resolve().name if path == top else path.relative_to(top).as_posix()


def _summaries(path: pathlib.Path, name: str) -> Iterator[Summary]:
    """One for each network of a run; for one that is broken at least one, that says so."""
    config, faults = _config(path)
    records, more = _records(path)
    networks = _table(config.get("networks"))
    if config and not records and not more and not {"networks", "settings", "data"} & set(config):
        return  # some other program's config.json
    faults += more
    names = [*networks, *(network for network in records if network not in networks)] or ["model"]
    settings, data = _table(config.get("settings")), _table(config.get("data"))
    planned = settings.get("epochs")
    for network in names:
        creation = _table(networks.get(network))
        yield Summary(
            name if len(names) == 1 else f"{name}:{network}",
            path,
            str(creation.get("name", "")),
            _table(creation.get("options")),
            _data(data, config.get("input_shape")),
            settings,
            _preparation(_table(data.get("load"))),
            planned if type(planned) is int else None,
            _parameters(json.dumps(creation)),
            _written(path),
            tuple(records.get(network, ())),
            tuple(faults),
        )


def _config(path: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    try:
        config = read_config(path)
    except FileNotFoundError:
        return {}, [f"it has no {CONFIG}"]
    except ValueError as error:
        return {}, [f"{CONFIG}: {str(error).removeprefix(f'{path / CONFIG}: ')}"]
    except OSError as error:
        return {}, [f"{CONFIG} cannot be read: {error.strerror}"]
    return (config, []) if isinstance(config, dict) else ({}, [f"{CONFIG} holds no table"])


def _records(path: pathlib.Path) -> tuple[dict[str, list[Mapping[str, float]]], list[str]]:
    """The records of each network, and what is wrong with the lines that give none."""
    try:
        lines = (path / METRICS).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return {}, []  # before its first epoch is done
    except OSError as error:
        return {}, [f"{METRICS} cannot be read: {error.strerror}"]
    found: dict[str, dict[int, Mapping[str, float]]] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            network, epoch = str(record["network"]), int(record["epoch"])
            figures = {"epoch": epoch, **{name: _number(record.get(name)) for name in FIGURES}}
            found.setdefault(network, {})[epoch] = figures
        except (ValueError, KeyError, TypeError, OverflowError):
            half = number == len(lines) and not line.endswith(b"\n")
            faults.append(f"line {number} of {METRICS} is {'half written' if half else 'damaged'}")
    return {network: [own[epoch] for epoch in sorted(own)] for network, own in found.items()}, faults


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) else math.nan


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _data(data: Mapping[str, Any], shape: Any) -> str:
    name = _table(data.get("load")).get("name") or data.get("name") or ""
    size = f" {shape[1]}x{shape[2]}" if isinstance(shape, list) and len(shape) == 3 else ""
    return f"{name}{size}" if name else ""


def _preparation(load: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of a data set, without what says only where it lies: an image folder is known by nothing else."""
    apart = ("name",) if load.get("name") == "imagefolder" else ("name", "folder")
    return {name: value for name, value in load.items() if name not in apart}


def _written(path: pathlib.Path) -> float:
    """When an epoch was last written down; before the first, when the run began."""
    for file in (METRICS, CONFIG):
        try:
            return (path / file).stat().st_mtime
        except OSError:
            continue
    return math.nan


@functools.cache
def _parameters(creation: str) -> int | None:
    """The parameters of the network that `models.create` made so; None where it cannot."""
    made = json.loads(creation)
    try:
        with init.shapes_only():
            model = models.create(made["name"], **made["options"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # whatever stands in the file
        return None
    return sum(parameter.size for parameter in model.parameters())
