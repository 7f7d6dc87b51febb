"""The papers' recipes: each is whole, its rates and weight decays are the stated ones; and what is no recipe."""

import fnmatch
import math

import numpy as np
import pytest

from cupynn import models
from cupynn.data import ArrayDataset, CentreCrop, FileDataset, RandomResizedCrop, ShorterEdgeCrop, Whole
from cupynn.nn import init
from cupynn.optim import plan
from cupynn.train import Settings, recipes
from cupynn.train.recipes import Data

CLASSES = {"cifar10": 10, "cifar100": 100, "tinyimagenet": 200, "imagefolder": 1000}
NAMES = recipes.names()


def network(recipe):
    with init.shapes_only():
        return models.create(recipe.network, **{**recipe.options, "classes": CLASSES[recipe.data.name]})


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_makes_its_network_and_groups(name):
    recipe = recipes.read(name)
    assert recipe.name == name
    assert recipe.source.lower().replace("-", "").startswith(name.partition("/")[0])
    assert name.endswith(recipe.data.name.replace("imagefolder", "imagenet"))
    model, settings = network(recipe), recipe.settings
    planned = plan(model, settings.groups, settings.weight_decay, settings.decay_biases)
    assert sum(len(group.names) for group in planned) == len(list(model.parameters()))
    if recipe.data.name == "imagefolder" and "whe" not in name:
        assert (recipe.data.framing, recipe.data.size, recipe.data.shorter_edge) == ("random-resized-crop", 224, 256)
    assert settings.flip and bool(settings.crop) != (recipe.data.name == "imagefolder")


def test_every_paper_has_recipes():
    papers = [name.partition("/")[0] for name in NAMES]
    counts = {paper: papers.count(paper) for paper in set(papers)}
    assert counts == {"expandnets": 10, "doconv": 22, "delugenets": 3, "seqconv": 4, "whe": 12}


