"""`fit` and `cupynn train` with event files: the same bits as without, and every step once after a resume."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

import cupynn
from cupynn import cli
from cupynn.kernels.runtime import mode
from cupynn.serialization import load_state
from cupynn.train import events as events_module

pytest.importorskip("tensorboardX")
pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")
from tensorboardX.proto.event_pb2 import Event

RECIPE = "smallnet --data digits8x8 --option kernel_size=5 --epochs 3 --batch-size 100 --crop 1 --device cpu --seed 5"
STEPS = 15  # of an epoch: 1442 images


def train(arguments):
    before = cupynn.default_device()
    try:
        return cli.main(["train", *shlex.split(arguments)])
    finally:
        cupynn.set_default_device(before)


def scalars(run):
    """{tag: {step: value}}; a step that is there twice is an error."""
    found = {}
    for file in sorted((run / "events" / "model").iterdir()):
        data, start = file.read_bytes(), 0
        while start < len(data):
            length = int.from_bytes(data[start : start + 8], "little")
            event = Event.FromString(data[start + 12 : start + 12 + length])
            start += 16 + length
            for value in event.summary.value:
                assert event.step not in found.setdefault(value.tag, {}), f"{value.tag} has step {event.step} twice"
                found[value.tag][event.step] = value.simple_value
        assert start == len(data)
    return found


def same_weights(one, other):
    (ours, _), (theirs, _) = (load_state(path / "model.safetensors") for path in (one, other))
    return all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped, with events."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(f"{RECIPE} --tensorboard 4 --run {folder}") == 0
    return folder


def test_the_same_bits_with_and_without(tmp_path, whole):
    assert train(f"{RECIPE} --run {tmp_path / 'run'}") == 0
    assert same_weights(tmp_path / "run", whole)
    assert not (tmp_path / "run" / "events").exists()
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    without = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["test_loss"] for r in records] == [r["test_loss"] for r in without]

    found = scalars(whole)
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "images_per_second"):
        assert found[f"epoch/{name}"] == {r["epoch"]: float(np.float32(r[name])) for r in records}
    assert list(found["step/train_loss"]) == list(range(4, 3 * STEPS + 1, 4))
    assert found["step/lr"][4] > found["step/lr"][44] > 0
    assert len(found) == 9


DRIVER = """
import os, signal, sys
from cupynn import cli
from cupynn.train.evaluation import RunningScore
import tensorboardX
steps, in_a_write = int(sys.argv[1]), sys.argv[2] == "write"
add, write = RunningScore.add, tensorboardX.RecordWriter.write

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def counted(self, *arguments):
    global steps
    steps -= 1
    if steps == 0 and not in_a_write:
        die()
    add(self, *arguments)

def half(self, data):
    if steps <= 0 and in_a_write:
        self._writer.write(data[: len(data) // 2])
        self.flush()
        die()
    write(self, data)

RunningScore.add, tensorboardX.RecordWriter.write = counted, half
sys.exit(cli.main(["train", *sys.argv[3:]]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_every_step_is_there_once(tmp_path, seed):
    """Every second kill is in the middle of the write of an event."""
    print(f"seed {seed}")
    moments = random.Random(seed)
    folder = tmp_path / "run"
    kernels = "reference" if mode() == "reference" else "compiled"  # under the checker it would take minutes

    def run(words, kill_after, where):
        command = [sys.executable, "-c", DRIVER, str(kill_after), where, *shlex.split(words)]
        environment = {**os.environ, "CUPYNN_KERNELS": kernels}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert answer.returncode in (0, -signal.SIGKILL), answer.stderr
        return answer.returncode

    words = f"{RECIPE} --tensorboard 4 --checkpoint-steps 5"
    kills = 0
    status = run(f"{words} --run {folder}", 9, "step")
    while status:
        kills += 1
        status = run(f"--resume {folder}", moments.randint(7, 20), "write" if kills % 2 else "step")
    assert kills >= 3 and len(list((folder / "events" / "model").iterdir())) >= 3
    reference = tmp_path / "reference"
    assert run(f"{words} --run {reference}", 1000, "step") == 0
    assert same_weights(folder, reference)
    ours, theirs = scalars(folder), scalars(reference)
    for tag in theirs:
        assert list(ours[tag]) == list(theirs[tag]), tag
        if not tag.endswith(("seconds", "images_per_second")):
            assert ours[tag] == theirs[tag], tag


def test_what_is_refused_is_refused_before_anything_is_made(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert train(f"{RECIPE} --tensorboard 0 --run {run}") == 2
    assert "every must be at least 1 step; got 0" in capsys.readouterr().err

    def missing(*arguments, **options):
        raise ModuleNotFoundError("events: needs tensorboardX: pip install 'cupynn[tensorboard]'")

    monkeypatch.setattr(events_module.Events, "__init__", missing)
    assert train(f"{RECIPE} --tensorboard --run {run}") == 1
    assert capsys.readouterr().err == "cupynn: error: events: needs tensorboardX: pip install 'cupynn[tensorboard]'\n"
    assert not run.exists()
