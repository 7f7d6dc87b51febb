"""`cupynn profile` on a tiny network: what it prints and writes, and what it refuses."""

import json
import re

import pytest

import cupynn
from cupynn import cli
from cupynn.kernels import runtime
from cupynn.profile.measure import CATEGORIES

TINY = "smallnet --option kernel_size=5 --image 16 --batch 3 --steps 1 --device cpu".split()


def called(*words):
    before = cupynn.default_device()
    try:
        return cli.main(["profile", *words])
    except SystemExit as stop:  # argparse's way out
        return stop.code
    finally:
        cupynn.set_default_device(before)


def test_a_training_step(tmp_path, capsys):
    traced, figures = tmp_path / "step.json", tmp_path / "figures.json"
    assert called(*TINY, "--trace", str(traced), "--json", str(figures)) in (0, None)
    printed = capsys.readouterr().out
    assert printed.startswith("smallnet, training, batch 3, images 3x16x16, float32, on cpu, threads: ")
    found = json.loads(figures.read_text())
    for name in CATEGORIES:
        share = found["categories"][name] / found["seconds"]
        assert re.search(rf"^{name} +[\d.]+ +{re.escape(f'{share:.1%}')}$", printed, re.M), (name, printed)
    assert re.search(r"^[\d.]+ ms a step, median of 1 \([\d.]+ ms where nobody watched\), 14 records$", printed, re.M)
    assert re.search(r"us a record here, between kernels that take the caches; [\d.]+ us in a chain", printed)
    assert found["records"] == 14 and found["saved_bytes"] > 0 and found["peak_bytes"] > 0
    assert found["python_per_record_of_a_chain"] > 0
    rows = {(row["name"], row["which"]): row for row in found["operations"]}
    assert set(rows["Conv2d", "forward"]["layers"]) <= {"0", "4", "8"}
    seconds = [row["seconds"] for row in found["operations"]]
    assert seconds == sorted(seconds, reverse=True)
    kernels = {row["name"]: row for row in found["kernels"]}
    for name, row in kernels.items():
        assert re.search(rf"^{name} +{row['launches']} ", printed, re.M), printed
    if runtime.mode() == "compiled":
        assert {"batch_norm.cu", "pool.cu", "cross_entropy.cu", "sgd.cu", "matrix products"} <= set(kernels)
        for row in kernels.values():  # its passes' floors, each the longer of two, add up to no less than either sum
            moved, computed = row["bytes"], row["operations"]
            ceilings = found["ceilings"]
            least = max(moved / ceilings["bytes_per_second"], computed / ceilings["operations_per_second"])
            assert 0 < least <= row["floor"] * (1 + 1e-9)
    else:
        assert found["ceilings"] is None and "ceilings" not in printed
    events = json.loads(traced.read_text())["traceEvents"]
    assert events[0]["args"]["name"] == "cupynn: smallnet, training, batch 3, images 3x16x16"


def test_inference(capsys):
    assert called(*TINY, "--inference") in (0, None)
    printed = capsys.readouterr().out
    assert printed.startswith("smallnet, inference, batch 3") and " backward " not in printed
    assert "saved for backward" not in printed and "SGD" not in printed


def test_a_network_of_the_catalogue(capsys):
    assert called("CIFAR ResNet-20 (option A)/10", *"--image 8 --batch 2 --steps 1 --device cpu".split()) in (0, None)
    printed = capsys.readouterr().out
    assert "layer1.0.conv1 +" in printed or "+5" in printed  # rows of one shape have many layers
    assert re.search(r"^and \d+ more, [\d.]+ ms together", printed, re.M)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("", 2, "the following arguments are required: NETWORK"),
        ("bignet", 2, "there is no network 'bignet'; there are"),
        ("smallnet --batch 0", 2, "--batch must be at least 1; got 0"),
        ("smallnet --steps 0", 2, "--steps must be at least 1; got 0"),
        ("smallnet --image 0", 2, "--image must be at least 1; got 0"),
        ("smallnet --option width=3", 2, "has no option 'width'"),
        ("smallnet --device tpu", 2, "tpu"),
        ("smallnet --trace nowhere/t.json", 1, "--trace nowhere/t.json: there is no folder nowhere"),
        ("smallnet --json nowhere/f.json", 1, "--json nowhere/f.json: there is no folder nowhere"),
    ],
)
def test_errors_are_one_line(arguments, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert called(*arguments.split()) == status
    error = capsys.readouterr().err
    assert message in error and error.startswith("cupynn") and error.count("\n") == 1


def test_help_says_what_is_measured(capsys):
    assert called("--help") == 0
    printed = capsys.readouterr().out
    for words in ("--trace FILE", "--inference", "examples:", "Nothing is written but the files that are asked for"):
        assert words in printed
