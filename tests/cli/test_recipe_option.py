"""cupynn train --recipe, in this process, on tiny fake data sets."""

import dataclasses
import json
import shlex

import numpy as np
import pytest

from cupynn import cli
from cupynn.data import CentreCrop, ColourJitter, Lighting, RandomResizedCrop, cifar, loader
from cupynn.optim import Group
from cupynn.serialization import load_state
from cupynn.train import Settings, recipes

IMAGES = 8


@pytest.fixture
def run(command):
    """A function that runs `cupynn train ARGUMENTS` and gives its status, what it printed, and its errors."""
    return lambda arguments: command("train", *shlex.split(arguments))


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """A folder with the binary version of a CIFAR-100 of a few images."""
    counts = dict.fromkeys(cifar.CIFAR100.images_per_file, IMAGES)
    monkeypatch.setattr(cifar, "CIFAR100", dataclasses.replace(cifar.CIFAR100, images_per_file=counts))
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    generator = np.random.default_rng(5)
    for part in ("train", "test"):
        generator.integers(0, 100, (IMAGES, 2 + 3072), dtype=np.uint8).tofile(folder / f"{part}.bin")
    (folder / "fine_label_names.txt").write_text("".join(f"class_{number}\n" for number in range(100)))
    return folder


def config(folder):
    return json.loads((folder / "config.json").read_text())


def settings(folder):
    return Settings.from_table(config(folder)["settings"])


def test_a_recipe_is_trained_for_an_epoch(tmp_path, run, cifar100):
    status, _, errors = run(f"--recipe whe/resnet20_cifar100 --data {cifar100} --epochs 1 --run {tmp_path / 'run'}")
    assert status == 0, errors
    stored, recipe = config(tmp_path / "run"), recipes.read("whe/resnet20_cifar100")
    assert stored["recipe"] == "whe/resnet20_cifar100"
    assert settings(tmp_path / "run") == dataclasses.replace(recipe.settings, epochs=1)
    assert stored["data"]["load"] == {
        "folder": str(cifar100),
        **json.loads(json.dumps(dataclasses.asdict(recipe.data))),
    }
    creation = stored["networks"]["model"]
    assert creation["name"] == "cifar_resnet"
    assert creation["options"] == {**recipe.options, "classes": 100, "in_channels": 3}
    # all of it went on: there is nothing left to do
    status, printed, errors = run(f"--resume {tmp_path / 'run'}")
    assert status == 0 and "going on after 1 epochs of 1" in printed, errors


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("--lr 0.2 --no-flip --crop 2", {"lr": 0.2, "flip": False, "crop": 2}),
        ("--milestones 1 2", {"milestones": (1.0, 2.0)}),
        ("--schedule cosine", {"schedule": "cosine", "milestones": ()}),
        ("--schedule multistep", {}),
        ("--option whe=None --groups '[]'", {"groups": ()}),
        (
            """--groups '[{names = ["fc.*"], lr = 2}]'""",
            {"groups": (Group(names=("fc.*",), lr=2.0),)},
        ),
    ],
)
def test_the_command_line_replaces_settings(tmp_path, run, cifar100, options, changes):
    words = f"--recipe whe/resnet20_cifar100 --data {cifar100} --epochs 1 --keep 0 {options} --run {tmp_path / 'run'}"
    status, _, errors = run(words)
    assert status == 0, errors
    wanted = recipes.read("whe/resnet20_cifar100").settings
    assert settings(tmp_path / "run") == dataclasses.replace(wanted, epochs=1, keep=0, **changes)


def test_the_command_line_replaces_network_and_data(tmp_path, run, cifar100):
    words = f"--recipe expandnets/smallnet_cifar10 --data cifar100 --data-dir {cifar100} --epochs 1 --keep 0"
    status, _, errors = run(f"{words} --expand cl --option kernel_size=3 --label-noise 0.5 --run {tmp_path / 'cl'}")
    assert status == 0, errors
    stored = config(tmp_path / "cl")
    options = stored["networks"]["model"]["options"]
    assert (options["expand"], options["kernel_size"], options["classes"]) == ("cl", 3, 100)
    load = stored["data"]["load"]  # CIFAR-10's mean and deviation stay behind
    assert (load["name"], load["mean"], load["std"], load["label_noise"]) == ("cifar100", [], [], 0.5)
    status, _, errors = run(f"{words} --option expand=None --mean 0.5 0.5 0.5 --std 1 1 1 --run {tmp_path / 'plain'}")
    assert status == 0, errors
    stored = config(tmp_path / "plain")
    assert "expand" not in stored["networks"]["model"]["options"]
    assert stored["data"]["load"]["mean"] == [0.5] * 3
    status, _, errors = run(f"{words} smallnet --run {tmp_path / 'other'}")  # MODEL comes without the recipe's options
    assert status == 0, errors
    assert "expand" not in config(tmp_path / "other")["networks"]["model"]["options"]
    words = f"smallnet --recipe whe/resnet18_imagenet --data cifar100 --data-dir {cifar100} --groups '[]' --epochs 1"
    status, _, errors = run(f"{words} --run {tmp_path / 'unframed'}")  # photographs' framing stays behind too
    assert status == 0, errors


OWN = """
source = "ours"
[network]
name = "smallnet"
kernel_size = 3
[data]
name = "imagefolder"
framing = "random-resized-crop"
size = 24
shorter_edge = 26
mean = [0.4, 0.5, 0.6]
std = [0.3, 0.2, 0.1]
label_noise = 0.5
[settings]
epochs = 2
batch_size = 4
colour_jitter = 0.4
lighting = 0.1
"""


