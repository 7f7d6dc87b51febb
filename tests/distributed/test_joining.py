import os
import re
import signal
import subprocess
import sys
import time

import pytest
from launching import mpiexec, process_numbers, start

from cupynn.distributed import WorldError, join, launched_ranks
from cupynn.distributed.launch import SIZES

JOIN = "from cupynn import distributed; world = distributed.join(); print(world, flush=True)"


@pytest.fixture
def no_launcher(monkeypatch):
    for name in SIZES:
        monkeypatch.delenv(name, raising=False)


def output_of(process, seconds=60):
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


@pytest.mark.parametrize("name", SIZES)
def test_launchers_are_known_by_their_environment(no_launcher, monkeypatch, name):
    assert launched_ranks() is None
    monkeypatch.setenv(name, "4")
    assert launched_ranks() == 4


def test_a_plain_run_does_not_import_mpi4py():
    script = f"import sys, cupynn.train, cupynn.cli\n{JOIN}\nprint('mpi4py' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name not in SIZES}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.stdout.splitlines() == ["World(rank=0, size=1)", "False"], run.stderr


def test_several_ranks_must_come_through_mpi4py(no_launcher, monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "3")
    with pytest.raises(WorldError, match=r"3 ranks were started, .* mpiexec -n N python -m mpi4py -m cupynn"):
        join()


def test_ranks_started_without_mpi4py_fail_and_do_not_hang():
    status, output = output_of(start(2, "-c", JOIN, guarded=False))
    assert status != 0 and "2 ranks were started, but not through mpi4py" in output


def test_a_launcher_of_another_mpi_library():
    """As Open MPI's mpiexec starts processes whose mpi4py loads MPICH: each finds itself alone."""
    mpiexec()  # skips without MPI
    environment = {name: value for name, value in os.environ.items() if name not in SIZES}
    environment["OMPI_COMM_WORLD_SIZE"] = "4"
    command = [sys.executable, "-m", "mpi4py", "-c", JOIN]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert run.returncode != 0
    assert "the launcher started 4 ranks, but MPI" in run.stderr and "sees a world of 1" in run.stderr


def test_one_rank_by_mpiexec_is_alone():
    assert output_of(start(1, "-c", JOIN)) == (0, "World(rank=0, size=1)\n")


def test_a_rank_that_raises_ends_all():
    script = f"{JOIN}\nif world.rank == 1: raise ValueError('broken on purpose')\nworld.total(1)"
    status, output = output_of(start(4, "-c", script))
    assert status == 1 and "ValueError: broken on purpose" in output


def test_a_rank_that_is_killed_ends_all_within_seconds(tmp_path):
    script = f"""{JOIN}
import os, pathlib
pathlib.Path({str(tmp_path)!r}, f"process{{world.rank}}").write_text(f"{{os.getpid()}}.")
while True:
    world.total(1)
"""
    process = start(4, "-c", script)
    processes = process_numbers(process, tmp_path, 4)
    os.kill(processes[2], signal.SIGKILL)
    status, output = output_of(process, seconds=20)
    assert status != 0 and re.search("killed|signal 9", output, re.IGNORECASE), output  # the launcher's words
    for pid in processes:
        assert _ended(pid), f"process {pid} runs on"


def _ended(pid, seconds=10):
    """Whether a process goes within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