# What the papers state: epochs, batch size, weight decay, Nesterov, and the learning rate at the start of some epochs.
STATED = {
    "expandnets/smallnet_cifar*": (150, 128, 0, False, {0: 0.01, 49: 0.01, 50: 1e-3, 99: 1e-3, 100: 1e-4, 149: 1e-4}),
    "expandnets/smallnet_[ac]*s_cifar10": (150, 128, 5e-4, False, {0: 0.01, 49: 0.01, 50: 1e-3, 100: 1e-4}),
    "expandnets/smallnet_ablation_cifar10": (150, 128, 5e-4, False, {0: 0.01, 49: 0.01, 50: 1e-3, 100: 1e-4}),
    "expandnets/mobilenet_v2_cifar*": (350, 128, 5e-4, False, {0: 0.1, 149: 0.1, 150: 0.01, 249: 0.01, 250: 1e-3}),
    "expandnets/mobilenet_v[12]_imagenet": (90, 256, 1e-4, True, {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 1e-3}),
    "expandnets/alexnet_imagenet": (90, 256, 1e-4, True, {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 1e-3}),
    # step i has the rate 0.5 (1 - i / 300,000), 1252 steps an epoch
    "expandnets/shufflenet_v2_imagenet": (
        250, 1024, 4e-5, True, {0: 0.5, 100: 0.5 * (1 - 125_200 / 3e5), 239: 0.5 * (1 - 299_228 / 3e5), 240: 0, 249: 0},
    ),
    "doconv/resnet[25]?_cifar*": (164, 128, 1e-4, False, {0: 0.1, 81: 0.1, 82: 0.01, 122: 0.01, 123: 1e-3, 163: 1e-3}),
    "doconv/resnet1??_cifar*": (164, 128, 1e-4, False, {0: 0.01, 2: 0.1, 81: 0.1, 82: 0.01, 122: 0.01, 123: 1e-3}),
    "doconv/resnet18_imagenet": (120, 1024, 1e-4, True, {0: 0, 1: 0.08, 5: 0.4, 62.5: 0.2, 120: 0}),
    "doconv/plain18_imagenet": (120, 1024, 1e-4, True, {0: 0, 1: 0.08, 5: 0.4, 62.5: 0.2, 120: 0}),
    "doconv/resnet50_v*": (120, 1024, 1e-4, True, {0: 0, 1: 0.08, 5: 0.4, 62.5: 0.2, 120: 0}),
    "doconv/resnet101_v*": (120, 1024, 1e-4, True, {0: 0, 1: 0.08, 5: 0.4, 62.5: 0.2, 120: 0}),
    "doconv/resnet152_v1*": (120, 256, 1e-4, True, {0: 0, 1: 0.02, 5: 0.1, 62.5: 0.05, 120: 0}),
    "doconv/resnet152_v2_imagenet": (180, 1024, 1e-4, True, {0: 0, 1: 0.08, 5: 0.4, 92.5: 0.2, 180: 0}),
    "doconv/resnext50_imagenet": (200, 1024, 1e-4, True, {0: 0, 1: 0.08, 5: 0.4, 102.5: 0.2, 200: 0}),
    "doconv/mobilenet_v1_imagenet": (200, 1024, 1e-4, True, {0: 0, 1: 0.08, 5: 0.4, 102.5: 0.2, 200: 0}),
    "doconv/mobilenet_v2_imagenet": (150, 256, 4e-5, True, {0: 0, 1: 0.01, 5: 0.05, 77.5: 0.025, 150: 0}),
    "doconv/mobilenet_v3_imagenet": (360, 2048, 3e-5, True, {0: 0, 1: 0.52, 5: 2.6, 182.5: 1.3, 360: 0}),
    "delugenets/*_cifar*": (300, 64, 1e-4, True, {0: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 1e-3, 299: 1e-3}),
    # counted from 1, the rate falls in the epochs 31, 61 and 81
    "delugenets/*_imagenet": (100, 256, 1e-4, True, {0: 0.1, 29: 0.1, 30: 0.01, 60: 1e-3, 79: 1e-3, 80: 1e-4}),
    "seqconv/*_cifar*": (300, 64, 1e-4, True, {0: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 1e-3}),
    "seqconv/*_imagenet": (100, 256, 1e-4, True, {0: 0.1, 29: 0.1, 30: 0.01, 60: 1e-3, 89: 1e-3, 90: 1e-4}),
    "whe/*_imagenet": (120, 256, 1e-4, False, {0: 0.1, 59: 0.1, 60: 0.01, 89: 0.01, 90: 1e-3, 119: 1e-3}),
    "whe/*_cifar100": (150, 128, 1e-4, False, {0: 0.1, 79: 0.1, 80: 0.01, 119: 0.01, 120: 1e-3}),
    "whe/*_tinyimagenet": (150, 128, 1e-4, False, {0: 0.1, 79: 0.1, 80: 0.01, 119: 0.01, 120: 1e-3}),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_rates_are_the_stated_ones(name):
    (stated,) = [stated for pattern, stated in STATED.items() if fnmatch.fnmatchcase(name, pattern)]
    epochs, batch_size, weight_decay, nesterov, rates = stated
    settings = recipes.read(name).settings
    assert (settings.epochs, settings.batch_size, settings.nesterov) == (epochs, batch_size, nesterov)
    assert settings.weight_decay == weight_decay and settings.momentum == 0.9
    factor = settings.lr_factor()
    for epoch, lr in rates.items():
        # The milestones of steps are rounded to 1e-4 epochs, ShuffleNet's to 0.1 of 240: 4e-4 of the rate's start.
        tolerance = {"abs": 4e-4 * settings.lr} if "shufflenet" in name else {"rel": 1e-12, "abs": 1e-15}
        assert settings.lr * factor(epoch) == pytest.approx(lr, **tolerance), epoch


@pytest.mark.parametrize("step", [32_000, 48_000])
def test_milestones_of_steps_fall_on_their_step(step):
    factor = recipes.read("doconv/resnet20_cifar10").settings.lr_factor()
    before, at = (factor((step - back) // 391 + (step - back) % 391 / 391) for back in (1, 0))
    assert at == pytest.approx(before / 10)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("whe/")])
def test_whe_decays_by_its_own_steps(name):
    recipe = recipes.read(name)
    settings = recipe.settings
    first, second = (80, 110) if "imagenet" in name and "tiny" not in name else (100, 137)
    rest, own = plan(network(recipe), settings.groups, settings.weight_decay, settings.decay_biases)
    assert {name.rpartition(".")[2] for name in own.names} == set("abcd") and own.lr == 1
    assert not {"a", "b", "c", "d"} & {name.rpartition(".")[2] for name in rest.names}
    assert any(".bn." in name for name in rest.names)  # the block's batch norm
    epochs = (0, first - 1, first, second - 1, second, settings.epochs - 1)
    assert [own.weight_decay(epoch) for epoch in epochs] == [1e-6, 1e-6, 1e-5, 1e-5, 1e-4, 1e-4]
    assert {rest.weight_decay(epoch) for epoch in epochs} == {1e-4}


NO_DECAY = ("resnet50_v1_", "resnet101_v1b_", "resnet152_v1", "resnext50_", "mobilenet_")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("whe/")])
def test_some_of_doconv_leave_biases_and_norms_without_weight_decay(name):
    recipe = recipes.read(name)
    settings = recipe.settings
    without = name.startswith("doconv/") and name.removeprefix("doconv/").startswith(NO_DECAY)
    groups = plan(network(recipe), settings.groups, settings.weight_decay, settings.decay_biases)
    assert [group.weight_decay(0) for group in groups] == [settings.weight_decay] + [0] * without
    assert all((parameter.ndim == 1) for group in groups[1:] for parameter in group.parameters)
    assert (settings.label_smoothing == 0.1) == without


