"""Signals to a training process: it finishes the batch, saves, says where, and goes."""

import functools
import json
import signal
import subprocess
import sys
import time

import pytest

import cupynn
from cupynn import models
from cupynn.data import load
from cupynn.train import evaluate
from cupynn.train.interruption import signals_as_request

pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")


def first_line_of(path, process):
    """Wait until the run has written its first epoch."""
    for _ in range(1200):
        if path.exists() and path.read_text().count("\n") >= 1:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    pytest.fail("no epoch within a minute")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_a_checkpoint_and_says_where(tmp_path, number, status):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "cupynn", "train", "smallnet", "--data", "digits8x8", "--option", "kernel_size=5"]
    command += ["--epochs", "100000", "--schedule", "constant", "--device", "cpu", "--run", str(folder)]
    # Where the tests run in the background of a script, SIGINT is ignored, and children inherit that.
    heed = functools.partial(signal.signal, number, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    try:
        first_line_of(folder / "metrics.jsonl", process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert errors.startswith("cupynn: stopped in epoch ") and errors.count("\n") == 1
    assert str(folder / "model.safetensors") in errors

    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, len(epochs) + 1))
    model = cupynn.load(folder / "model.safetensors")
    assert evaluate(model, load("digits8x8")[1]).accuracy > 0.3  # it has learned: chance is 0.1
    assert model.creation["options"]["kernel_size"] == 5 and "smallnet" in models.names()
    files = ["checkpoints", "config.json", "metrics.jsonl", "model.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == files
    assert f"cupynn train --resume {folder} goes on" in errors


def test_the_second_signal_does_what_it_always_did():
    script = """
import os, signal
from cupynn.train.interruption import signals_as_request
signal.signal(signal.SIGINT, signal.default_int_handler)
with signals_as_request() as stop:
    assert stop.signal is None
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == signal.SIGINT
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted")
with signals_as_request():
    pass
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (answer.stdout, answer.returncode) == ("interrupted\n", 0), answer.stderr


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_as_request() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