def test_a_file_of_ones_own_is_trained_and_resumed_to_the_same_bits(tmp_path, run, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(6)
    for number in range(12):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        file = tmp_path / "images" / ("val" if number < 4 else "train") / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(file)
    (tmp_path / "own.toml").write_text(OWN)
    seen = []
    batches = loader.batches

    def watched(dataset, *args, **kwargs):
        seen.append((dataset, kwargs.get("transform") or []))
        return batches(dataset, *args, **kwargs)

    for module in ("loop", "evaluation"):
        monkeypatch.setattr(f"cupynn.train.{module}.batches", watched)
    status, _, errors = run(f"--recipe {tmp_path / 'own.toml'} --data {tmp_path / 'images'} --run {tmp_path / 'run'}")
    assert status == 0, errors
    assert config(tmp_path / "run")["recipe"] == str(tmp_path / "own.toml")
    (train, transforms), (test, _) = seen[0], seen[-1]
    assert transforms == [ColourJitter(0.4, 0.4, 0.4), Lighting(0.1)]
    assert train.framing == RandomResizedCrop(24) and test.framing == CentreCrop(24, 26)
    assert train.mean == test.mean == (0.4, 0.5, 0.6) and train.std == test.std == (0.3, 0.2, 0.1)
    true = np.array([file.startswith("train/b") for file in train.files])
    assert (train.labels != true).any(), "half of the labels are random"
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json"]) == 0  # the same images, so the same figures
    score = json.loads(capsys.readouterr().out)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (score["loss"], score["accuracy"]) == (last["test_loss"], last["test_accuracy"])
    again = tmp_path / "again"
    again.mkdir()
    (again / "config.json").write_bytes((tmp_path / "run" / "config.json").read_bytes())  # killed before a checkpoint
    status, _, errors = run(f"--resume {again}")
    assert status == 0, errors
    (ours, _), (theirs, _) = (load_state(folder / "model.safetensors") for folder in (again, tmp_path / "run"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_runs_from_before_there_were_recipes_go_on(tmp_path, run, cifar100):
    words = f"smallnet --data cifar100 --data-dir {cifar100} --epochs 1"
    assert run(f"{words} --run {tmp_path / 'run'}")[0] == 0
    stored = config(tmp_path / "run")
    assert "recipe" not in stored
    stored["data"]["load"] = {key: stored["data"]["load"][key] for key in ("name", "folder", "pad_to")}
    for name in ("colour_jitter", "lighting"):
        del stored["settings"][name]
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    status, printed, errors = run(f"--resume {tmp_path / 'run'}")
    assert status == 0 and "going on after 1 epochs of 1" in printed, errors


def test_the_list(run):
    status, printed, _ = run("--recipe list")
    head, *rows = printed.splitlines()
    assert status == 0 and head.split() == ["recipe", "network", "data", "source"]
    assert [row.split()[0] for row in rows] == recipes.names()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            "--recipe whe/resnet21",
            2,
            "there is no recipe 'whe/resnet21'; a file of your own ends in .toml; there are whe/",
        ),
        ("--recipe NOWHERE.toml", 2, "NOWHERE.toml: there is no such file"),
        ("--recipe BAD", 2, "bad.toml: [settings]: there is no 'lrr'; there are epochs, "),
        ("--recipe whe/resnet20_cifar100", 2, "whe/resnet20_cifar100: cifar100 is read from a folder; pass --data DIR"),
        (
            "--recipe whe/resnet20_cifar100 --data NOWHERE",
            2,
            "--data NOWHERE is neither a folder nor a data set; there ",
        ),
        ("--recipe whe/resnet20_cifar100 --data FOLDER --data-dir FOLDER", 2, "are two folders"),
        ("--recipe whe/resnet20_cifar100 --data FOLDER", 1, "cifar100: "),
        ("--recipe whe/resnet20_cifar100 --data FOLDER --lr 0", 2, "lr must be above 0 and finite; got 0.0"),
        (
            "--recipe whe/resnet20_cifar100 --data FOLDER --groups '[{x = 1}]'",
            2,
            "groups[0]: there is no 'x'; there are ",
        ),
        (
            "--recipe whe/resnet20_cifar100 --data FOLDER --size 9",
            2,
            "size and shorter_edge belong together; there is no ",
        ),
        (
            "--recipe whe/resnet18_imagenet --data FOLDER --size 300",
            2,
            "size must be at least 1 and at most shorter_edge",
        ),
        (
            "--recipe whe/resnet18_imagenet --data cifar100 --data-dir FOLDER --size 9",
            2,
            "belong together; there is no ",
        ),
        (
            "--recipe whe/resnet20_cifar100 --data FOLDER --framing shorter-edge-crop --size 8 --shorter-edge 9",
            2,
            "framing is for image files, tinyimagenet and imagefolder; name is 'cifar100'",
        ),
        ("--resume FOLDER --recipe list", 2, "--resume takes all settings from the run; --recipe cannot be given"),
        (
            "--resume FOLDER --size 3 --lr 1",
            2,
            "--resume takes all settings from the run; --size, --lr cannot be given",
        ),
    ],
)
def test_errors_are_one_line(tmp_path, run, arguments, status, message):
    (tmp_path / "bad.toml").write_text(OWN + "lrr = 1\n")
    (tmp_path / "folder").mkdir()
    places = {"BAD": tmp_path / "bad.toml", "FOLDER": tmp_path / "folder"}
    found, _, errors = run(shlex.join(str(places.get(word, word)) for word in shlex.split(arguments)))
    assert found == status, errors
    assert message in errors and errors.startswith("cupynn: error: ") and errors.count("\n") == 1


def test_groups_that_are_no_toml(run):
    status, _, errors = run("--recipe whe/resnet20_cifar100 --groups '[{'")
    assert status == 2 and "argument --groups: expected an array of TOML; got '[{'" in errors
