"""How a process finds the others that a launcher, such as mpiexec, started with it."""

from __future__ import annotations

import os
import sys

from cupynn.distributed.world import World

# Where launchers say how many ranks they started: Open MPI, MVAPICH, whatever speaks PMI (MPICH, Intel, Cray), Slurm.
SIZES = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")

COMMAND = "mpiexec -n N python -m mpi4py -m cupynn ..."


class WorldError(RuntimeError):
    """The processes that were started together do not form one world."""


def launched_ranks() -> int | None:
    """How many ranks the launcher started by its own account; None where there was none. Does not import mpi4py."""
    return next((int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdigit()), None)


def join() -> World:
    """The world that this process belongs to; itself alone, and mpi4py is not imported, where no launcher started it.

    Every rank has to be started through `python -m mpi4py`: where one raises, that ends all of them, and without it
    the others would wait for the one for ever.

    Raises WorldError where the launcher and MPI do not agree on the number of ranks, as when mpiexec belongs to another
    MPI library and every process finds itself alone; where a process of several was not started through
    `python -m mpi4py`; and where mpi4py or its MPI library is missing.
    """
    started, guarded = launched_ranks(), "mpi4py.run" in sys.modules
    if not guarded:
        if started in (None, 1):
            return World()
        raise WorldError(
            f"distributed: {started} ranks were started, but not through mpi4py, which ends all of them when one "
            f"fails; start them as {COMMAND}"
        )
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, an MPI library is not
        raise WorldError(
            f"distributed: mpi4py finds no MPI library: {error}; load the cluster's own, or pip install mpich"
        ) from error
    size = MPI.COMM_WORLD.size
    if started not in (None, size):
        library = MPI.Get_library_version().split("\n")[0].strip()
        raise WorldError(
            f"distributed: the launcher started {started} ranks, but MPI ({library}) sees a world of {size}; "
            "mpiexec has to be that MPI library's own: with the mpich wheel, the mpiexec beside python"
        )
    return World(MPI.COMM_WORLD) if size > 1 else World()
