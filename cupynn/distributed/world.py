"""The processes that train one network together, and what they can do together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cupynn.device import Array, cuda_available, manual_seed, to_numpy, xp_of

SUMMED = ("float32", "float64", "int64")


class World:
    """`size` processes; this one is number `rank`, counted from 0, and number `local_rank` on its computer.

    Every rank calls the same methods in the same order: a call waits until the others have come there too. Sums of
    NumPy arrays go through MPI, those of CuPy arrays through NCCL. Two runs with the same number of ranks on the same
    computers give the same bits, and all ranks get the same ones. `World()` is this process alone.
    """

    def __init__(self, communicator: Any = None) -> None:
        """communicator: an intracommunicator of mpi4py; what is sent here does not mix with what others send by it."""
        self.rank, self.size, self.local_rank = 0, 1, 0
        self._now = self._later = self._gpus = None
        if communicator is not None:
            self.rank, self.size = communicator.rank, communicator.size
            # Sums that were started keep an order of their own, apart from that of calls that wait.
            self._now, self._later = communicator.Dup(), communicator.Dup()
            self.local_rank = communicator.Split_type(_mpi().COMM_TYPE_SHARED).rank

    def sum(self, array: Array) -> None:
        """Replace a contiguous array by its sum over all ranks. Raises as `start_sum` does."""
        _check_summable(array)
        if self.size == 1:
            return
        if xp_of(array) is np:
            self._now.Allreduce(_mpi().IN_PLACE, array)
        else:
            self.start_sum(array).Wait()

    def start_sum(self, array: Array) -> Any:
        """Begin to replace a contiguous array by its sum over all ranks, of which there are several.

        Returns a request with mpi4py's names: `Wait()` ends it, `Test()` moves it on; until then the array is not to
        be touched. Raises TypeError for a dtype other than float32, float64 and int64, ValueError for an array that is
        not contiguous.
        """
        _check_summable(array)
        if xp_of(array) is np:
            return self._later.Iallreduce(_mpi().IN_PLACE, array)
        if self._gpus is None:
            from cupynn.distributed.nccl import Ring

            self._gpus = Ring(self.rank, self.size, self.copied)
        return self._gpus.start_sum(array)

    def table(self, row: Array) -> Array:
        """(size, K): the row (K,) of every rank."""
        table = xp_of(row).zeros((self.size, *row.shape), row.dtype)
        table[self.rank] = row
        self.sum(table)  # with zeros: exact
        return table

    def total(self, *numbers: float) -> tuple[float, ...]:
        """The sum over all ranks of each of these numbers, in float64."""
        array = np.array(numbers, np.float64)
        self.sum(array)
        return tuple(array.tolist())

    def largest(self, *numbers: float) -> tuple[float, ...]:
        """The largest that any rank gives of each of these numbers; of flags, whether any rank has set them."""
        array = np.array(numbers, np.float64)
        if self.size > 1:
            self._now.Allreduce(_mpi().IN_PLACE, array, _mpi().MAX)
        return tuple(array.tolist())

    def first(self, text: str) -> str:
        """The text of the first rank that has one, "" where none has."""
        return text if self.size == 1 else next(filter(None, self._now.allgather(text)), "")

    def copied(self, value: Any) -> Any:
        """What rank 0 gives, on every rank: anything that can be pickled. What the others give is not looked at."""
        return value if self.size == 1 else self._now.bcast(value, root=0)

    def broadcast(self, arrays: Iterable[Array]) -> None:
        """Overwrite arrays with those of rank 0, which have the same shapes and dtypes, in the same order."""
        if self.size == 1:
            return
        for array in arrays:
            values = to_numpy(array).copy(order="C")
            self._now.Bcast(values.reshape(-1).view(np.uint8))
            if self.rank:
                array[...] = xp_of(array).asarray(values)

    def seed(self, *place: int) -> None:
        """Seed the library's random numbers by a place, such as (seed, epoch, step), and the rank: no rank drops the
        units that another drops, and a run that is resumed draws as one that never stopped. Alone, nothing happens:
        then the generator's state is part of a checkpoint.
        """
        if self.size > 1:
            words = np.random.SeedSequence([*place, self.rank]).generate_state(4)
            manual_seed(int.from_bytes(words.tobytes(), "little"))

    def device(self) -> str | None:
        """The device for this rank: the GPU with the number of the rank on its computer, or the CPU where there is
        none. Alone, None: any."""
        if self.size == 1:
            return None
        return f"cuda:{self.local_rank}" if cuda_available() else "cpu"

    def __deepcopy__(self, memo: dict) -> World:
        return self  # copies of a module that holds it talk to the same ranks

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size})"


def _mpi() -> Any:
    from mpi4py import MPI

    return MPI


def _check_summable(array: Array) -> None:
    if array.dtype not in SUMMED:
        raise TypeError(f"distributed: only {', '.join(SUMMED)} can be summed over ranks; got {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"distributed: an array to be summed over ranks must be contiguous; got shape {array.shape}")
