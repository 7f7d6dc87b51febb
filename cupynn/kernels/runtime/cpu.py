"""Kernels on the CPU: one shared library per (source, instantiation), called through ctypes.

A launch packs everything into one bytes object and makes one foreign call, which frees Python's lock; checks and
packing take under 3 microseconds for ten arguments.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import re
import struct
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from cupynn.device import dtype_named

from . import build, memory

# How C++ names a type -> (NumPy's dtype, letter of the struct module, Python types taken as a scalar).
# Exact on purpose: a double passed where a GPU's kernel wants a float would be read as garbage there.
TYPES: dict[str, tuple[type, str, tuple[type, ...]]] = {
    "bool": (np.bool_, "?7x", (bool, np.bool_)),
    "char": (np.int8, "b7x", (np.int8,)),
    "signed char": (np.int8, "b7x", (np.int8,)),
    "unsigned char": (np.uint8, "B7x", (np.uint8,)),
    "short": (np.int16, "h6x", (np.int16,)),
    "unsigned short": (np.uint16, "H6x", (np.uint16,)),
    "int": (np.int32, "i4x", (int, np.int32)),
    "unsigned int": (np.uint32, "I4x", (np.uint32,)),
    "long": (np.int64, "q", (np.int64,)),
    "unsigned long": (np.uint64, "Q", (np.uint64,)),
    "long long": (np.int64, "q", (np.int64,)),
    "unsigned long long": (np.uint64, "Q", (np.uint64,)),
    "float": (np.float32, "f4x", (np.float32,)),
    "double": (np.float64, "d", (np.float64,)),
}
ELEMENTS = {**{name: kind[0] for name, kind in TYPES.items()}, "int2": np.int32, "int4": np.int32}
ELEMENTS |= {"float2": np.float32, "float4": np.float32, "double2": np.float64}
ELEMENTS |= {"Half": np.float16}


def _element(name: str) -> np.dtype:
    return dtype_named("bfloat16") if name == "BFloat16" else np.dtype(ELEMENTS[name])


# Bits of ndarray.flags.num: C-contiguous and aligned, and writeable where the kernel writes.
READABLE = 0x0101
WRITEABLE = 0x0501

# Where an array object keeps its data pointer: the first field after Python's header, fixed by NumPy's ABI.
# Reading it takes 0.1 microseconds; ndarray.ctypes and __array_interface__ take 0.8.
_DATA = object.__basicsize__
_address = ctypes.c_size_t.from_address

# A child made by fork has none of its parent's OpenMP threads, and libgomp would wait for them forever.
_one_core = 0


def _after_fork() -> None:
    global _one_core, _building
    _one_core = 1
    _building = threading.Lock()  # the parent's may have been held, by a thread that the child does not have


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Kernel:
    """A compiled kernel: call it with grid, block, arguments and bytes of dynamic shared memory."""

    def __init__(self, name: str, expression: str, library: ctypes.CDLL) -> None:
        self.name, self.expression = name, expression
        library.cupynn_signature.restype = ctypes.c_char_p
        self.parameters = library.cupynn_signature().decode().split(",")[:-1]
        self.run_packed = library.cupynn_run
        self.run_packed.argtypes = (ctypes.c_char_p,)
        self._wants: list[tuple[np.dtype | None, Any]] = []
        slots = ""
        for position, parameter in enumerate(self.parameters):
            if "?" in parameter:
                raise TypeError(f"{self}: parameter {position} must be a number, or a pointer to numbers")
            if parameter.endswith("*"):
                element = parameter.removeprefix("const ").removesuffix("*")
                needs = READABLE if parameter.startswith("const ") else WRITEABLE
                self._wants.append((_element(element), needs))
                slots += "Q"
            else:
                _, letter, types = TYPES[parameter]
                self._wants.append((None, types))
                slots += letter
        self._pack = struct.Struct("=7Ii" + slots).pack

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_bytes: int = 0) -> None:
        self.raise_for(self.run_packed(self.pack(grid, block, args, shared_bytes)), block, shared_bytes)

    def raise_for(self, status: int, block: Sequence[int], shared_bytes: int) -> None:
        """Turn what `cupynn_run` returned into an error, unless it is 0."""
        if status:
            raise RuntimeError(f"{self}: {FAILURES[status]} (block {tuple(block)}, shared_bytes {shared_bytes})")

    def pack(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_bytes: int) -> bytes:
        """What `cupynn_run` reads, once every argument has been held against the kernel's signature."""
        if len(args) != len(self._wants):
            wanted = ", ".join(self.parameters)
            raise TypeError(f"{self}: takes {len(self._wants)} arguments ({wanted}); got {len(args)}")
        values = []
        for value, (dtype, needs) in zip(args, self._wants, strict=True):
            if dtype is None:
                if type(value) not in needs:
                    self._reject(args)
                values.append(value)
            elif value is None:
                values.append(0)
            elif type(value) is not np.ndarray or value.dtype != dtype or value.flags.num & needs != needs:
                self._reject(args)
            else:
                values.append(_address(id(value) + _DATA).value)
        try:
            return self._pack(*grid, *block, shared_bytes, _one_core, *values)
        except struct.error:
            self._reject(args)

    def __str__(self) -> str:
        return f"{self.name}.cu: {self.expression}"

    def _reject(self, args: Sequence[Any]) -> NoReturn:
        """Say which argument is wrong, and how."""
        for position, (value, parameter) in enumerate(zip(args, self.parameters, strict=True)):
            dtype, needs = self._wants[position]
            where = f"{self}: argument {position} is `{parameter}`"
            if dtype is None:
                if type(value) not in needs:
                    names = " or ".join(dict.fromkeys(kind.__name__ for kind in needs))
                    raise TypeError(f"{where}, so it takes {names}; got {type(value).__name__} {value!r}")
                if type(value) is int and not -(2**31) <= value < 2**31:
                    raise OverflowError(f"{where}, and {value} does not fit")
            elif value is not None:
                if type(value) is not np.ndarray:
                    raise TypeError(f"{where}, so it takes a NumPy array or None; got {type(value).__name__}")
                if value.dtype != dtype:
                    raise TypeError(f"{where}, so it takes a {dtype} array; got {value.dtype}, shape {value.shape}")
                flags = value.flags
                if not flags.c_contiguous:
                    raise ValueError(
                        f"{where}: wants a C-contiguous array; got strides {value.strides}, shape {value.shape}"
                    )
                if not flags.aligned:
                    raise ValueError(f"{where}: wants an aligned array; got one at address {value.ctypes.data:#x}")
                if needs == WRITEABLE and not flags.writeable:
                    raise ValueError(
                        f"{where}: the kernel writes to it, but the array of shape {value.shape} is read-only"
                    )
        raise ValueError(f"{self}: grid, block and shared_bytes must be whole numbers from 0 to 2^32 - 1")


