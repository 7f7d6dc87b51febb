"""The folder of a run: config.json, metrics.jsonl, weights, curves.png."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cupynn import serialization
from cupynn.nn import Module
from cupynn.serialization import replacing

CONFIG, METRICS, CURVES = "config.json", "metrics.jsonl", "curves.png"


class RunFolder:
    """A folder for one run, made if need be. It may hold several networks trained side by side, each under a name.

    config.json: settings, data, versions and device. metrics.jsonl: one line per epoch and network. NAME.safetensors:
    the weights of network NAME after its last epoch; the only network of a plain run is called "model".

    Raises FileExistsError where the folder holds a run or weights, unless `overwrite`: then the run's own files are
    removed, those that its config.json names, and no other.
    """

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        self.path = pathlib.Path(path)
        if overwrite:
            for file in self._own_files():
                file.unlink(missing_ok=True)
        elif self.path.is_dir():
            earlier = [self.path / name for name in (CONFIG, METRICS, CURVES)]
            earlier += sorted(self.path.glob("*.safetensors"))
            if found := [file.name for file in earlier if file.exists()]:
                raise FileExistsError(f"{self.path} holds a run already ({found[0]}); choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {}

    def _own_files(self) -> list[pathlib.Path]:
        """What an earlier run wrote here; the weights of `cupynn contract` too."""
        try:
            networks = list(read_config(self.path)["networks"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []
        return [self.path / CONFIG, self.path / METRICS, self.path / CURVES, *map(self.weights, (*networks, "compact"))]

    def weights(self, network: str = "model") -> pathlib.Path:
        """Where the weights of `network` are."""
        return self.path / f"{network}.safetensors"

    def save(self, model: Module, network: str = "model") -> pathlib.Path:
        """Write a network's weights, beside and renamed; returns where."""
        serialization.save(model, self.weights(network))
        return self.weights(network)

    def add_config(self, **parts: Any) -> None:
        """Put `parts` into config.json; a part that is a mapping is merged with what is there."""
        for name, part in parts.items():
            known = self.config.get(name)
            self.config[name] = {**known, **part} if isinstance(known, Mapping) else part
        text = json.dumps(self.config, indent=2, default=_plain) + "\n"
        with replacing(self.path / CONFIG) as beside:
            beside.write_text(text)

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. A number that is not finite becomes null, which JSON can say."""
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in record.items()}
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
        with open(self.path / METRICS, "a") as file:
            file.write(json.dumps(finite) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.path / METRICS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The config.json of a run folder. Raises FileNotFoundError and ValueError naming the file."""
    file = pathlib.Path(path, CONFIG)
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is no run folder: it has no {CONFIG}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: expected JSON; {error}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return str(value)
