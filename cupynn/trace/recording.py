"""One block of a launch, run on the CPU while the checker keeps every step of its threads."""

from __future__ import annotations

import ctypes
import pathlib
from collections.abc import Sequence

import numpy as np

from cupynn.kernels.runtime import build
from cupynn.trace.launch import Launch

READ, WRITE, ATOMIC, BARRIER, WARP_FUNCTION = range(5)  # CupynnEventKind of checker.h
KINDS = ("reads", "writes", "atomically updates", "barrier", "warp function")
WARP = 32
MOST_EVENTS = 3_000_000  # of a block, 48 bytes each

EVENT = np.dtype(  # CupynnEvent of checker.h
    [
        ("where", "u8"),
        ("offset", "i8"),
        ("call", "i4"),
        ("size", "i4"),
        ("region", "i2"),
        ("thread", "i2"),
        ("kind", "i4"),
        ("value", "V16"),
    ],
    align=True,
)
CALL = np.dtype([("where", "u8"), ("caller", "i8")])  # CupynnCall

# A struct that is copied stays one access, as wide as a GPU's. clang++ has no such switch: it takes member by member.
FLAGS = () if build.find_compiler() and build.is_clang() else ("-fno-tree-sra",)


class Recording:
    """What the threads of a block did.

    events: EVENT, each thread's in its order. calls: CALL, by number, of which 0 is no call.
    arguments: which of the launch's arguments lie in each region; behind these come dynamic shared memory and static
        shared memory on either side of it.
    left_out: threads that did more than is kept. library: what was run, for the lines of its instructions.
    """

    def __init__(self, launch: Launch, block: tuple[int, int, int]) -> None:
        """Run that block. Raises KernelCheckError where it does what no kernel may, ValueError for no such block."""
        if any(not 0 <= at < size for at, size in zip(block, launch.grid, strict=True)):
            raise ValueError(f"trace: block {block} was asked for; the grid of {launch} has {launch.grid}")
        self.launch, self.place = launch, block
        self.block = block[0] + launch.grid[0] * (block[1] + launch.grid[1] * block[2])
        self.most = MOST_EVENTS // launch.threads
        self.flags = FLAGS
        launch.run(self)

    def take(self, checker: ctypes.CDLL, library: pathlib.Path, arguments: Sequence[Sequence[int]]) -> None:
        """Called by `checked.launch` while the checker still has what it kept."""
        events, calls = ctypes.c_void_p(), ctypes.c_void_p()
        call_count, left_out = ctypes.c_int(), ctypes.c_int()
        ask = checker.cupynn_check_recorded
        ask.restype = ctypes.c_int64
        count = ask(*(ctypes.byref(answer) for answer in (events, calls, call_count, left_out)))
        self.events = _copied(events, count, EVENT)
        self.calls = _copied(calls, call_count.value, CALL)
        self.left_out, self.library, self.arguments = left_out.value, library, [list(each) for each in arguments]


def _copied(begin: ctypes.c_void_p, count: int, dtype: np.dtype) -> np.ndarray:
    if count == 0:
        return np.empty(0, dtype)
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(begin.value), dtype).copy()
