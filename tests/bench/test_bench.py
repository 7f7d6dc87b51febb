"""The benchmarks run, take turns and compute what they print. No time is asserted."""

import json
import pathlib
import subprocess
import sys

import pytest

from bench.__main__ import BENCHES
from bench.floors import Ceilings
from bench.report import table
from bench.timing import Times, take_turns
from cupynn.kernels import runtime

ROOT = pathlib.Path(__file__).parents[2]


# What keeps a benchmark of many networks short.
SHORT = {"networks": ["--networks", "SmallNet-7,SmallNet-7+CK+FC r=2,ResNet-20+WHE"]}


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_contenders_take_turns_in_rotating_order():
    calls = []
    times = take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, warm_up=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert [len(t.seconds) for t in times.values()] == [3, 3, 3]


def test_the_ratio_is_taken_within_rounds():
    # the machine slows down tenfold in the last round: both medians move, the ratio does not
    ours, theirs = Times([1.0, 1.0, 10.0]), Times([2.0, 2.0, 20.0])
    assert ours.over(theirs) == 0.5
    assert ours.median == 1.0


def test_the_floor_is_the_longer_of_the_two():
    ceilings = Ceilings(bytes_per_second=10.0, operations_per_second=100.0)
    assert ceilings.seconds((20, 100)) == 2.0
    assert ceilings.seconds((20, 400)) == 4.0


def test_tables_align_and_leave_gaps():
    text = table([{"name": "a", "ms": 1.23456}, {"name": "long name", "ms": 123.4, "ratio": 0.5}], "Title")
    assert text.splitlines() == [
        "Title",
        "",
        "name         ms  ratio",
        "a          1.23       ",
        "long name   123    0.5",
    ]


def test_without_a_name_it_lists_the_benchmarks():
    listed = run()
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in BENCHES)
    assert run("nonsense").returncode == 2


@pytest.mark.parametrize("name", BENCHES)
def test_every_benchmark_runs_and_writes_json(name, tmp_path):
    if runtime.mode() != "compiled":
        pytest.skip("ceilings are measured by compiled kernels")
    path = tmp_path / "figures.json"
    done = run(name, "--rounds", "2", "--batch", "2", "--json", str(path), *SHORT.get(name, []))
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())
    assert figures["bench"] == name and figures["machine"]["threads"] >= 1
    assert len(figures["rows"]) >= 3
    assert all(value > 0 for row in figures["rows"] for value in row.values() if isinstance(value, float))
