"""Settings from tables of JSON or TOML, and parameter groups on their way through a run."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

import cupynn
from cupynn import nn
from cupynn.data import ArrayDataset
from cupynn.optim import Group
from cupynn.train import RunFolder, Settings, fit, read_config
from cupynn.train.checkpoints import Checkpoints, read

WHE = Group(layers=("WHE",), weight_decay=((0, 1e-6), (2, 1e-5), (3, 1e-4)))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(lr=np.float32(0.5), epochs=np.int64(3), teacher=pathlib.Path("runs", "a"), frozen=["a", "b"]),
        Settings(schedule="multistep", milestones=[1, 2.5], groups=[WHE]),
        Settings(schedule="multistep", milestones=(1, 2.5), warm_up=0.5, decay_biases=False),
        Settings(groups=(WHE, Group(names=("*.bias",), lr=2, weight_decay=0.5), Group(names=("head.*", "fc")))),
    ],
)
def test_settings_survive_json(settings):
    assert Settings.from_table(json.loads(json.dumps(dataclasses.asdict(settings)))) == settings


def test_a_toml_table():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer")
    table = tomllib.loads("""
        epochs = 120
        lr = 1
        schedule = "multistep"
        milestones = [60, 90]
        [[groups]]
        layers = ["WHE"]
        weight_decay = [[0, 1e-6], [80, 1e-5], [110, 1e-4]]
    """)
    whe = Group(layers=("WHE",), weight_decay=((0, 1e-6), (80, 1e-5), (110, 1e-4)))
    settings = Settings.from_table(table)
    assert settings == Settings(epochs=120, lr=1.0, schedule="multistep", milestones=(60, 90), groups=(whe,))
    assert type(settings.lr) is float


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lrr": 1}, "Settings: there is no 'lrr'; there are epochs, batch_size, lr, "),
        ({"lr": "0.1"}, "Settings: lr must be a number; got '0.1'"),
        ({"lr": True}, "Settings: lr must be a number; got True"),
        ({"epochs": 1.5}, "Settings: epochs must be a whole number; got 1.5"),
        ({"flip": 1}, "Settings: flip must be true or false; got 1"),
        ({"schedule": 3}, "Settings: schedule must be text; got 3"),
        ({"milestones": [1, "a"]}, r"Settings: milestones\[1\] must be a number; got 'a'"),
        ({"groups": {"names": ["x"]}}, "Settings: groups must be an array"),
        ({"groups": [{"layer": ["x"]}]}, r"Settings: groups\[0\]: there is no 'layer'; there are layers, names, lr, "),
        ({"groups": [{"names": "x"}]}, r"Settings: groups\[0\]: names must be an array; got 'x'"),
        ({"groups": [{}]}, "Group: needs layers or names"),
        ({"epochs": 0}, "Settings: epochs must be at least 1"),
        ([1], "Settings: expected a table of settings"),
    ],
)
def test_tables_that_are_no_settings(table, message):
    with pytest.raises(ValueError, match=message):
        Settings.from_table(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": math.inf}, "momentum must be finite; got inf"),
        ({"weight_decay": math.inf}, "weight_decay must be finite; got inf"),
        ({"milestone_factor": math.inf}, "milestone_factor must be finite; got inf"),
        ({"warm_up_from": math.inf}, "warm_up_from must be finite; got inf"),
        ({"lighting": math.inf}, "lighting must be finite; got inf"),
        ({"schedule": "multistep", "milestones": [-3]}, "milestones are epochs, at least 0 and finite; got"),
        ({"schedule": "linear", "milestones": [math.nan]}, "milestones are epochs, at least 0 and finite; got"),
        ({"clip_norm": -1}, "clip_norm must be at least 0"),
        ({"label_smoothing": 1.1}, "label_smoothing must be at most 1"),
        ({"keep": -1}, "keep must be at least 0"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds must be at least 0"),
        ({"warm_up": 10}, "warm_up must be >= 0 and less than epochs"),
        ({"workers": -1}, "workers must be at least 0"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_groups_follow_their_epochs_in_a_run(tmp_path):
    """WHE's weight decay by epoch, biases without any, in what each checkpoint says of the optimiser."""
    cupynn.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.WHEBlock(4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
    images = ArrayDataset(pixels, rng.integers(0, 3, 20), tuple("abc"), "noise train", (0.5,), (0.25,))
    settings = Settings(epochs=4, batch_size=10, schedule="constant", decay_biases=False, groups=(WHE,), keep=9)
    fit(model, images, images, settings, RunFolder(tmp_path), quiet=True)
    first, *rest = [read(path).optimizer for path in Checkpoints(tmp_path).files()]
    assert len(rest) == 4 and len(first) == 3
    assert [[group["weight_decay"] for group in groups] for groups in rest] == [
        [5e-4, 0, 1e-6],
        [5e-4, 0, 1e-6],
        [5e-4, 0, 1e-5],
        [5e-4, 0, 1e-4],
    ]
    assert Settings.from_table(read_config(tmp_path)["settings"]) == settings


def test_a_warm_up_reaches_the_optimiser_batch_by_batch(tmp_path, monkeypatch):
    cupynn.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    pixels = np.zeros((40, 1, 4, 4), np.uint8)
    images = ArrayDataset(pixels, np.arange(40) % 3, tuple("abc"), "nothing train", (0.5,), (0.25,))
    seen = []
    step = cupynn.optim.SGD.step

    def look(self, **options):
        seen.append(self.param_groups[0]["lr"])
        step(self, **options)

    monkeypatch.setattr(cupynn.optim.SGD, "step", look)
    settings = Settings(epochs=2, batch_size=10, lr=0.5, schedule="constant", warm_up=1, warm_up_from=0.2, keep=0)
    fit(model, images, images, settings, RunFolder(tmp_path), quiet=True)
    np.testing.assert_allclose(seen, [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5], rtol=1e-15)


@pytest.mark.parametrize(("name", "value"), [("temperature", 0), ("teacher_weight", 1.5), ("product_decay", -1)])
def test_transfer_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"Settings: {name} must be"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(lighting=0.1), "Lighting: images must have shape"),
        (Settings(product_decay=0.1), "product_norm: Sequential has no ExpandedConv2d"),
        (Settings(frozen=("1",)), r"fit: Sequential has no parameter to train; frozen is \('1',\)"),
    ],
)
def test_settings_that_do_not_fit_leave_the_folder_as_it_was(tmp_path, settings, message):
    """So that the same folder can be named again."""
    pixels = np.zeros((4, 1, 2, 2), np.uint8)
    images = ArrayDataset(pixels, np.zeros(4, np.int64), ("0", "1"), "black", (0.5,), (0.5,))
    with pytest.raises(ValueError, match=message):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), images, images, settings, RunFolder(tmp_path), quiet=True)
    assert list(tmp_path.iterdir()) == []
