"""A run that is killed at random moments and goes on gives the bits of one that was never stopped."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cupynn.kernels.runtime import mode
from cupynn.serialization import load_state
from cupynn.train.checkpoints import read

pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")

TIMES = ("seconds", "images_per_second")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("threads", "seed"), [(1, 20261121), (2, 20261122)])
def test_killed_ten_times_and_the_same_bits(tmp_path, threads, seed):
    """With dropout, crops and flips, momentum, an expanded network; every third kill is in the middle of a write."""
    driver = pathlib.Path(__file__).with_name("resume_driver.py")
    kernels = "reference" if mode() == "reference" else "compiled"  # under the checker it would take minutes
    answer = subprocess.run(
        [sys.executable, driver, tmp_path, str(seed), "10"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "CUPYNN_KERNELS": kernels},
    )
    print(f"seed {seed}, {threads} threads:\n{answer.stdout}")  # shown where the test fails
    assert answer.returncode == 0, answer.stderr
    kills = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(kills) == 10 and sum(bool(kill["half"]) for kill in kills) >= 4

    runs = [run for run in sorted(tmp_path.glob("killed-*")) if (run / "config.json").exists()]
    assert runs
    for run in runs:
        assert_same_run(run, tmp_path / "whole")


def assert_same_run(killed: pathlib.Path, whole: pathlib.Path) -> None:
    for file in ("model.safetensors", "checkpoints/model-best.safetensors"):
        (ours, _), (theirs, _) = load_state(killed / file), load_state(whole / file)
        assert_same_arrays(ours, theirs)
    names = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (killed / "checkpoints").iterdir()) and len(names) == 3
    ours, theirs = (read(run / "checkpoints" / names[-1]) for run in (killed, whole))
    assert ours.generator == theirs.generator and ours.optimizer == theirs.optimizer
    assert any(name.startswith("velocity/") for name in ours.arrays)
    assert_same_arrays(ours.arrays, theirs.arrays)
    ours, theirs = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (killed, whole)
    )
    for record in ours + theirs:
        assert all(record.pop(name) > 0 for name in TIMES)
    assert ours == theirs and [record["epoch"] for record in ours] == [1, 2, 3]
    assert not [path for path in killed.rglob("*") if path.name.endswith(".part")]


def assert_same_arrays(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
