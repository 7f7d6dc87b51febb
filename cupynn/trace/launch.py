"""The launches that a call makes on a GPU, found without one: NumPy arrays, a GPU's blocks."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cupynn import device
from cupynn.kernels import runtime
from cupynn.kernels.runtime import checked, cpu


@dataclass(frozen=True)
class Launch:
    """One launch: as `runtime.launch` is told it."""

    name: str | pathlib.Path
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    args: tuple[Any, ...]
    shared_bytes: int

    @property
    def source(self) -> pathlib.Path:
        return cpu.source_path(self.name)

    @property
    def threads(self) -> int:
        return prod(self.block)

    def __str__(self) -> str:
        return f"{self.source.name}: {self.kernel}"

    def run(self, recording: checked.Recording | None = None) -> None:
        """Every block with a GPU's threads, on the CPU and under the checker; for a `recording`, its block alone."""
        _run(self.name, self.kernel, self.grid, self.block, self.args, self.shared_bytes, (), (), recording)


_run = checked.launch  # which is replaced while launches are looked for


class _Enough(Exception):
    """The launch that was looked for has been met: what comes after it need not run."""


def launches(call: Callable[[], Any]) -> list[Launch]:
    """Every launch of `call`, which computes with NumPy arrays; none of them runs, so results are garbage."""
    found: list[Launch] = []
    with _caught(found.append), np.errstate(all="ignore"):
        call()
    return found


def reach(call: Callable[[], Any], number: int) -> Launch:
    """Launch `number` of `call`, counted from 0, once all before it have run: its arrays hold what it will read."""
    if number < 0:
        raise ValueError(f"trace: launch {number} was asked for; they are counted from 0")
    met: list[Launch] = []

    def meet(launch: Launch) -> None:
        met.append(launch)
        if len(met) > number:
            raise _Enough
        launch.run()

    with contextlib.suppress(_Enough), _caught(meet):
        call()
    if len(met) <= number:
        raise ValueError(f"trace: launch {number} was asked for; there are {len(met)}, counted from 0")
    return met[-1]


@contextlib.contextmanager
def _caught(meet: Callable[[Launch], None]) -> Iterator[None]:
    """Inside a `with` block launches are as on a GPU and go to `meet`.

    Mode "checked" has faces pass arrays, not tables of addresses, whose elements could not be named.
    """

    def launch(name: Any, kernel: str, grid: Any, block: Any, args: Any, shared_bytes: int, *written: Any) -> None:
        meet(Launch(name, kernel, grid, block, tuple(args), shared_bytes))

    mode, original = runtime.mode(), checked.launch
    runtime.set_mode("checked")
    checked.launch = launch
    try:
        with runtime.as_on_gpu(), device.use_device("cpu"):
            yield
    finally:
        checked.launch = original
        runtime.set_mode(mode)
