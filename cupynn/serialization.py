"""Models on disk, as safetensors files: arrays under their state names, and in the metadata how to rebuild the model.

The metadata holds text: `library` ("cupynn"), `version`, and for a model made by `models.create` its `name`, its
`options` (JSON), `contracted` and `folded` ("true" or "false"): whether it was contracted, and batch norms folded.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

import cupynn
from cupynn import models
from cupynn.device import Array, is_floating, to_numpy
from cupynn.nn import Module
from cupynn.nn.contractible import undrawn
from cupynn.reparam import contract


def save(model: Module, path: str | os.PathLike) -> None:
    """Write a model's parameters and buffers, and how to make it, to a safetensors file.

    The file is written beside `path` and renamed, so that nobody ever reads half of one. A model that did not come
    from `models.create` is saved too; `load_state` reads it, `load` cannot rebuild it.
    """
    path = Path(path)
    state = to_host(model.state_dict())
    metadata = {"library": "cupynn", "version": cupynn.__version__}
    if made_by := getattr(model, "creation", None):
        metadata |= {
            "name": made_by["name"],
            "options": json.dumps(made_by["options"]),
            "contracted": json.dumps(made_by["contracted"]),
            "folded": json.dumps(made_by["folded"]),
        }
    with replacing(path) as beside:
        beside.write_bytes(safetensors.numpy.save(state, metadata))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; behind the block the file is on the disk and renamed to `path`.

    Nobody ever reads half a file, and threads that save to one path do not meet. A link stays a link.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):  # in a folder that takes no changes the first error is the one to see
            beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Have the folder's names on the disk too, where the system knows such a thing."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # not every file system does it
                os.fsync(number)
        finally:
            os.close(number)


def to_host(state: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Arrays as safetensors takes them."""
    # A copy in C order: safetensors 0.8.0 writes other strides wrongly, and it refuses NumPy's scalars.
    return {name: np.asarray(to_numpy(array), order="C") for name, array in state.items()}


def load_state(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file by name, and its metadata.

    Raises FileNotFoundError where there is no file, ValueError where it is cut short or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load: there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (safetensors.SafetensorError, TypeError) as error:  # TypeError: bfloat16, which NumPy has not
        size = path.stat().st_size
        raise ValueError(f"load: {path} ({size} bytes) is no whole safetensors file: {error}") from error


def load(path: str | os.PathLike) -> Module:
    """The model that `save` wrote, in training mode, on the default device, in the dtype it was saved in.

    Raises FileNotFoundError where there is no file; ValueError where it is cut short or of another format, was not
    written by `save`, holds a model that `models.create` did not make or does not know, or arrays that do not fit it.
    """
    state, metadata = load_state(path)
    if metadata.get("library") != "cupynn":
        raise ValueError(
            f"load: {path} was not written by cupynn.save: its metadata should hold library=cupynn, and holds "
            f"{metadata or 'nothing'}; cupynn.load_weights fills a model with its arrays"
        )
    if "progress" in metadata:
        raise ValueError(f"load: {path} is a checkpoint of training; weights alone are in model.safetensors of its run")
    if "name" not in metadata:
        raise ValueError(
            f"load: {path} holds a model that models.create did not make, so it cannot be rebuilt; make it, and pass "
            "the arrays of cupynn.serialization.load_state to its load_state_dict"
        )
    try:
        with undrawn():
            model = models.create(metadata["name"], **json.loads(metadata["options"]))
        if json.loads(metadata["contracted"]) or json.loads(metadata["folded"]):
            model = contract(model, fold_batch_norm=json.loads(metadata["folded"]))
        dtype = np.result_type(*(array.dtype for array in state.values() if is_floating(array.dtype)))
        model.astype(dtype).load_state_dict(state)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"load: {path} (cupynn {metadata.get('version')}): {error}") from error
    return model
