"""Checkpoints: all that a run needs to go on as if it had never stopped, each in one safetensors file.

Arrays: `model/NAME` for every array of the model's state, `velocity/NAME` for every parameter that has moved with
momentum. Metadata, text: `library` ("cupynn"), `version`, `checksum` (CRC-32 of all else, hexadecimal), and as JSON
`progress` (Progress), `settings` (Settings), `optimizer` (the options of each group of parameters), `generator` (the
state of the random generator), `network` (how the model was made). Nothing is pickled.

Weights and state are one file, written beside and renamed: a process that is killed leaves the last file whole.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

import cupynn
from cupynn.device import generator
from cupynn.nn import Module
from cupynn.optim import SGD
from cupynn.serialization import load_state, replacing, save, to_host
from cupynn.train.progress import Progress
from cupynn.train.settings import Settings

FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file of `Checkpoints` holds: arrays by their name in the file, and the metadata, read."""

    path: pathlib.Path
    arrays: Mapping[str, np.ndarray]
    progress: Progress
    settings: Settings
    optimizer: list[dict[str, Any]]
    generator: dict[str, Any]
    network: dict[str, Any] | None

    def restore(self, model: Module, optimizer: SGD, settings: Settings) -> Progress:
        """Put model, optimiser and random generator where they were; returns how far the run had come.

        Raises ValueError, before anything is changed, where the checkpoint is of another model or other settings.
        """
        made = getattr(model, "creation", None)
        if json.loads(json.dumps(made)) != self.network:
            raise ValueError(f"{self.path} is a checkpoint of another network: of {self.network}; this one is {made}")
        if self.settings != settings:
            ours, theirs = dataclasses.asdict(settings), dataclasses.asdict(self.settings)
            differ = [f"{name}={theirs[name]!r}, not {ours[name]!r}" for name in ours if ours[name] != theirs[name]]
            raise ValueError(f"{self.path} is a checkpoint of a run with other settings: {', '.join(differ)}")
        state = self._named("model/")
        for name, array in model.state_dict().items():
            if name in state and state[name].dtype != array.dtype:
                raise ValueError(f"{self.path}: {name} has dtype {state[name].dtype}; this network has {array.dtype}")
        names = _parameter_names(model, optimizer)
        velocities = self._named("velocity/")
        if unknown := set(velocities) - set(names):
            raise ValueError(f"{self.path}: there is a velocity of {min(unknown)}, which is no parameter of this model")
        before = optimizer.state_dict()
        try:
            optimizer.load_state_dict({"groups": self.optimizer, "velocities": [velocities.get(n) for n in names]})
            model.load_state_dict(state)
        except (TypeError, ValueError) as error:
            optimizer.load_state_dict(before)
            raise ValueError(f"{self.path} is a checkpoint of another model: {error}") from error
        generator().bit_generator.state = self.generator
        return dataclasses.replace(self.progress)

    def _named(self, prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}


