"""Starting ranks by a real mpiexec."""

import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pytest


def mpiexec() -> str:
    """The launcher that belongs to the MPI library of this Python. Skips the test where there is none."""
    pytest.importorskip("mpi4py", reason="needs mpi4py and an MPI library: pip install mpi4py mpich")
    beside = pathlib.Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("needs mpiexec: pip install mpich")
    return found


def start(size: int, *arguments: str, guarded: bool = True, **environment: str) -> subprocess.Popen:
    """mpiexec -n SIZE python -m mpi4py ARGUMENTS; not guarded: without -m mpi4py."""
    command = [mpiexec(), "-n", str(size), sys.executable, *(["-m", "mpi4py"] * guarded), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for(process: subprocess.Popen, arrived: Callable[[], bool], seconds: float = 60) -> None:
    """Return once `arrived()`. Where that never comes, end the ranks and fail."""
    until = time.monotonic() + seconds
    while not arrived():
        if time.monotonic() > until or process.poll() is not None:
            process.terminate()
            pytest.fail(f"the ranks did not come that far: {process.communicate(timeout=20)[0]}")
        time.sleep(0.002)


def process_numbers(process: subprocess.Popen, folder: pathlib.Path, size: int) -> list[int]:
    """The process of each rank, once rank R has left its number and a full stop in the file `processR`.

    Through files, since lines that ranks print may come mixed.
    """

    def numbers() -> list[int]:
        files = [folder / f"process{rank}" for rank in range(size)]
        texts = [file.read_text() if file.exists() else "" for file in files]
        return [int(text[:-1]) for text in texts if text.endswith(".")]

    wait_for(process, lambda: len(numbers()) == size)
    return numbers()
