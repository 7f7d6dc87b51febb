"""Mode "checked": kernels run on the CPU with every memory access watched (checker.cpp).

Each array is copied into a buffer of its own between two guards, the blocks run one after the other in random order,
and a block's threads in random order between barriers. What is found raises KernelCheckError, and then no array has
changed. CUPYNN_CHECK_SEED fixes the order; the seed is part of the message.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import pathlib
import secrets
import shutil
import subprocess
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from cupynn.device import Array, to_numpy, xp_of

from . import build, cpu
from .errors import KernelCheckError

# -nodefaultlibs keeps the compiler's own race detector out: its functions come from checker.cpp.
FLAGS = (
    "-std=c++17",
    "-O1",
    "-g1",
    "-gdwarf-4",  # binutils 2.40 names the wrong file where DWARF 5 has several
    "-march=native",
    "-ffp-contract=fast",
    "-fsanitize=thread",
    "-fno-threadsafe-statics",
)
LINK = ("-nodefaultlibs", "-lm", "-lc", "-lgcc")

GUARD = 1 << 20  # bytes on either side of an array, more for a large one; pages that nobody touches take no memory
POISON = 4096  # bytes next to an array that are filled with 0xFF, NaN in every float type, and looked at afterwards


class _Region(ctypes.Structure):
    """CupynnRegion of checker.h."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("begin", "end", "before", "behind")),
        *((name, ctypes.c_int32) for name in ("item", "writeable", "unwritten")),
    )


