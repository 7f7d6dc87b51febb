"""cupynn runs: the table, its order and filters, the picture, and what is said of broken runs. Run in this process."""

import itertools
import json
import os
import re

import pytest

import cupynn
from cupynn import cli, models
from cupynn.train.comparison import find_runs

SETTINGS = {"epochs": 4, "lr": 0.1, "seed": 0, "groups": []}
LOAD = {"name": "digits", "folder": None, "pad_to": 32}


def write_run(folder, accuracies, network="model", settings=None, options=None, **more):
    """A run folder as `fit` leaves it, but for the weights; each epoch took 2 s at 1000 images/s."""
    folder.mkdir(parents=True, exist_ok=True)
    creation = {"name": "smallnet", "options": {"kernel_size": 5, "classes": 10, "in_channels": 1, **(options or {})}}
    config = {"settings": {**SETTINGS, **(settings or {})}, "data": {"load": LOAD, "name": "digits"}}
    config |= {"input_shape": [1, 32, 32], "networks": {network: creation}, **more}
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "metrics.jsonl", "a") as file:
        for epoch, accuracy in enumerate(accuracies, 1):
            figures = {"train_loss": 1 / epoch, "train_accuracy": accuracy, "test_loss": 2 / epoch}
            figures |= {"test_accuracy": accuracy, "seconds": 2.0, "images_per_second": 1000.0}
            file.write(json.dumps({"network": network, "epoch": epoch, **figures}) + "\n")
    return folder


@pytest.fixture
def some(tmp_path):
    """Three runs, two of them in a folder in between, and a folder that is none."""
    write_run(tmp_path / "plain", [0.5, 0.8, 0.7, 0.75], settings={"lr": 0.05})
    expanded = {"expand": "ck", "rate": 2, "composition": "kernel"}
    write_run(tmp_path / "sub" / "ck", [0.6, 0.9], options=expanded)
    write_run(tmp_path / "sub" / "slow", [], settings={"seed": 7, "workers": 2})
    (tmp_path / "pictures").mkdir()
    return tmp_path


@pytest.fixture
def run(command):
    return lambda *arguments: command("runs", *arguments)


def rows(run, *arguments):
    """The table's cells by run and column; blanks within a cell are single."""
    status, printed, errors = run(*arguments)
    assert status == 0, errors
    header, *lines = [line for line in printed.splitlines() if not line.startswith(("!", "curves"))]
    # a column is where the lines of the table have two blanks; a cell may be empty, so cut at the header's columns
    width = max(map(len, [header, *lines]))
    padded = [line.ljust(width) for line in [header, *lines]]
    blank = [all(line[at] == " " for line in padded) for at in range(width)]
    cuts = [0] + [at for at in range(2, width) if blank[at - 1] and blank[at - 2] and not blank[at]] + [width]
    cells = [[line[a:b].strip() for a, b in itertools.pairwise(cuts)] for line in padded]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}


def test_the_table(run, some):
    found = rows(run, some)
    assert list(found) == ["sub/ck", "plain", "sub/slow"]
    parameters = sum(p.size for p in models.create("smallnet", kernel_size=5, in_channels=1).parameters())
    wanted = {"network": "smallnet", "options": "kernel_size=5", "data": "digits 32x32", "settings": "lr=0.05 seed=0"}
    wanted |= {"epochs": "4/4", "best": "80.00%", "last": "75.00%", "test loss": "0.5000", "images/s": "1,000"}
    wanted |= {"seconds": "8.0", "parameters": f"{parameters:,}"}
    assert wanted.items() <= found["plain"].items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", found["plain"]["when"])
    assert found["sub/ck"]["options"] == "kernel_size=5 expand=ck rate=2"
    assert found["sub/ck"]["parameters"] != found["plain"]["parameters"]
    assert found["sub/ck"]["epochs"] == "2/4" and found["sub/slow"]["epochs"] == "0/4"
    assert found["sub/slow"]["settings"] == "lr=0.1 seed=7"
    assert [found["sub/slow"][column] for column in ("best", "last", "test loss", "images/s", "seconds")] == ["-"] * 5


def test_a_folder_that_is_a_run_and_settings_that_none_differ_in(run, some):
    found = rows(run, some / "plain")
    assert list(found) == ["plain"] and "settings" not in found["plain"]


def test_settings_of_the_data(run, tmp_path):
    """Where the data lies says nothing, but for folders of images."""
    for name, more in {"clean": {"folder": "/a"}, "noisy": {"folder": "/b", "label_noise": 0.2}, "old": {}}.items():
        write_run(tmp_path / "digits" / name, [0.5], data={"load": {**LOAD, **more}, "name": "digits"})
    found = rows(run, tmp_path / "digits")
    assert {name: row["settings"] for name, row in found.items()} == {
        "clean": "label_noise=0",
        "noisy": "label_noise=0.2",
        "old": "label_noise=0",
    }
    assert list(rows(run, tmp_path / "digits", "--filter", "label_noise=0.2")) == ["noisy"]
    for name in ("cats", "dogs"):
        load = {"name": "imagefolder", "folder": name, "framing": None, "mean": []}
        write_run(tmp_path / "folders" / name, [0.5], data={"load": load, "name": "imagefolder"})
    found = rows(run, tmp_path / "folders")
    assert {name: row["settings"] for name, row in found.items()} == {"cats": "folder=cats", "dogs": "folder=dogs"}


