"""A traced block: the steps of its warps, what they touch, and what each costs a GPU's memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupynn.trace import arrays, lines, traffic, warps
from cupynn.trace.launch import Launch, reach
from cupynn.trace.recording import ATOMIC, WARP, Recording

METHOD = (
    "Computed from addresses, not measured: a GPU's blocks and threads, warps taken to run in lockstep, accesses as "
    "the C++ compiler leaves them; NVRTC may join or save some more."
)


@dataclass(frozen=True)
class Row:
    """The accesses of one kind that one place of the source makes to one array; means are over warps' accesses.

    lines: of the kernel's file, the kernel's own first, then that of the function called there, and so on.
    size: bytes of a thread. sectors, least, cache_lines: of global memory; degree, the worst one: of shared memory.
    """

    lines: tuple[int, ...]
    kind: int
    array: str
    size: int
    count: int
    lanes: float
    sectors: float | None
    least: float | None
    cache_lines: float | None
    degree: int | None


class Block:
    """One block of a launch, run and taken apart.

    arrays: what it touched. Of each event, `array`: a number of these, `offset`: bytes from the array's first,
    `site_of`: a number of the steps' sites, whose lines `chains` has.
    Of each step, `sectors`, `least`, `cache_lines` (0 for shared memory) and `degree`, `passes`, `least_passes` (0 for
    global memory): see traffic.py.
    """

    def __init__(self, launch: Launch, place: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Raises KernelCheckError where the block does what no kernel may, ValueError where there is no such block."""
        recording = Recording(launch, place)
        self.launch, self.place, self.left_out = launch, place, recording.left_out
        self.events, self.most = recording.events, recording.most
        self.arrays = arrays.arrays(recording)
        self.steps = warps.steps(recording)
        self.chains = lines.chains(recording.library, launch.source, recording.calls, self.steps.sites)
        self.array = arrays.which(self.arrays, self.events)
        self.site_of = np.empty(len(self.events), np.int64)
        self.site_of[self.steps.members] = np.repeat(self.steps.site, self.steps.end - self.steps.begin)
        begins = np.array([array.begin for array in self.arrays] + [0])
        self.offset = self.events["offset"] - begins[self.array]
        self._cost()

    def _cost(self) -> None:
        steps = self.steps
        member = np.repeat(np.arange(len(steps)), steps.end - steps.begin)  # of which step
        events = self.events[steps.members]
        array = self.array[steps.members]
        base = np.array([each.address for each in self.arrays] + [0])
        # Arrays far apart, so that no two share a sector.
        address = base[array] + self.offset[steps.members] + (array + 1) * 2**40
        shared = np.array([each.shared for each in self.arrays] + [False])[array]
        touches = events["kind"] <= ATOMIC
        size = events["size"].astype(np.int64)
        plain, banked = touches & ~shared, touches & shared
        self.sectors, self.least, self.cache_lines = traffic.sectors(
            len(steps), member[plain], address[plain], size[plain]
        )
        lane = events["thread"].astype(np.int64) % WARP
        self.degree, self.passes, self.least_passes = traffic.bank_conflicts(
            len(steps), member[banked], lane[banked], address[banked], size[banked]
        )

    @functools.cached_property
    def rows(self) -> list[Row]:
        """The summary: a row per place of the source, kind of access and array, in the order of the source's lines."""
        steps = self.steps
        touched = self.array[steps.members[steps.begin]] if len(steps) else np.empty(0, int)
        together: dict[tuple, list[int]] = {}
        for number, (site, array) in enumerate(zip(steps.site.tolist(), touched.tolist(), strict=True)):
            kind, size = int(steps.sites["kind"][site]), int(steps.sites["size"][site])
            together.setdefault((self.chains[site], kind, array, size), []).append(number)
        return [self._row(*key, np.array(numbers)) for key, numbers in sorted(together.items())]

    def _row(self, chain: tuple[int, ...], kind: int, array: int, size: int, numbers: np.ndarray) -> Row:
        """The row of the steps with these numbers."""
        lanes = float((self.steps.end - self.steps.begin)[numbers].mean())
        if kind > ATOMIC:
            return Row(chain, kind, "", size, len(numbers), lanes, None, None, None, None)
        costs = [float(cost[numbers].mean()) for cost in (self.sectors, self.least, self.cache_lines)]
        touched = self.arrays[array]
        costs = [None, None, None, int(self.degree[numbers].max())] if touched.shared else [*costs, None]
        return Row(chain, kind, touched.name, size, len(numbers), lanes, *costs)

    def value(self, event: int) -> str:
        """What an event read or wrote."""
        size, array = int(self.events["size"][event]), self.array[event]
        dtype = self.arrays[array].dtype
        data = self.events["value"][event].tobytes()[: min(size, 16)]
        if len(data) % dtype.itemsize:
            return "0x" + data[::-1].hex()
        values = np.frombuffer(data, dtype)
        if self.arrays[array].shared and dtype.kind == "f":
            # Shared memory has no type. Whole numbers look like floating-point numbers that are next to nothing.
            tiny = (values != 0) & (np.abs(values) < np.finfo(dtype).tiny)
            if tiny.any() and (tiny | (values == 0)).all():
                values = values.view(f"i{dtype.itemsize}")
        text = ", ".join(f"{v:.5g}" if values.dtype.kind == "f" else str(v) for v in values)
        return f"({text})" if len(values) > 1 else text

    def element(self, event: int) -> str:
        """`x[0, 1, 2]`."""
        return self.arrays[self.array[event]].element(int(self.offset[event]), int(self.events["size"][event]))


def trace(call: Callable[[], Any], number: int = 0, place: tuple[int, int, int] = (0, 0, 0)) -> Block:
    """One block of launch `number`, counted from 0, of `call`, which computes with NumPy arrays.

    The launch is the one that a GPU would get. All before it run, with every block. Raises what `Block` raises.
    """
    return Block(reach(call, number), place)
