"""Read the pickles of CIFAR's python version, and no others.

A pickle is a program, and the plain unpickler runs any. CIFAR's pickles, written by Python 2, hold dictionaries, lists,
numbers, byte strings, and one kind of object: a uint8 array, by way of three names of NumPy. Only those three names are
admitted, and they stand for code of this file, so that a file reaches nothing of NumPy's own either.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np


class _Dtype:
    """Stands for numpy.dtype("u1"). Its state (byte order and sizes) says nothing more."""

    def __setstate__(self, state: tuple) -> None:
        pass


class _Pixels:
    """Stands for a uint8 array until `unpickle` takes the array out."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, column_major, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is not of uint8")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array without a shape")
        if math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data)} bytes")
        self.array = np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if column_major else "C")


class _Reconstruct:
    """Stands for the function that makes an empty array, to be filled by its state."""

    __slots__ = ()

    def __call__(self, kind: str, shape: tuple, code: bytes) -> _Pixels:
        if kind != NDARRAY:
            raise pickle.UnpicklingError("an array of another type than numpy.ndarray")
        return _Pixels()


class _MakeDtype:
    """Stands for the type numpy.dtype, called with a code."""

    __slots__ = ()

    def __call__(self, code: bytes, align: int, copy: int) -> _Dtype:
        if code != b"u1":
            raise pickle.UnpicklingError("an array that is not of uint8")
        return _Dtype()


# Objects without a __dict__ and a string: a pickle may set attributes of what it names, and these take none, so that
# no file can change what the next one is read with.
NDARRAY = "numpy.ndarray"
ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _MakeDtype(),
}


class _CifarUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name}, which CIFAR's files do not hold; nothing was run")
        return ADMITTED[module, name]


def unpickle(data_set: str, file: Path) -> dict[Any, Any]:
    """The dictionary in `file`: byte strings as str (Latin-1), arrays as uint8 arrays.

    Raises ValueError that names the file for anything else: a truncated pickle, another kind of file, an object that
    CIFAR's files do not hold. Nothing that such a file names is imported or called.
    """
    wanted = f"{data_set}: {file}: expected a pickled dictionary as in CIFAR's python version"
    with open(file, "rb") as stream:
        try:
            content = _CifarUnpickler(stream, encoding="bytes").load()
        except Exception as error:  # the unpickler raises whatever a damaged stream leads it into
            raise ValueError(f"{wanted}; found {type(error).__name__}: {error}") from error
        if stream.read(1):
            raise ValueError(f"{wanted}; found more bytes after its end")
    if type(content) is not dict:
        raise ValueError(f"{wanted}; found a pickled {type(content).__name__}")
    return {_plain(key): _plain(value) for key, value in content.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, _Pixels):
        return value.array
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list):
        return [_plain(item) if isinstance(item, bytes) else item for item in value]
    return value