# What cupynn_run returns when it could not run the grid (launcher.h).
FAILURES = {
    1: "a block has 1 to 1024 threads",
    2: "more dynamic shared memory was asked for than the kernel's buffer holds",
    3: "no memory for the threads' stacks",
    4: "the threads of a block wait for each other forever: some wait at a barrier that others never reach",
}

_kernels: dict[tuple[Any, str, bool], Kernel] = {}
_building = threading.Lock()


def source_path(name: str | pathlib.Path) -> pathlib.Path:
    """`NAME` -> cupynn/kernels/NAME.cu; a Path stays what it is."""
    return name if isinstance(name, pathlib.Path) else build.KERNELS / f"{name}.cu"


def kernel(name: str | pathlib.Path, expression: str, one_thread: bool) -> Kernel:
    """The compiled kernel, from this process's table, the cache, or the compiler."""
    key = (name, expression, one_thread)
    found = _kernels.get(key)
    if found is None:
        with _building:
            found = _kernels.get(key)
            if found is None:
                found = _kernels[key] = _load(source_path(name), expression, one_thread)
    return found


def _load(path: pathlib.Path, expression: str, one_thread: bool) -> Kernel:
    if not _kernels:
        memory.keep_freed_memory()
    text = translation_unit(path, expression, ("CUPYNN_ONE_THREAD",) if one_thread else ())
    return Kernel(path.stem, expression, build.library(path.stem, text, build.target()[0], path.parent))


# Bytes of dynamic shared memory a block may ask for on the CPU: what fits in a core's L2 cache.
SHARED_CAPACITY = 1 << 20


def translation_unit(path: pathlib.Path, expression: str, defines: Sequence[str]) -> str:
    """What the C++ compiler gets: the `.cu` as it stands, and one exported instantiation."""
    source = path.read_text()
    lines = [f"#define {name} 1\n" for name in defines]
    if re.search(r"\bshared_memory\b", source):
        lines.append(f"#define CUPYNN_SHARED_BYTES {SHARED_CAPACITY}\n")
    return f'{"".join(lines)}#line 1 "{path.name}"\n{source}\n#include "launcher.h"\nCUPYNN_EXPORT({expression})\n'
