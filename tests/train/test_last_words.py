"""What is said of a run that is killed. Ranks of a real launcher: tests/distributed/test_train_on_ranks.py."""

import signal
import subprocess
import sys

import pytest

from cupynn.train.checkpoints import Checkpoints

INSIDE = """
import gc, os, pathlib, signal, subprocess, sys
from cupynn.train.last_words import last_words
from cupynn.train.checkpoints import Checkpoints
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]))
with last_words("it ended", checkpoints.folder, checkpoints.pattern, "begin again"):
    print("inside", flush=True)
    {}
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def words(folder, act):
    """(status, stderr) of a process that does `act` inside the block."""
    run = subprocess.run([sys.executable, "-c", INSIDE.format(act), str(folder)], capture_output=True, text=True)
    assert run.stdout == "inside\n", run.stderr
    return run.returncode, run.stderr


def test_the_last_checkpoint_is_named(tmp_path):
    """By epoch and step, not by the alphabet; other files are none."""
    folder = Checkpoints(tmp_path).folder
    folder.mkdir()
    for name in ("model-epoch9999-step000020", "model-epoch10000-step000003", "model-epoch10000-step000000"):
        (folder / f"{name}.safetensors").touch()
    for name in ("model-best.safetensors", "other-epoch20000-step000000.safetensors", ".model-epoch20000.part"):
        (folder / name).touch()
    last = folder / "model-epoch10000-step000003.safetensors"
    expected = f"\ncupynn: it ended; the last checkpoint is {last}; begin again\n"
    assert words(tmp_path, KILLED) == (-signal.SIGKILL, expected)


def test_before_the_first_checkpoint(tmp_path):
    assert words(tmp_path / "new", KILLED) == (-signal.SIGKILL, "\ncupynn: it ended; there is no checkpoint\n")


@pytest.mark.parametrize("act", ["pass", "sys.exit(3)", "raise KeyboardInterrupt"], ids=["end", "exit", "interrupt"])
def test_whoever_can_speak_speaks_alone(tmp_path, act):
    _, errors = words(tmp_path, act)
    assert "it ended" not in errors


def test_a_run_whose_process_beside_is_gone_ends_well(tmp_path):
    """It may be killed too, where memory is short."""
    act = "[each.kill() for each in gc.get_objects() if isinstance(each, subprocess.Popen)]"
    assert words(tmp_path, act) == (0, "")


def test_where_no_process_can_be_started(tmp_path):
    act = """pass
sys.executable = "/nowhere/python"
with last_words("it ended", checkpoints.folder, checkpoints.pattern, "begin again"):
    os.write(1, b"")"""
    assert words(tmp_path, act) == (0, "")
