"""Names, shapes and elements for what a block touched: a launch's arrays, and shared memory."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from math import prod

import numpy as np

from cupynn.kernels.runtime import cpu
from cupynn.trace.recording import Recording

ALLOCATION = 512  # CuPy's memory pool gives out memory at multiples of so many bytes


@dataclass(frozen=True)
class Touched:
    """One array. region, begin: where it lies in the checker's regions. address: its first byte's on a GPU, but for
    a multiple of 512 that nothing depends on."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    shared: bool
    region: int
    begin: int
    address: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def index(self, element: int) -> tuple[int, ...]:
        return tuple(int(i) for i in np.unravel_index(element, self.shape))

    def element(self, offset: int, size: int) -> str:
        """`x[0, 2, 7]`, or `x[0, 2, 4:8]`, for bytes from `offset` on."""
        first, count = offset // self.dtype.itemsize, max(1, size // self.dtype.itemsize)
        index = [*map(str, self.index(first))]
        if count > 1 and index:
            last = int(index[-1])
            index[-1] = f"{last}:{last + count}"
        return f"{self.name}[{', '.join(index)}]"


def arrays(recording: Recording) -> list[Touched]:
    """The arrays of a recording: arguments in their order, then shared memory, of which only what is there."""
    launch = recording.launch
    names = parameter_names(launch.source, launch.kernel)
    found = {}
    for region, positions in enumerate(recording.arguments):
        addresses = {position: launch.args[position].ctypes.data for position in positions}
        for position, address in addresses.items():
            array = launch.args[position]
            name = names[position] if position < len(names) else f"argument {position}"
            begin = address - min(addresses.values())
            found[position] = Touched(name, array.shape, array.dtype, False, region, begin, _in_allocation(array))
    return [found[position] for position in sorted(found)] + _shared(recording)


def _in_allocation(array: np.ndarray) -> int:
    """How far an array's first byte is from the begin of the memory that it is a part of."""
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return (array.ctypes.data - whole.ctypes.data) % ALLOCATION


def parameter_names(source: pathlib.Path, kernel: str) -> list[str]:
    """The names of a kernel's parameters, from its text; none where it can't be read."""
    name = re.escape(kernel.partition("<")[0])
    found = re.search(rf"__global__\s+void\s+(?:__launch_bounds__\(.*?\)\s*)?{name}\s*\(([^)]*)\)", source.read_text())
    return re.findall(r"(\w+)\s*(?:,|$)", found[1]) if found else []


def _shared(recording: Recording) -> list[Touched]:
    """Dynamic shared memory as numbers of the type that the kernel computes with, static arrays by their names."""
    launch, first = recording.launch, len(recording.arguments)
    shared = recording.events[recording.events["region"] >= first]
    sizes = shared["size"]
    double = any(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in launch.args)
    dtype = np.dtype(np.float64 if double and (sizes % 8 == 0).all() else np.float32)

    def part(name: str, nbytes: int, region: int, begin: int, address: int) -> Touched:
        return Touched(name, (nbytes // dtype.itemsize,), dtype, True, region, begin, address)

    found = []
    if launch.shared_bytes:
        found.append(part("shared_memory", launch.shared_bytes, first, 0, 0))
    variables = _variables(recording.library)
    dynamic = next((begin for name, begin, _ in variables if name == "shared_memory"), None)
    for name, begin, nbytes in variables:
        if name in ("shared_memory", "cupynn_shared_begins"):
            continue
        if dynamic is None or begin < dynamic:
            found.append(part(name, nbytes, first + 1, begin, begin))
        else:
            found.append(part(name, nbytes, first + 2, begin - dynamic - cpu.SHARED_CAPACITY, begin))
    for region in (first + 1, first + 2) if not variables else ():
        static = shared[shared["region"] == region]
        if len(static):
            found.append(part("static", int((static["offset"] + static["size"]).max()), region, 0, 0))
    return found


def find_tool() -> str | None:
    return shutil.which("readelf")


def _variables(library: pathlib.Path) -> list[tuple[str, int, int]]:
    """(name, offset, bytes) of a library's thread-local variables, by binutils' readelf; none where it is missing."""
    tool = find_tool()
    if tool is None:
        return []
    text = subprocess.run([tool, "-sWC", str(library)], capture_output=True, text=True, check=False).stdout
    found = set()
    for line in text.splitlines():
        if match := re.match(r"\s*\d+:\s+([0-9a-f]+)\s+(\S+)\s+TLS\s+\S+\s+\S+\s+\S+\s+(.*)", line):
            found.add((match[3].rpartition("::")[2], int(match[1], 16), int(match[2], 0)))
    return sorted(found, key=lambda variable: variable[1])


def which(arrays: list[Touched], events: np.ndarray) -> np.ndarray:
    """Of each event the number of the array that it touches, -1 for none."""
    found = np.full(len(events), -1)
    for number, array in enumerate(arrays):
        offset = events["offset"] - array.begin
        inside = (events["region"] == array.region) & (offset >= 0) & (offset < array.nbytes) & (found < 0)
        found[inside] = number
    return found
