"""Recipes: how a paper trains a network, as a small TOML file.

    source = "WHE, Sec. 4.2"

    [network]            # name, and any option of models.create
    name = "cifar_resnet"
    whe = 4

    [data]               # fields of Data
    name = "cifar100"

    [settings]           # fields of Settings
    epochs = 150

Those of the papers are in cupynn/recipes/. Classes, channels and image size are the data's and in no recipe.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cupynn import data, models
from cupynn.data import CentreCrop, Dataset, RandomResizedCrop, ShorterEdgeCrop, corrupt_labels
from cupynn.data.registry import IMAGE_FILES
from cupynn.models import registry
from cupynn.nn import init
from cupynn.train.settings import Settings, converted, from_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = pathlib.Path(__file__).parents[1] / "recipes"
FRAMINGS = ("random-resized-crop", "shorter-edge-crop")

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set and what is done to it before training.

    name, pad_to: as `cupynn.data.load` takes them.
    framing: of training images that are files: "random-resized-crop" to `size` pixels, or "shorter-edge-crop" of
        `size` pixels after the shorter edge became `shorter_edge`. Test images get the centre crop of the latter kind.
        None: the data set's own framing. The three belong together.
    mean, std: per channel, on the scale 0..1, to normalise with; none: the data set's own.
    label_noise: share of the training labels that are random, see `cupynn.data.corrupt_labels`.

    Raises ValueError for values out of range.
    """

    name: str
    pad_to: int | None = None
    framing: str | None = None
    size: int | None = None
    shorter_edge: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in data.names():
            raise ValueError(f"Data: name: there is no data set {self.name!r}; there are {', '.join(data.names())}")
        if self.pad_to is not None and self.pad_to < 1:
            raise ValueError(f"Data: pad_to must be at least 1; got {self.pad_to}")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"Data: label_noise must lie in 0..1; got {self.label_noise}")
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if len(self.mean) != len(self.std) or not finite or not all(number > 0 for number in self.std):
            raise ValueError(
                f"Data: mean and std must be as many finite numbers, those of std above 0; got mean={list(self.mean)}, "
                f"std={list(self.std)}"
            )
        parts = {"framing": self.framing, "size": self.size, "shorter_edge": self.shorter_edge}
        if missing := [name for name, value in parts.items() if value is None]:
            if len(missing) < len(parts):
                raise ValueError(f"Data: framing, size and shorter_edge belong together; there is no {missing[0]}")
            return
        if self.framing not in FRAMINGS:
            raise ValueError(f"Data: framing must be one of {', '.join(FRAMINGS)}; got {self.framing!r}")
        if self.name not in IMAGE_FILES:
            raise ValueError(f"Data: framing is for image files, {' and '.join(IMAGE_FILES)}; name is {self.name!r}")
        if not 1 <= self.size <= self.shorter_edge:
            raise ValueError(
                f"Data: size must be at least 1 and at most shorter_edge; got size={self.size}, "
                f"shorter_edge={self.shorter_edge}"
            )

    def prepare(self, train: Dataset, test: Dataset, seed: int) -> tuple[Dataset, Dataset]:
        """The sets as training and evaluation see them; `seed` is that of the random labels.

        Raises ValueError where mean and std do not fit the images' channels.
        """
        if self.framing is not None:
            chosen = RandomResizedCrop(self.size)
            if self.framing == "shorter-edge-crop":
                chosen = ShorterEdgeCrop(self.size, self.shorter_edge)
            train, test = train.framed(chosen), test.framed(CentreCrop(self.size, self.shorter_edge))
        if self.mean:
            train, test = (dataclasses.replace(part, mean=self.mean, std=self.std) for part in (train, test))
        if self.label_noise:
            train = corrupt_labels(train, self.label_noise, seed)
        return train, test


@dataclasses.dataclass(frozen=True)
class Recipe:
    """name: "whe/resnet20_cifar100", or the file; source: where the paper has it; network, options: `models.create`'s.

    What a recipe cannot say, and what its paper does not, is in comments of the file.
    """

    name: str
    source: str
    network: str
    options: Mapping[str, Any]
    data: Data
    settings: Settings


def names() -> list[str]:
    """The names of the papers' recipes."""
    return sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.toml"))


def read(name: str | os.PathLike) -> Recipe:
    """The recipe of this name, or in a file, whose name ends in .toml.

    Raises ValueError for an unknown name and, naming file, table and key, for a file that is no recipe;
    FileNotFoundError for a file that is not there.
    """
    name = os.fspath(name)
    file = pathlib.Path(name)
    if file.suffix != ".toml":
        if name not in names():
            raise ValueError(f"there is no recipe {name!r}; a file of your own ends in .toml; there are {_some(name)}")
        file = FOLDER / f"{name}.toml"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file")

    def checked(part: str, make: Callable[[], Result]) -> Result:
        try:
            return make()
        except (ValueError, TypeError) as error:
            text = str(error)
            for prefix in ("Settings: ", "Data: ", "create: "):
                text = text.removeprefix(prefix)
            raise ValueError(f"{file}: {part}: {text}") from error

    tables = checked("expected TOML", lambda: tomllib.loads(file.read_text(encoding="utf-8-sig")))
    kinds = {"source": str, "network": dict, "data": dict, "settings": dict}
    for key, value in tables.items():
        if key not in kinds:
            raise ValueError(f"{file}: there is no table or key {key!r}; there are {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise ValueError(f"{file}: {key} must be {'text' if key == 'source' else 'a table'}; got {value!r}")
    for table, key in (("", "source"), ("network", "name"), ("data", "name")):
        if key not in (tables.get(table, {}) if table else tables):
            raise ValueError(f"{file}: {f'[{table}]: ' if table else ''}{key} is missing")
    network = dict(tables["network"])
    checked("[network]", lambda: _create(network))
    return Recipe(
        name,
        tables["source"],
        network.pop("name"),
        network,
        checked("[data]", lambda: from_table(Data, tables["data"], "Data")),
        checked("[settings]", lambda: Settings.from_table(tables.get("settings", {}))),
    )


def _create(network: Mapping[str, Any]) -> None:
    """Make the network, without memory, for the errors; a network does not look at the types of its options itself."""
    _check_types(models.create, network)
    if network["name"] in models.names():
        _check_types(registry.builder(network["name"]), network)
    with init.shapes_only():
        models.create(**network)


def _check_types(builder: Callable[..., Any], options: Mapping[str, Any]) -> None:
    for name, parameter in inspect.signature(builder, eval_str=True).parameters.items():
        if name in options and parameter.kind is not parameter.VAR_KEYWORD:
            converted(options[name], parameter.annotation, name)


def _some(name: str) -> str:
    """The recipes of the folder that `name` begins with, or all the folders."""
    paper = name.partition("/")[0]
    own = [known for known in names() if known.startswith(paper + "/")]
    return ", ".join(own) if own else ", ".join(sorted({f"{known.partition('/')[0]}/..." for known in names()}))
