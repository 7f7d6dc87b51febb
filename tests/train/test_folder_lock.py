"""Two processes never train in one folder."""

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from cupynn import nn
from cupynn.cli import main
from cupynn.data import ArrayDataset
from cupynn.train import RunFolder, Settings, fit
from cupynn.train.folder_lock import LOCK, locked

fcntl = pytest.importorskip("fcntl", reason="Windows has no such locks")

HOLD = """
import pathlib, sys
from cupynn.train.folder_lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(folder):
    """One that holds the lock inside the block, and is killed behind it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def images():
    pixels = np.zeros((4, 1, 2, 2), np.uint8)
    return ArrayDataset(pixels, np.zeros(4, np.int64), ("0", "1"), "black", (0.5,), (0.5,))


def train(images, folder, **options):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    return fit(model, images, images, Settings(epochs=1, batch_size=4), folder, quiet=True, **options)


def test_a_folder_in_use_is_refused_by_all_who_would_write(tmp_path, images, capsys):
    run = RunFolder(tmp_path)
    part = tmp_path / ".model.safetensors.77.part"  # the other process writes it just now
    with another_process(tmp_path) as process:
        part.touch()
        message = rf"{tmp_path} is in use by process {process.pid} on .+, which trains there"
        with pytest.raises(BlockingIOError, match=message):
            train(images, run)
        assert sorted(os.listdir(tmp_path)) == [LOCK, part.name]
        run.add_config(networks={"model": None})
        for call in (lambda: RunFolder.reopen(tmp_path), lambda: RunFolder(tmp_path, overwrite=True)):
            with pytest.raises(BlockingIOError, match=message):
                call()
        assert main(["train", "--resume", str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"cupynn: error: {tmp_path} is in use by process {process.pid}") and part.exists()


def test_a_process_that_is_killed_gives_the_folder_free(tmp_path, images):
    with another_process(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK).exists()
        train(images, RunFolder(tmp_path))
    assert not (tmp_path / LOCK).exists()


def test_the_lock_is_held_while_training_and_gone_behind_it(tmp_path, images):
    seen = []

    def objective(model, x, labels):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on "), locked(tmp_path):
            pass
        seen.append(LOCK in os.listdir(tmp_path))
        raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        train(images, RunFolder(tmp_path), objective=objective)
    assert seen == [True] and LOCK not in os.listdir(tmp_path)


def test_one_that_was_removed_while_it_was_waited_for_is_no_lock(tmp_path, monkeypatch):
    """The file is opened, its holder removes it and ends, and only then it is locked."""
    flock, tries = fcntl.flock, []

    def remove_first(number, how):
        tries.append(number)
        if len(tries) == 1:
            (tmp_path / LOCK).unlink()
        flock(number, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked(tmp_path):
        assert len(tries) == 2 and (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


def test_where_there_are_no_locks_training_goes_on(tmp_path, images, monkeypatch):
    def refuse(number, how):
        raise OSError(38, "Function not implemented")  # as some file systems do

    monkeypatch.setattr(fcntl, "flock", refuse)
    train(images, RunFolder(tmp_path / "no-locks"))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    train(images, RunFolder(tmp_path / "windows"))
    with locked(tmp_path / "nowhere"):  # a folder that takes no file
        pass
