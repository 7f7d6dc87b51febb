import json
import re
from pathlib import Path

import numpy as np
import pytest

import cupynn
from cupynn import models, nn
from cupynn.autograd import Tensor
from cupynn.reparam import contract, expand

# Parameters and operations of the paper's networks, counted with the authors' own code.
EXPECTED = json.loads((Path(__file__).parents[1] / "data" / "smallnet_counts.json").read_text())


def options_of(name):
    """SmallNet4conv-7+CK r=2/cifar10 as options of `create`."""
    four, k, strategy, rate, classes = re.fullmatch(
        r"SmallNet(4conv)?-(\d)(?:\+(\S+?))?(?: r=(\S+))?/cifar(\d+)", name
    ).groups()
    options = {"kernel_size": int(k), "convolutions": 4 if four else 3, "classes": int(classes)}
    if strategy:
        options |= {"expand": strategy.lower(), "rate": float(rate or 4)}
    return options


@pytest.mark.parametrize("name", EXPECTED)
def test_parameters_and_operations_are_the_papers(name):
    expected = EXPECTED[name]
    options = options_of(name)
    counted = models.count(models.create("smallnet", **options), (3, 32, 32))
    assert counted.parameters == expected["params"]
    assert counted.macs == expected["macs"]
    if "ops_compared" in expected:
        ours = counted.all_operations if options["convolutions"] == 4 else counted.operations
        assert ours == expected["ops_compared"]


def test_every_kind_of_layer_is_counted_by_hand():
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, bias=False),  # 6 x 4 x 4 elements, 2 * 9 products each
        nn.BatchNorm2d(6),  # 2 an element
        nn.MaxPool2d(2),  # 6 x 2 x 2 elements, 4 each
        nn.ReLU(),  # 1 an element
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    parameters = 6 * 2 * 9 + 12 + 24 * 5 + 5
    counted = models.count(model, (4, 6, 6))
    kinds = {
        "convolution": 96 * 18,
        "linear": 24 * 5,
        "linear_bias": 5,
        "batch_norm": 2 * 96,
        "pooling": 4 * 24,
        "relu": 24,
    }
    assert counted == models.Count(parameters, **kinds)
    assert counted.macs == 96 * 18 + 24 * 5
    assert counted.operations == counted.macs + 2 * 96
    assert counted.all_operations == counted.operations + 4 * 24 + 24


@pytest.mark.parametrize("composition", ["kernel", "feature"])
def test_count_leaves_the_model_as_it_was(composition):
    model = models.create("smallnet", expand="ck", composition=composition)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    first = models.count(model, (3, 32, 32))
    assert models.count(model, (128, 3, 32, 32)) == first
    assert model.training and model[0].composition == composition
    assert not any("forward" in vars(module) for module in model.modules())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_do_conv_is_counted_as_its_convolution_and_with_its_parameters():
    plain = models.count(models.create("smallnet"), (3, 32, 32))
    do = models.count(models.create("smallnet", expand="do"), (3, 32, 32))
    assert do.parameters == plain.parameters + (3 + 8 + 16) * 49 * 49  # D' of each, the identity is none
    assert (do.macs, do.operations, do.all_operations) == (plain.macs, plain.operations, plain.all_operations)


def test_asymmetric_blocks_are_counted_branch_by_branch():
    plain = models.create("smallnet")
    ac = models.count(models.create("smallnet", expand="ac"), (3, 32, 32))
    channels, sides = [(3, 8), (8, 16), (16, 32)], [32, 16, 8]
    # 7 + 7 taps more for each pair of channels, three batch norms for one bias.
    more = sum(14 * i * o + 5 * o for i, o in channels)
    assert ac.parameters == models.count(plain, (3, 32, 32)).parameters + more
    more = sum(14 * i * o * side**2 for (i, o), side in zip(channels, sides, strict=True))
    assert ac.macs == models.count(plain, (3, 32, 32)).macs + more


def test_contracting_gives_the_plain_networks_count():
    expanded = models.create("smallnet", expand="cl+fc")
    assert models.count(contract(expanded), (3, 32, 32)) == models.count(models.create("smallnet"), (3, 32, 32))


@pytest.mark.parametrize(("kernel_size", "flat"), [(3, 32), (5, 288), (7, 288), (9, 288)])
def test_digits_of_28_pixels(kernel_size, flat):
    model = models.create("smallnet", kernel_size=kernel_size, in_channels=1, image_size=28)
    assert model[13].in_features == flat
    assert model(Tensor(np.zeros((2, 1, 28, 28), "float32"))).shape == (2, 10)


def test_first_layer_of_three_convolutions_keeps_the_images_channels():
    for options in ({"in_channels": 3}, {"in_channels": 1}):
        ck = models.create("smallnet", kernel_size=7, expand="ck", **options)
        assert [layer.weight.shape[0] for layer in ck[0].layers] == [options["in_channels"], 32, 8]
    ck = models.create("smallnet", convolutions=4, expand="ck")
    assert [layer.weight.shape[0] for layer in ck[0].layers] == [12, 32, 8]


def test_create_with_expand_is_expand():
    cupynn.manual_seed(3)
    created = models.create("smallnet", expand="cl+fc", rate=2, composition="feature")
    cupynn.manual_seed(3)
    expanded = expand(models.create("smallnet"), "cl+fc", rate=2, composition="feature")
    assert created.creation == expanded.creation
    one, other = created.state_dict(), expanded.state_dict()
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_layers_read_as_they_are_written():
    kinds = [type(layer) for layer in models.create("smallnet")]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert kinds == block * 3 + [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.create("alexnot"), "there is no network 'alexnot'; there are .*smallnet"),
        (lambda: models.create("smallnet", depth=3), "smallnet has no option 'depth'; it has kernel_size, .*rate"),
        (lambda: models.create("smallnet", kernel_size=4), "kernel_size must be odd"),
        (lambda: models.create("smallnet", convolutions=5), "convolutions must be 3 or 4; got 5"),
        (lambda: models.create("smallnet", image_size=4), "images of 4 x 4 leave nothing"),
        (lambda: models.create("smallnet", kernel_size=3, expand="ck"), "no layer that 'ck' expands"),
        (
            lambda: models.create("smallnet", expand="dw"),
            "strategy must be one of cl, ck, ac, fc, do, or several .*; got 'dw'",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_names():
    assert "smallnet" in models.names() == sorted(models.names())
