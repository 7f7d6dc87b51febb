"""The folder of a run: config.json, metrics.jsonl, weights, checkpoints, curves.png."""

from __future__ import annotations

import contextlib
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
from cupynn.train.checkpoints import FOLDER, Checkpoints
from cupynn.train.events import event_files
from cupynn.train.folder_lock import locked

CONFIG, METRICS, CURVES = "config.json", "metrics.jsonl", "curves.png"


class RunFolder:
    """A folder for one run, made if need be. It may hold several networks trained one after another, each under a name.

    config.json: settings, data, versions and device. metrics.jsonl: one line per epoch and network. NAME.safetensors:
    the weights of network NAME after its last epoch; the only network of a plain run is called "model". checkpoints/:
    what a run goes on from, see `Checkpoints`.

    Raises FileExistsError where the folder holds a run or weights, unless `overwrite`: then the run's own files are
    removed, those that its config.json names, and no other; BlockingIOError where another process trains there.
    """

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        self.path = pathlib.Path(path)
        if overwrite and self.path.is_dir():
            with locked(self.path):
                self._remove_own_files()
        elif self.path.is_dir():
            earlier = [self.path / name for name in (CONFIG, METRICS, CURVES, FOLDER)]
            earlier += sorted(self.path.glob("*.safetensors"))
            if found := [file.name for file in earlier if file.exists()]:
                raise FileExistsError(f"{self.path} holds a run already ({found[0]}); choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {}

    @classmethod
    def reopen(cls, path: str | os.PathLike) -> RunFolder:
        """The folder of a run that is to go on, rid of files that were half written when the run was killed.

        Raises FileNotFoundError where there is no run, ValueError where its config.json is damaged, BlockingIOError
        where another process trains there.
        """
        folder = cls.__new__(cls)
        folder.path, folder.config = pathlib.Path(path), read_config(path)
        with locked(folder.path):  # another process's half files are not to be touched
            for parts in (folder.path, folder.path / FOLDER):
                for file in parts.glob(".*.part"):
                    file.unlink(missing_ok=True)
        return folder

    def _remove_own_files(self) -> None:
        """Remove what an earlier run wrote here; the weights of `cupynn contract` too."""
        try:
            networks = list(read_config(self.path)["networks"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return
        own = [self.path / CONFIG, self.path / METRICS, self.path / CURVES, *map(self.weights, (*networks, "compact"))]
        for network in networks:
            checkpoints = Checkpoints(self.path, network)
            own += [*checkpoints.files(), checkpoints.best, *event_files(self.path, network)]
        for file in own:
            file.unlink(missing_ok=True)
        folders = {parent for file in own for parent in file.relative_to(self.path).parents} - {pathlib.Path()}
        for folder in sorted(folders, reverse=True):  # inner ones first
            with contextlib.suppress(OSError):  # something else is in it, or it is not there
                (self.path / folder).rmdir()

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
            part = dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part
            known = self.config.get(name)
            self.config[name] = {**known, **part} if isinstance(known, Mapping) else part
        text = json.dumps(self.config, indent=2, default=str) + "\n"
        with replacing(self.path / CONFIG) as beside:
            beside.write_text(text)

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. A number that is not finite becomes null, which JSON can say."""
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in record.items()}
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
        with open(self.path / METRICS, "a") as file:
            file.write(json.dumps(finite) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before a checkpoint that says this epoch is done

    def metrics(self) -> list[dict[str, Any]]:
        """The records in metrics.jsonl, without the half line of a process that was killed while it wrote.

        Raises ValueError, naming the line, where something else stands.
        """
        path, records = self.path / METRICS, []
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else [], 1):
            if not line.endswith(b"\n"):
                continue
            try:
                record = json.loads(line)
                record["network"], record["epoch"] + 0
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {number}: expected the record of an epoch; found {line[:60]!r}; "
                    "without that line the run can go on"
                ) from None
            records.append(record)
        return records

    def keep_metrics(self, network: str, epochs: int) -> list[dict[str, Any]]:
        """Take from metrics.jsonl what `network` did after its first `epochs` epochs, and half a line; returns the
        network's lines that stay. Raises ValueError as `metrics` does.
        """
        path = self.path / METRICS
        kept = [record for record in self.metrics() if record["network"] != network or record["epoch"] <= epochs]
        new = "".join(json.dumps(record) + "\n" for record in kept).encode()
        if new != (path.read_bytes() if path.exists() else b""):
            with replacing(path) as beside:
                beside.write_bytes(new)
        return [record for record in kept if record["network"] == network]


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The config.json of a run folder. Raises FileNotFoundError and ValueError naming the file."""
    file = pathlib.Path(path, CONFIG)
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} is no run folder: it has no {CONFIG}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected JSON; {error}") from error
