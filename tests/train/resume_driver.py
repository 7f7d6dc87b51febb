"""Runs `cupynn train` in processes that are killed, for test_resume.py: a program of its own, so that the number of
threads is set before NumPy is loaded, and so that a killed process costs a fork and no start of Python.

python resume_driver.py FOLDER SEED KILLS: trains in FOLDER/whole without a stop, and in FOLDER/killed-0, killed-1 ...
with KILLS kills in all; prints a line per kill.
"""

import json
import os
import pathlib
import signal
import sys
import time
import traceback

import numpy as np

from cupynn import cli, nn
from cupynn.models.registry import register

PAUSE = 0.02  # in the middle of each write, so that many kills find a file half written
RECIPE = "--data digits8x8 --expand ck --rate 2 --epochs 3 --batch-size 90 --crop 1 --flip --momentum 0.9 --warm-up 0.5"
RECIPE += " --checkpoint-steps 3 --seed 7 --device cpu --no-decay-biases --label-smoothing 0.1 --clip-norm 2"


@register("tiny")
class Tiny(nn.Sequential):
    """A convolution that CK expands, batch norm, dropout of channels and of elements, and a linear layer."""

    def __init__(self, classes: int = 10, in_channels: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, 4, 5, stride=2, padding=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64, classes),
        )
        self.input_shape = (in_channels, 8, 8)


def start(arguments: list[str], slow_writes: bool, die_in_write: int | None) -> int:
    """A process that runs `cupynn ARGUMENTS`; returns its number.

    slow_writes: every file is written in two halves. die_in_write: it kills itself between the halves of that write.
    """
    child = os.fork()
    if child:
        return child
    if slow_writes:
        _make_writing_slow(die_in_write)
    status = 1
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        status = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _make_writing_slow(die_in_write: int | None) -> None:
    write_bytes = pathlib.Path.write_bytes
    writes = 0

    def in_halves(path: pathlib.Path, data: bytes) -> int:
        nonlocal writes
        writes += 1
        write_bytes(path, data[: len(data) // 2])
        time.sleep(PAUSE)
        if writes == die_in_write:
            os.kill(os.getpid(), signal.SIGKILL)
        return write_bytes(path, data)

    pathlib.Path.write_bytes = in_halves


def kill(child: int, wait: float) -> bool:
    """Kill the process after `wait` seconds; whether it was still running, or killed itself before."""
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status in (0, signal.SIGKILL), f"a process ended with status {status}"
            return status != 0
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return status == signal.SIGKILL


def main() -> None:
    folder, seed, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    random = np.random.default_rng(seed)
    began = time.monotonic()
    _, status = os.waitpid(start(f"train tiny {RECIPE} --run {folder / 'whole'}".split(), True, None), 0)
    assert status == 0, "the run that is not killed failed"
    seconds = time.monotonic() - began
    run, killed = folder / "killed-0", 0
    while killed < kills:
        fresh = not (run / "config.json").exists()  # killed before there was anything to go on from
        command = f"train tiny {RECIPE} --run {run}" if fresh else f"train --resume {run}"
        die_in_write = int(random.integers(1, 9)) if killed % 3 == 0 else None
        wait = float(random.uniform(0, 0.5 * seconds))
        if kill(start(command.split(), True, die_in_write), 60 if die_in_write else wait):
            killed += 1
            half = sorted(path.name for path in run.rglob(".*.part"))
            whole = sorted(path.name for path in run.glob("checkpoints/model-epoch*"))
            how = f"in its write {die_in_write}" if die_in_write else f"after {wait:.3f} s"
            print(json.dumps({"run": run.name, "how": how, "half": half, "whole": whole}), flush=True)
        else:  # it came to its end: another one, sooner; the run that was timed may have compiled kernels
            seconds *= 0.8
            run = folder / f"killed-{int(run.name[7:]) + 1}"
    if (run / "config.json").exists():
        _, status = os.waitpid(start(f"train --resume {run}".split(), False, None), 0)
        assert status == 0, "the last part of the run failed"


if __name__ == "__main__":
    main()