def test_sorting(run, some):
    for number, name in enumerate(("sub/slow", "plain", "sub/ck")):
        os.utime(some / name / "metrics.jsonl", (1_000_000 + number * 1000,) * 2)
    orders = {
        "run": ["plain", "sub/ck", "sub/slow"],
        "last": ["sub/ck", "plain", "sub/slow"],
        "loss": ["plain", "sub/ck", "sub/slow"],
        "seconds": ["sub/ck", "plain", "sub/slow"],
        "epochs": ["plain", "sub/ck", "sub/slow"],
        "when": ["sub/ck", "plain", "sub/slow"],
        "parameters": ["plain", "sub/slow", "sub/ck"],
    }
    for sort, order in orders.items():
        assert list(rows(run, some, "--sort", sort)) == order, sort


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["sub/"], ["sub/ck", "sub/slow"]),
        (["expand=ck"], ["sub/ck"]),
        (["lr=0.1"], ["sub/ck", "sub/slow"]),
        (["lr=0.1", "seed=7"], ["sub/slow"]),
        (["kernel_size=5", "PLAIN"], ["plain"]),
        (["momentum=0.9", "digits"], ["sub/ck", "plain", "sub/slow"]),  # the default where none is stored
    ],
)
def test_filters(run, some, words, names):
    assert list(rows(run, some, *(part for word in words for part in ("--filter", word)))) == names


def test_json_is_all_there_is(run, some):
    status, printed, _ = run(some, "--json", "--sort", "run")
    plain, expanded, empty = json.loads(printed)
    assert status == 0
    wanted = {"run": "plain", "path": str(some / "plain"), "network": "smallnet", "epochs": 4, "planned": 4}
    wanted |= {"best_accuracy": 0.8, "best_epoch": 2, "last_accuracy": 0.75, "test_loss": 0.5, "train_loss": 0.25}
    wanted |= {"images_per_second": 1000.0, "seconds": 8.0, "faults": []}
    assert wanted.items() <= plain.items()
    assert plain["settings"]["lr"] == 0.05 and expanded["options"]["rate"] == 2
    assert empty["best_accuracy"] is None and empty["seconds"] is None


def test_networks_side_by_side_and_runs_within_runs(run, some):
    write_run(some / "both", [0.5], network="plain")
    write_run(some / "both", [0.7], network="model", networks={"plain": None, "model": None})
    write_run(some / "both" / "inner", [0.1])
    for hidden in ("checkpoints", "events", ".cache"):
        write_run(some / "both" / hidden, [0.9])
    found = rows(run, some, "--filter", "both")
    assert list(found) == ["both:model", "both:plain", "both/inner"]
    assert [row["best"] for row in found.values()] == ["70.00%", "50.00%", "10.00%"]


def damage(folder):
    """Broken runs of every kind, and what is to be said of each."""
    made = {name: write_run(folder / name, [0.3, 0.4]) for name in ("cut", "line", "nulls", "config", "bytes", "list")}
    made |= {name: write_run(folder / name, [0.3, 0.4]) for name in ("lost", "types", "directory", "network")}
    metrics = {name: made[name] / "metrics.jsonl" for name in made}
    metrics["cut"].write_bytes(metrics["cut"].read_bytes()[:-30])
    metrics["line"].write_text('{"epoch": 1}\nnull\n' + metrics["line"].read_text() + "\x00\x00\n")
    metrics["nulls"].write_text('{"network": "model", "epoch": 1, "test_accuracy": null, "seconds": "long"}\n')
    (made["config"] / "config.json").write_text('{"settings": {')
    (made["bytes"] / "config.json").write_bytes(b"\xff\xfe\x00{")
    (made["list"] / "config.json").write_text("[1, 2]")
    (made["lost"] / "config.json").unlink()
    (made["types"] / "config.json").write_text(
        json.dumps({"settings": 3, "networks": {"model": [1]}, "data": [], "input_shape": 5})
    )
    metrics["directory"].unlink()
    metrics["directory"].mkdir()
    config = json.loads((made["network"] / "config.json").read_text())
    config["networks"]["model"]["name"] = "a network of tomorrow"
    config["settings"]["epochs"] = "many"
    (made["network"] / "config.json").write_text(json.dumps(config))
    return {
        "cut": ["line 2 of metrics.jsonl is half written"],
        "line": [f"line {number} of metrics.jsonl is damaged" for number in (1, 2, 5)],
        "config": ["config.json: expected JSON; "],
        "bytes": ["config.json: expected JSON; 'utf-8' codec"],
        "list": ["config.json holds no table"],
        "lost": ["it has no config.json"],
        "directory": ["metrics.jsonl cannot be read: "],
        "nulls": [],
        "types": [],
        "network": [],
    }