class _Fault(ctypes.Structure):
    """CupynnFault of checker.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "region")),
        ("offset", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("size", "thread", "other_thread")),
        *((name, ctypes.c_int64) for name in ("block", "other_block")),
        *((name, ctypes.c_uint64) for name in ("where", "other_where")),
    )


# CupynnFaultKind of checker.h, in its order.
MESSAGES = (
    "reads {size} bytes outside {region}: {outside}",
    "writes {size} bytes outside {region}: {outside}",
    "writes to {region} at {element}, which the kernel declares const",
    "touches an address that is no array's: {offset:#x}",
    "reads {region} at {element} before anything was written there",
    "races: it writes {region} at {element}, and so does {other}, with no barrier in between",
    "races: {region} at {element} is read and written by this thread and {other}, with no barrier in between",
    "left {size} elements of {region} unwritten, the first at {element}",
    "barrier divergence: waits at the barrier in line {offset}, while {other} waits at the one in line {size}",
    "barrier divergence: {size} threads of the block ended without reaching the barrier in line {offset}",
    "the block's threads wait for each other forever; this one last reached the barrier in line {offset}",
    "a warp shuffle in line {offset} reads lane {size}, which does not take part in it",
)

_one_launch = threading.Lock()


@functools.cache
def _checker() -> ctypes.CDLL:
    text = (build.HEADERS / "checker.cpp").read_text()
    return build.library("checker", text, ("-std=c++17", "-O2"), everywhere=True)


class Recording(Protocol):
    """What a launch of which one block is traced gives its steps to (cupynn.trace)."""

    block: int  # its number in the grid
    most: int  # steps that are kept of each thread
    flags: tuple[str, ...]  # more of the compiler's

    def take(self, checker: ctypes.CDLL, library: pathlib.Path, arrays: Sequence[Sequence[int]]) -> None:
        """Read the steps from the checker. arrays: the positions of the arguments that lie in each region."""


@functools.cache
def _kernel(name: str | pathlib.Path, expression: str, flags: tuple[str, ...]) -> tuple[cpu.Kernel, pathlib.Path]:
    _checker()
    source = cpu.source_path(name)
    text = cpu.translation_unit(source, expression, ("CUPYNN_CHECKED",))
    # clang++ would leave out a read that a write of the same element follows.
    clang = ("-mllvm", "-tsan-instrument-read-before-write") if build.is_clang() else ()
    library = build.library(f"{source.stem}-checked", text, (*FLAGS, *clang, *flags, *LINK), source.parent)
    return cpu.Kernel(source.stem, expression, library), pathlib.Path(library._name)


class _Memory:
    """Copies of a launch's arrays, each alone in its own stretch of memory; arrays that overlap stay one piece."""

    def __init__(self, arrays: dict[int, np.ndarray]) -> None:
        """`arrays`: position of an argument -> array."""
        self.arrays = arrays
        self.begin: list[int] = []  # address of the original, per region
        self.size: list[int] = []
        self.members: list[list[int]] = []  # positions of the arguments in each region
        for position in sorted(arrays, key=lambda p: arrays[p].ctypes.data):
            array = arrays[position]
            address = array.ctypes.data
            if self.begin and address < self.begin[-1] + self.size[-1]:
                self.size[-1] = max(self.size[-1], address + array.nbytes - self.begin[-1])
                self.members[-1].append(position)
            else:
                self.begin.append(address)
                self.size.append(array.nbytes)
                self.members.append([position])
        guards = [max(GUARD, -(-size // 64) * 64) for size in self.size]  # so that every copy is aligned
        strides = [2 * guard + -(-size // 64) * 64 for guard, size in zip(guards, self.size, strict=True)]
        self.bytes = np.frombuffer(mmap.mmap(-1, max(sum(strides), 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
        self.start = [sum(strides[:i]) + guard for i, guard in enumerate(guards)]
        self.guard = guards
        self.copies: dict[int, np.ndarray] = {}
        for region, start in enumerate(self.start):
            self.bytes[start - POISON : start] = 0xFF
            self.bytes[start + self.size[region] :][:POISON] = 0xFF
            for position in self.members[region]:
                array = arrays[position]
                first = start + array.ctypes.data - self.begin[region]
                copy = self.bytes[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
                copy[...] = array
                self.copies[position] = copy

    def overlaps(self, region: int, array: np.ndarray) -> bool:
        first = array.ctypes.data
        return first < self.begin[region] + self.size[region] and self.begin[region] < first + array.nbytes

    def spoiled(self, region: int) -> bool:
        """Was the poison around this region written to?"""
        start, end = self.start[region], self.start[region] + self.size[region]
        return bool((self.bytes[start - POISON : start] != 0xFF).any() or (self.bytes[end:][:POISON] != 0xFF).any())


def launch(
    name: str | pathlib.Path,
    expression: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: Sequence[Any],
    shared_bytes: int,
    outputs: Sequence[Array],
    touches: Sequence[Array],
    recording: Recording | None = None,
) -> None:
    """As `dispatch.launch`, with every access checked. CuPy arrays are checked on the CPU, too.

    With a `recording` only its block runs, and it gets what the block's threads did.
    """
    kernel, library = _kernel(name, expression, recording.flags if recording else ())
    hosts = {id(a): to_numpy(a) for a in (*args, *outputs, *touches) if isinstance(a, np.ndarray) or xp_of(a) is not np}
    on_host = [hosts.get(id(value), value) for value in args]
    kernel.pack(grid, block, on_host, shared_bytes)  # a wrong argument is reported as in every mode
    arrays = {i: value for i, value in enumerate(on_host) if isinstance(value, np.ndarray) and value.nbytes}
    written = {i for i in arrays if not kernel.parameters[i].startswith("const ")}
    memory = _Memory(arrays)
    regions = (_Region * len(memory.begin))()
    base = memory.bytes.ctypes.data
    for number, members in enumerate(memory.members):
        regions[number] = _Region(
            begin=base + memory.start[number],
            end=base + memory.start[number] + memory.size[number],
            before=memory.guard[number],
            behind=memory.guard[number],
            item=min(arrays[i].itemsize for i in members),
            writeable=any(i in written for i in members),
            unwritten=any(memory.overlaps(number, hosts[id(a)]) for a in outputs)
            and not any(memory.overlaps(number, hosts[id(a)]) for a in touches),
        )
    seed = int(os.environ.get("CUPYNN_CHECK_SEED") or (0 if recording else secrets.randbits(32)))
    packed = kernel.pack(grid, block, [memory.copies.get(i, value) for i, value in enumerate(on_host)], shared_bytes)
    faults = (_Fault * 16)()
    with _one_launch:
        checker = _checker()
        checker.cupynn_check_begin(regions, len(regions), ctypes.c_uint64(seed))
        if recording:
            checker.cupynn_check_record(ctypes.c_int64(recording.block), recording.most)
        status = kernel.run_packed(packed)
        if recording:
            recording.take(checker, library, memory.members)
        count = checker.cupynn_check_faults(faults, len(faults))
    kernel.raise_for(status, block, shared_bytes)
    report = [_describe(fault, kernel, library, memory, grid, block, shared_bytes) for fault in faults[:count]]
    for number, members in enumerate(memory.members):
        if not report and memory.spoiled(number):
            report.append(f"something was written outside {_label(kernel, memory, members)}")
    if report:
        raise KernelCheckError(f"{kernel}: " + "\n  ".join([*report, f"(CUPYNN_CHECK_SEED={seed} repeats this order)"]))
    for i in written:
        args[i][...] = xp_of(args[i]).asarray(memory.copies[i])


def _label(kernel: cpu.Kernel, memory: _Memory, members: Sequence[int]) -> str:
    return " and ".join(f"argument {i} (`{kernel.parameters[i]}`, shape {memory.arrays[i].shape})" for i in members)


def _describe(
    fault: _Fault,
    kernel: cpu.Kernel,
    library: pathlib.Path,
    memory: _Memory,
    grid: Sequence[int],
    block: Sequence[int],
    shared_bytes: int,
) -> str:
    """One fault in words."""
    offset = fault.offset
    if 0 <= fault.region < len(memory.members):
        members = memory.members[fault.region]
        array = memory.arrays[members[0]]
        region, size = _label(kernel, memory, members), memory.size[fault.region]
        if 0 <= offset < array.nbytes:
            index = np.unravel_index(offset // array.itemsize, array.shape)
            element = f"[{', '.join(map(str, index))}]"
        else:
            element = f"byte {offset}"
        item = array.itemsize
    else:
        dynamic = fault.region == len(memory.members)
        region = f"dynamic shared memory ({shared_bytes} bytes)" if dynamic else "static shared memory"
        size, item, element = shared_bytes, 1, f"byte {offset}"
    unit = "elements" if item > 1 else "bytes"
    if offset < 0:
        outside = f"{-offset // item} {unit} before its begin"
    elif offset < size:
        outside = f"its last {offset + fault.size - size} bytes lie past its end"
    else:
        outside = f"{(offset - size) // item} {unit} past its end"
    other = _place(fault.other_block, fault.other_thread, grid, block)
    other += _line(library, fault.other_where, kernel.name) if fault.other_where else ""
    words = MESSAGES[fault.kind].format(
        size=fault.size, region=region, outside=outside, element=element, offset=offset, other=other
    )
    if fault.thread < 0:
        return f"the kernel {words}"
    return f"{_place(fault.block, fault.thread, grid, block)}{_line(library, fault.where, kernel.name)} {words}"


def _place(number: int, thread: int, grid: Sequence[int], block: Sequence[int]) -> str:
    if thread < 0:
        return ""
    at = [
        (n % size[0], n // size[0] % size[1], n // size[0] // size[1]) for n, size in ((number, grid), (thread, block))
    ]
    return f"block {at[0]} thread {at[1]}"


def _line(library: pathlib.Path, where: int, name: str) -> str:
    """` (NAME.cu:57)` for an instruction's offset in a library, where binutils are installed."""
    tool = shutil.which("addr2line")
    if not where or not tool:
        return ""
    # The offset is a return address, one past the call; the outermost line in the kernel's own file is the reader's.
    command = [tool, "-i", "-e", str(library), hex(where - 1)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    own = [line.rpartition(":")[2] for line in lines if f"{name}.cu:" in line or "<stdin>:" in line]
    return f" ({name}.cu:{own[-1]})" if own else ""
