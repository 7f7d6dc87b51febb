"""Whole networks: that peers are the same networks, and what is made of times and memory."""

import json
import sys

import numpy as np
import pytest

from bench.networks import ask, child, main
from bench.networks.cases import CASES, batch_of
from bench.networks.summary import rows_of, summary


@pytest.mark.parametrize("name", CASES)
def test_peers_are_the_same_networks(name):
    pytest.importorskip("torch")
    answer = child.check(name, batch=4)
    assert answer["parameters"][0] == answer["parameters"][1]
    # float64 through up to 146 layers; 3e-12 was measured
    for key in ("evaluation", "contracted", "training", "gradient"):
        assert answer[key] < 1e-9, (key, answer)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].expanded])
def test_expanded_networks_contract_to_the_compact_one(name):
    from cupynn import contract

    def shapes(model):
        return {key: value.shape for key, value in model.state_dict().items()}

    assert shapes(contract(CASES[name].ours())) == shapes(CASES[name].compact().ours())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_rise_is_that_of_the_highest_moment():
    size = 64 * 2**20
    # besides the array only what Python takes meanwhile; the kernel counts pages in small lots
    assert abs(child.rise(lambda: np.ones(size // 8)) - size) < 2**22  # the array is freed at once
    assert child.rise(lambda: None) < 2**22


def test_what_cannot_be_measured_is_said():
    assert ask("time", "1", name="no such network", batch=2, rounds=1, libraries=["cupynn"]) == (
        "KeyError: 'no such network'"
    )
    assert ask("check", "1", 0.01, name="SmallNet-7", batch=2) == "not done in 0.01 s"
    with pytest.raises(SystemExit):
        main(["--networks", "SmallNet-7,no such network"])


def figures(seconds: dict, memory: dict, **more) -> dict:
    ratios = {library: seconds["cupynn"] / value for library, value in seconds.items() if library != "cupynn"}
    times = {"seconds": seconds, "ratios": ratios}
    memory = {library: value if isinstance(value, str) else {"bytes": value} for library, value in memory.items()}
    return {"training": times, "inference": times, "parameters": 7, "memory": memory, "shares": {}, **more}


def test_rows_and_summary():
    measured = {
        "DelugeNet-146": figures({"cupynn": 0.5, "eager": 1.0}, {"cupynn": 2**20, "eager": 2**22}, compile="too long"),
        "SeqResNet": figures({"cupynn": 0.5, "eager": 0.25, "compile": 1.0}, {"cupynn": 2**20, "eager": "killed"}),
        "ResNet-20": {"failed": "out of memory"},
    }
    rows = rows_of(measured, batch=100)
    deluge, seq, failed = rows["training"]
    assert deluge | {"of eager": 0.5, "compiled ms": "-", "of compiled": "-", "note": "compiled: too long"} == deluge
    assert deluge | {"cupynn ms": 500.0, "images/s": 200, "MiB": 1.0, "eager MiB": 4.0, "of eager's": 0.25} == deluge
    assert seq | {"of eager": 2.0, "of compiled": 0.5, "eager MiB": "-"} == seq and "of eager's" not in seq
    assert failed == {"network": "ResNet-20", "note": "not timed: out of memory"}
    assert len(rows["inference"]) == len(rows["shares"]) == 2
    lines = summary(rows)
    assert lines[0] == "a training step, of PyTorch eager: geometric mean 1 of 2 networks, worst 2 (SeqResNet)"
    assert lines[1].startswith("a training step, of PyTorch compiled: geometric mean 0.5 of 1 networks")
    assert "DelugeNet, a training step: of eager 0.5, memory 0.25" in lines
    json.dumps(rows)


def test_batches_are_the_same_each_time():
    (images, labels), (again, same) = batch_of(5), batch_of(5)
    assert images.shape == (5, 3, 32, 32) and images.dtype == np.float32
    assert (images == again).all() and (labels == same).all()