def test_broken_runs_are_shown_as_such(run, tmp_path):
    wanted = damage(tmp_path)
    write_run(tmp_path / "whole", [0.95])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"theme": "dark"}')
    found = rows(run, tmp_path)
    assert next(iter(found)) == "whole" and found["cut !"]["best"] == "30.00%"
    marked = {name + (" !" if faults else "") for name, faults in wanted.items()}
    assert set(found) == marked | {"whole"}
    _, printed, _ = run(tmp_path)
    told = [line for line in printed.splitlines() if line.startswith("!")]
    for name, faults in wanted.items():
        own = [line for line in told if line.startswith(f"! {name}: ")]
        assert len(own) == len(faults) and all(fault in line for fault, line in zip(faults, own, strict=True)), name
    assert {name: found[name]["best"] for name in ("line !", "config !", "nulls", "network")} == {
        "line !": "40.00%", "config !": "40.00%", "nulls": "-", "network": "40.00%",
    }  # fmt: skip
    assert found["network"]["parameters"] == "-" and found["network"]["epochs"] == "2/?"
    for sort in ("accuracy", "last", "loss", "speed", "seconds", "parameters", "epochs", "when", "run"):
        assert len(rows(run, tmp_path, "--sort", sort)) == len(found)
    assert len(json.loads(run(tmp_path, "--json")[1])) == len(found)


def test_every_byte_of_a_run_may_be_the_last(tmp_path):
    """Files cut at any place are read without an exception; what is left of metrics.jsonl counts."""
    folder = write_run(tmp_path / "run", [0.3, 0.4])
    config, metrics = (folder / name for name in ("config.json", "metrics.jsonl"))
    text = metrics.read_bytes()
    ends = [at for at in range(len(text)) if text[at : at + 1] == b"\n"]
    for size in range(len(text) + 1):
        metrics.write_bytes(text[:size])
        (summary,) = find_runs(tmp_path)
        assert summary.epochs == sum(end <= size for end in ends), size
        assert bool(summary.faults) == (size not in (0, *ends, *(end + 1 for end in ends)))
    text = config.read_bytes()
    for size in range(0, len(text), 3):
        config.write_bytes(text[:size])
        (summary,) = find_runs(tmp_path)
        assert summary.epochs == 2 and len(summary.faults) == 1


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_picture_has_every_run_and_names_the_first(run, tmp_path, count, dark):
    pytest.importorskip("matplotlib")
    for number in range(count):
        write_run(tmp_path / f"run{number:02}", [0.5, 0.5 + number / 100], settings={"seed": number})
    write_run(tmp_path / "empty", [])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    picture = tmp_path / "runs.svg"
    status, printed, errors = run(tmp_path, "--picture", picture, *["--dark"] * dark)
    assert status == 0, errors
    assert f"curves in {picture}" in printed
    svg = picture.read_text()
    texts = re.findall(r"<!-- (.*?) -->", svg)
    named = [text for text in texts if "%" in text and "run" in text and "accuracy" not in text]
    best_first = [f"run{number:02}" for number in reversed(range(count))][:12]
    assert [text.split()[-1] for text in named] == best_first
    assert ("28 more" in texts) == (count == 40)
    assert {"epochs", "Training loss", "Test accuracy", "mean cross-entropy per image (nats)"} <= set(texts)
    assert ("#15181d" in svg) == dark


def test_bad_use_is_one_line(run, some):
    cases = {
        (some / "pictures",): (1, "there is no run in"),
        (some / "nowhere",): (1, "there is no folder"),
        (some, "--filter", "lenet"): (1, "none of the 3 runs in"),
        (some, "--dark"): (2, "--dark is for --picture FILE"),
        (some, "--sort", "colour"): (2, "invalid choice: 'colour'"),
        (some, "--picture", some / "no" / "runs.png"): (1, "No such file"),
        (some, "--picture", some / "runs.xyz"): (1, "xyz"),
    }
    for arguments, (status, message) in cases.items():
        found, printed, errors = run(*arguments)
        assert found == status and message in errors and errors.count("\n") == 1 and not printed, arguments


def test_a_real_run(run, tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")
    before = cupynn.default_device()
    words = f"train smallnet --data digits8x8 --option kernel_size=5 --epochs 2 --device cpu --run {tmp_path / 'a'}"
    try:
        assert cli.main(words.split()) == 0
    finally:
        cupynn.set_default_device(before)
    last = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    capsys.readouterr()
    (record,) = json.loads(run(tmp_path, "--json")[1])
    assert record["last_accuracy"] == last["test_accuracy"] and record["test_loss"] == last["test_loss"]
    assert record["epochs"] == record["planned"] == 2 and record["data"] == "digits8x8 8x8" and not record["faults"]
    model = cupynn.load(tmp_path / "a" / "model.safetensors")
    assert record["parameters"] == sum(parameter.size for parameter in model.parameters())