class Checkpoints:
    """The checkpoints of one network in the folder `checkpoints` of a run.

    NETWORK-epoch0003-step000120.safetensors: after 3 epochs and 120 steps of the fourth; the last `keep` of them are
    kept. NETWORK-best.safetensors: the weights of the epoch with the best test accuracy, as `cupynn.save` writes them.
    """

    def __init__(self, run: pathlib.Path, network: str = "model", keep: int = 2):
        self.folder, self.network, self.keep = run / FOLDER, network, keep
        self.last: pathlib.Path | None = None  # the newest one known to be whole

    @property
    def pattern(self) -> str:
        """A regular expression for the names of checkpoints; its groups are epochs and steps."""
        return re.escape(self.network) + r"-epoch(\d+)-step(\d+)\.safetensors"

    @property
    def best(self) -> pathlib.Path:
        """Where the best weights are."""
        return self.folder / f"{self.network}-best.safetensors"

    def files(self) -> list[pathlib.Path]:
        """All checkpoints, the newest last."""
        found = [(re.fullmatch(self.pattern, path.name), path) for path in self.folder.glob("*.safetensors")]
        return [path for _, path in sorted(((int(m[1]), int(m[2])), path) for m, path in found if m)]

    def save(self, model: Module, optimizer: SGD, settings: Settings, progress: Progress) -> pathlib.Path:
        """Write a checkpoint; then, and only then, remove those too many. Returns where it is. Raises OSError."""
        arrays = {f"model/{name}": array for name, array in model.state_dict().items()}
        state = optimizer.state_dict()
        for name, velocity in zip(_parameter_names(model, optimizer), state["velocities"], strict=True):
            if velocity is not None:
                arrays[f"velocity/{name}"] = velocity
        parts = {
            "progress": dataclasses.asdict(progress),
            "settings": dataclasses.asdict(settings),
            "optimizer": state["groups"],
            "generator": generator().bit_generator.state,
            "network": getattr(model, "creation", None),
        }
        metadata = {"library": "cupynn", "version": cupynn.__version__}
        metadata |= {name: json.dumps(part) for name, part in parts.items()}
        arrays = to_host(arrays)
        metadata["checksum"] = _checksum(arrays, metadata)
        name = f"{self.network}-epoch{progress.epoch:04d}-step{progress.step:06d}.safetensors"
        path = self.folder / name
        self.folder.mkdir(exist_ok=True)
        with replacing(path) as beside:
            beside.write_bytes(safetensors.numpy.save(arrays, metadata))
        self.last = path
        self._remove_all_but(path)
        return path

    def save_best(self, model: Module) -> None:
        """Write the weights as the best so far. Raises OSError."""
        self.folder.mkdir(exist_ok=True)
        save(model, self.best)

    def _remove_all_but(self, path: pathlib.Path) -> None:
        """Keep this one and those before it, `keep` in all. What is later is damaged: else the run had begun there."""
        files = self.files()
        kept = files[: files.index(path) + 1][-self.keep :]
        for file in files:
            if file not in kept:
                file.unlink(missing_ok=True)

    def newest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint, or None where there is no checkpoint; `say` is told which are damaged.

        Raises ValueError where there are checkpoints and none is whole.
        """
        files = self.files()
        faults = []
        for path in reversed(files):
            try:
                checkpoint = read(path)
            except (OSError, ValueError) as error:  # a disk that cannot read it, or what it read
                faults.append(str(error))
                continue
            for fault in faults:
                say(f"{fault}; going on from the one before, {path.name}")
            self.last = path
            if not faults:  # a process killed between writing and removing leaves one too many
                self._remove_all_but(path)
            return checkpoint
        if faults:
            raise ValueError(f"no checkpoint in {self.folder} is whole: {'; '.join(faults)}")
        return None


def read(path: pathlib.Path) -> Checkpoint:
    """The checkpoint in a file. Raises FileNotFoundError, and ValueError where it is damaged or something else."""
    try:
        arrays, metadata = load_state(path)
    except ValueError as error:
        raise ValueError(f"the checkpoint {path} is damaged: {error}") from error
    if metadata.get("library") != "cupynn" or "checksum" not in metadata:
        raise ValueError(f"{path} is no checkpoint: its metadata should hold library=cupynn and checksum=...")
    if _checksum(arrays, metadata) != metadata["checksum"]:
        raise ValueError(f"the checkpoint {path} is damaged: its checksum is not that of what it holds")
    parts = {name: json.loads(metadata[name]) for name in ("optimizer", "generator", "network")}
    progress, settings = (json.loads(metadata[name]) for name in ("progress", "settings"))
    try:
        return Checkpoint(path, arrays, Progress(**progress), Settings.from_table(settings), **parts)
    except (TypeError, ValueError) as error:
        version = metadata.get("version")
        raise ValueError(f"{path} was written by cupynn {version}, which has other settings: {error}") from error


def _checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    total = 0
    for name, text in sorted(metadata.items()):
        if name != "checksum":
            total = zlib.crc32(f"{name}={text}\n".encode(), total)
    for name, array in sorted(arrays.items()):
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}\n".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), total)
    return f"{total:08x}"


def _parameter_names(model: Module, optimizer: SGD) -> list[str]:
    """The dotted names of the optimiser's parameters, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
