"""`cupynn train` on several ranks."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from launching import process_numbers, start, wait_for
from safetensors.numpy import load_file

pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")

PROGRAM = str(pathlib.Path(__file__).with_name("train_ranks.py"))
RECIPE = "train tiny --data digits8x8 --batch-size 64 --crop 1 --flip --seed 5 --device cpu"


def train(size, arguments, folder):
    process = start(size, PROGRAM, str(folder), *arguments.split())
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def epochs_done(run):
    """The checkpoints that come after the first epoch."""
    names = sorted(path.name for path in run.glob("checkpoints/model-epoch*.safetensors"))
    return [name for name in names if name >= "model-epoch0001"]


def weights(run):
    return load_file(run / "model.safetensors")


def metrics(run):
    """Without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def test_four_ranks_train_as_one_process_and_write_once(tmp_path):
    """Float32, 46 steps: rounding in another order, carried on. Rank 0 alone writes and prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, PROGRAM, str(tmp_path), *f"{RECIPE} --epochs 2 --run {tmp_path / 'one'}".split()]
    assert subprocess.run(alone, env=environment, capture_output=True).returncode == 0
    status, output = train(4, f"{RECIPE} --epochs 2 --synchronise-batch-norm --run {tmp_path / 'four'}", tmp_path)
    assert status == 0, output
    assert output.count("epoch 2/2") == 1 and output.count("test accuracy") == 1 and "killed" not in output
    expected = weights(tmp_path / "one")
    for name, array in weights(tmp_path / "four").items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-4, err_msg=name)
    for one, four in zip(metrics(tmp_path / "one"), metrics(tmp_path / "four"), strict=True):
        assert four["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=0.01)
        assert four["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    config = json.loads((tmp_path / "four" / "config.json").read_text())
    assert config["environment"]["ranks"] == 4


def test_two_ranks_train_in_float16_as_one_process(tmp_path):
    """23 steps; the sums of ranks and what is rounded to float16 differ by its 2^-11, carried on."""
    recipe = f"{RECIPE} --epochs 1 --lr 0.01 --synchronise-batch-norm --precision float16"
    for size, name in ((1, "one"), (2, "two")):
        status, output = train(size, f"{recipe} --run {tmp_path / name}", tmp_path)
        assert status == 0, output
    expected = weights(tmp_path / "one")
    for name, array in weights(tmp_path / "two").items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=0.02, err_msg=name)
    (one,), (two,) = (metrics(tmp_path / name) for name in ("one", "two"))
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=23 * 2.0**-11)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, rank):
    """With dropout, and batch norm by each rank's own statistics."""
    recipe = f"{RECIPE} --epochs 5 --option dropout=0.4 --checkpoint-steps 3 --clip-norm 2"
    status, output = train(2, f"{recipe} --run {tmp_path / 'whole'}", tmp_path)
    assert status == 0, output

    run = tmp_path / "killed"
    (tmp_path / "processes").mkdir()  # of this run
    process = start(2, PROGRAM, str(tmp_path / "processes"), *f"{recipe} --run {run}".split())
    processes = process_numbers(process, tmp_path / "processes", 2)
    wait_for(process, lambda: epochs_done(run))
    os.kill(processes[rank], signal.SIGKILL)
    output, _ = process.communicate(timeout=20)
    assert process.returncode != 0 and re.search("killed|signal 9", output, re.IGNORECASE), output
    assert epochs_done(run)
    (words,) = re.findall(r"^cupynn: one of 2 ranks failed or was killed, .*", output, re.MULTILINE)
    assert f"(processes, by rank: {', '.join(map(str, processes))})" in words
    assert f"; the last checkpoint is {run / 'checkpoints' / epochs_done(run)[-1]}; mpiexec -n 2 python " in words
    assert words.endswith(f" -m cupynn train --resume {run} goes on")

    status, output = train(2, f"train --resume {run}", tmp_path)
    assert status == 0 and "going on after" in output, output
    assert "bits may differ" not in output
    expected = weights(tmp_path / "whole")
    assert all(np.array_equal(array, expected[name]) for name, array in weights(run).items())
    assert metrics(run) == metrics(tmp_path / "whole")


def test_a_stopped_run_leaves_a_checkpoint_of_all_ranks(tmp_path):
    run = tmp_path / "run"
    process = start(2, PROGRAM, str(tmp_path), *f"{RECIPE} --epochs 500 --run {run}".split())
    processes = process_numbers(process, tmp_path, 2)
    wait_for(process, lambda: epochs_done(run))
    os.kill(processes[1], signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert output.count("cupynn: stopped in epoch") == 1 and "killed" not in output, output
    assert f"; mpiexec -n 2 python -m mpi4py -m cupynn train --resume {run} goes on" in output


def test_a_loss_that_is_lost_ends_all_ranks_with_the_layer(tmp_path):
    run = tmp_path / "run"
    status, output = train(2, f"{RECIPE} --lr 1e30 --synchronise-batch-norm --run {run}", tmp_path)
    assert status == 1 and "cupynn: error: fit: the loss became" in output, output
    assert "the last good checkpoint is" in output


def test_a_batch_that_cannot_be_shared_is_an_error(tmp_path):
    status, output = train(2, f"{RECIPE} --batch-size 63 --run {tmp_path / 'run'}", tmp_path)
    assert status == 1 and "2 ranks share a batch, so batch_size must be a multiple; got 63" in output, output