def test_colours_change_where_the_papers_say():
    coloured = {name for name in NAMES if recipes.read(name).settings.colour_jitter == 0.4}
    assert coloured == {name for name in NAMES if recipes.read(name).settings.lighting == 0.1}
    papers = ("doconv", "delugenets", "seqconv")
    assert coloured == {name for name in NAMES if name.startswith(papers) and name.endswith("_imagenet")}


GOOD = """
source = "ours"
[network]
name = "smallnet"
kernel_size = 5
[data]
name = "cifar10"
[settings]
epochs = 3
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ('"ours"', '"ours', ": expected TOML: "),
        ('source = "ours"', "", ": source is missing"),
        ('"ours"', "3", ": source must be text; got 3"),
        ("[settings]", "[setting]", ": there is no table or key 'setting'; there are source, network, data, settings"),
        ("[settings]\n", "[[settings]]\n", ": settings must be a table; got [{'epochs': 3}]"),
        ("[network]\n", "[settings.network]\n", ": [network]: name is missing"),
        ('name = "cifar10"', "", ": [data]: name is missing"),
        ('"cifar10"', '"cifar11"', ": [data]: name: there is no data set 'cifar11'; there are digits, "),
        (
            '"cifar10"',
            '"cifar10"\nfolder = "here"',
            ": [data]: there is no 'folder'; there are name, pad_to, framing, ",
        ),
        ('"cifar10"', '"cifar10"\nlabel_noise = "all"', ": [data]: label_noise must be a number; got 'all'"),
        ('"cifar10"', '"cifar10"\nlabel_noise = 1.5', ": [data]: label_noise must lie in 0..1; got 1.5"),
        ('"cifar10"', '"cifar10"\npad_to = "big"', ": [data]: pad_to must be a whole number; got 'big'"),
        ('"cifar10"', '"cifar10"\npad_to = 0', ": [data]: pad_to must be at least 1; got 0"),
        (
            '"cifar10"',
            '"cifar10"\nmean = [0.5]',
            ": [data]: mean and std must be as many finite numbers, those of std above 0",
        ),
        (
            '"cifar10"',
            '"cifar10"\nmean = [nan]\nstd = [1]',
            ": [data]: mean and std must be as many finite numbers, those of std above 0; got mean=[nan]",
        ),
        ('"cifar10"', '"cifar10"\nmean = [0.5]\nstd = [inf]', "must be as many finite numbers"),
        ('"cifar10"', '"cifar10"\nmean = [0.5]\nstd = [0]', "those of std above 0; got mean=[0.5], std=[0.0]"),
        (
            '"cifar10"',
            '"imagefolder"\nsize = 9',
            ": [data]: framing, size and shorter_edge belong together; there is no ",
        ),
        ('"smallnet"', '"largenet"', ": [network]: there is no network 'largenet'; there are alexnet, "),
        ("kernel_size", "kernelsize", ": [network]: smallnet has no option 'kernelsize'; it has kernel_size, "),
        ("kernel_size = 5", "kernel_size = 4", ": [network]: smallnet: kernel_size must be odd and at least 3; got 4"),
        ("kernel_size = 5", 'kernel_size = "5"', ": [network]: kernel_size must be a whole number; got '5'"),
        ("kernel_size = 5", "expand = true", ": [network]: expand must be text; got True"),
        ('"smallnet"\nkernel_size = 5', '"mobilenet_v1"\ncifar = 1', ": [network]: cifar must be true or false; got 1"),
        (
            '"smallnet"\nkernel_size = 5',
            '"cifar_seqresnet"\nblocks = [1, 2.5]',
            "blocks must be a whole number or an array",
        ),
        ('"smallnet"', "[3]", ": [network]: name must be text; got [3]"),
        ("epochs = 3", "epoch = 3", ": [settings]: there is no 'epoch'; there are epochs, batch_size, "),
        ("epochs = 3", "epochs = 3.5", ": [settings]: epochs must be a whole number; got 3.5"),
        ("epochs = 3", "epochs = 0", ": [settings]: epochs must be at least 1; got 0"),
        (
            "epochs = 3",
            'schedule = "multistep"',
            ': [settings]: milestones belong to schedule "multistep", and at most ',
        ),
        ("epochs = 3", "colour_jitter = 2", ": [settings]: colour_jitter must be at most 1; got 2.0"),
        ("epochs = 3", "groups = [{weight_decay = 1}]", ": [settings]: Group: needs layers or names"),
        (
            "epochs = 3",
            'groups = [{layers = ["WHE"], weight_decay = "no"}]',
            ": [settings]: groups[0]: weight_decay must be a number or an array; got 'no'",
        ),
    ],
)
def test_what_is_no_recipe(tmp_path, old, new, message):
    file = tmp_path / "own.toml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1) if old else GOOD)
    if message is None:
        recipe = recipes.read(file)
        assert (recipe.name, recipe.network, recipe.options) == (str(file), "smallnet", {"kernel_size": 5})
        assert recipe.settings == Settings(epochs=3) and recipe.data == Data("cifar10")
        return
    with pytest.raises(ValueError) as error:
        recipes.read(file)
    text = str(error.value)
    assert text.startswith(f"{file}: ") and message in text and "\n" not in text


def test_a_file_as_windows_editors_write_it(tmp_path):
    """With a byte order mark, and two characters at the end of a line."""
    (tmp_path / "own.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert recipes.read(tmp_path / "own.toml").settings == Settings(epochs=3)


def test_recipes_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"there is no recipe 'whe/resnet21'; .* whe/resnet110_cifar100, "):
        recipes.read("whe/resnet21")
    with pytest.raises(ValueError, match=r"there is no recipe 'x'; .*; there are delugenets/\.\.\., doconv/\.\.\., "):
        recipes.read("x")
    with pytest.raises(FileNotFoundError, match=r"none\.toml: there is no such file"):
        recipes.read(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"bytes\.toml: expected TOML: "):
        recipes.read(tmp_path / "bytes.toml")


def photographs(part):
    return FileDataset("nowhere", ("a.png",), np.array([0]), ("a", "b"), f"imagefolder {part}", Whole(64))


@pytest.mark.parametrize(
    ("framing", "training"),
    [("random-resized-crop", RandomResizedCrop(150)), ("shorter-edge-crop", ShorterEdgeCrop(150, 164))],
)
def test_framing_and_normalisation(framing, training):
    chosen = Data("imagefolder", framing=framing, size=150, shorter_edge=164, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    train, test = chosen.prepare(photographs("train"), photographs("test"), 0)
    assert train.framing == training and test.framing == CentreCrop(150, 164)
    assert train.mean == test.mean == (0.1, 0.2, 0.3) and train.std == test.std == (1, 2, 3)
    assert Data("imagefolder").prepare(train, test, 0) == (train, test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"framing": "whole", "size": 1, "shorter_edge": 1},
            "framing must be one of random-resized-crop, shorter-edge-",
        ),
        (
            {"framing": "shorter-edge-crop", "size": 9, "shorter_edge": 8},
            "size must be at least 1 and at most shorter_",
        ),
        ({"framing": "random-resized-crop", "size": 0, "shorter_edge": 8}, "size must be at least 1"),
        ({"framing": "random-resized-crop", "shorter_edge": 8}, "belong together; there is no size"),
    ],
)
def test_framings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Data("imagefolder", **options)
    with pytest.raises(ValueError, match="framing is for image files, tinyimagenet and imagefolder; name is 'cifar10'"):
        Data("cifar10", framing="random-resized-crop", size=8, shorter_edge=8)


def test_label_noise_is_of_the_training_set_and_the_seed():
    count = 3000
    sets = [
        ArrayDataset(
            np.zeros((count, 1, 1, 1), np.uint8), np.zeros(count, np.int64), tuple("abcd"), f"x {part}", (0,), (1,)
        )
        for part in ("train", "test")
    ]
    train, test = Data("cifar10", label_noise=0.8).prepare(*sets, 3)
    assert not test.labels.any()
    # (1 - 1/4) 0.8 of the labels turn wrong: 1800, with a deviation of 27; five of them
    assert abs((train.labels != 0).sum() - 0.6 * count) < 5 * math.sqrt(count * 0.6 * 0.4)
    again, other = (Data("cifar10", label_noise=0.8).prepare(*sets, seed)[0].labels for seed in (3, 4))
    assert (again == train.labels).all() and (other != train.labels).any()


def test_a_linear_schedule():
    whole = Settings(schedule="linear", epochs=10, warm_up=2, warm_up_from=0.5).lr_factor()
    assert [whole(epoch) for epoch in (0, 1, 2, 5, 10, 11)] == pytest.approx([0.5, 0.75 * 0.9, 0.8, 0.5, 0, 0])
    early = Settings(schedule="linear", epochs=10, milestones=(8,)).lr_factor()
    assert [early(epoch) for epoch in (0, 4, 8, 9)] == [1, 0.5, 0, 0]
    for options, message in (({"milestones": (2, 4)}, "at most one"), ({"milestones": (2,), "warm_up": 2}, "than 2,")):
        with pytest.raises(ValueError, match=message):
            Settings(schedule="linear", **options)
