"""AlexNet with a global average: counts, names, the network in NumPy, what CK makes of it."""

import numpy as np
import pytest

import cupynn
from cupynn import models, nn
from cupynn.autograd import Tensor, no_grad
from cupynn.reparam import contract

LAYERS = ["features.0", "features.3", "features.6", "features.8", "features.10"]


@pytest.mark.parametrize(
    ("options", "parameters", "macs"),
    [
        ({"last_channels": 128}, 2_303_656, 605_854_400),
        ({}, 2_726_696, 655_822_528),
        ({"last_channels": 512}, 3_572_776, 755_758_784),
        ({"last_channels": 128, "expand": "ck"}, 3_919_160, 60_224_362_256),
        ({"expand": "ck"}, 4_342_200, 60_274_330_384),
        ({"last_channels": 512, "expand": "ck"}, 5_188_280, 60_374_266_640),
    ],
)
def test_counts(options, parameters, macs):
    with nn.init.shapes_only():
        counted = models.count(models.create("alexnet", **options), (3, 224, 224))
    assert (counted.parameters, counted.macs) == (parameters, macs)


def test_names_are_torchvisions_and_the_classifier_is_one_layer():
    model = models.create("alexnet", classes=10, in_channels=1)
    parameters = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert list(parameters) == [f"{name}.{kind}" for name in (*LAYERS, "classifier") for kind in ("weight", "bias")]
    assert parameters["features.0.weight"] == (64, 1, 11, 11)
    assert parameters["classifier.weight"] == (10, 256)
    assert model.input_shape == (1, 224, 224)
    assert list(model.stages) == LAYERS


def test_sizes_of_the_maps():
    """224 -> 55, pool 27, 27, pool 13, 13, 13, 13, pool 6, by floor((n + 2 p - k) / s) + 1."""
    with nn.init.shapes_only():
        rows = models.count_layers(models.create("alexnet"), (3, 224, 224))
    shapes = [(row.name, row.output_shape) for row in rows if row.layer in ("Conv2d", "MaxPool2d", "Linear")]
    assert shapes == [
        ("features.0", (64, 55, 55)),
        ("features.2", (64, 27, 27)),
        ("features.3", (192, 27, 27)),
        ("features.5", (192, 13, 13)),
        ("features.6", (384, 13, 13)),
        ("features.8", (256, 13, 13)),
        ("features.10", (256, 13, 13)),
        ("features.12", (256, 6, 6)),
        ("classifier", (1000,)),
    ]


def windows(x, k, stride):
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]


def test_the_network_is_the_one_written_in_numpy():
    cupynn.manual_seed(3)
    model = models.create("alexnet", last_channels=8, classes=5).astype("float64")
    x = images = np.random.default_rng(3).standard_normal((2, 3, 95, 79))
    state = model.state_dict()
    for name, stride, padding, pooled in zip(
        LAYERS, (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (True, True, False, False, True), strict=True
    ):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        x = np.einsum("nchwij,ocij->nohw", windows(x, weight.shape[2], stride), weight, optimize=True)
        x = np.maximum(x + bias[:, None, None], 0)
        if pooled:
            x = windows(x, 3, 2).max(axis=(4, 5))
    wanted = x.mean(axis=(2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]
    # Sums of at most 3456 products in float64, through six layers.
    np.testing.assert_allclose(model(Tensor(images)).numpy(), wanted, rtol=1e-11, atol=1e-11 * np.abs(wanted).max())


def test_ck_expands_the_two_large_kernels():
    model = models.create("alexnet", expand="ck")
    assert [name for name, layer in model.named_modules() if type(layer) is nn.ExpandedConv2d] == LAYERS[:2]
    first, second = (model.features[i].layers for i in (0, 3))
    assert [layer.weight.shape[:2] for layer in first] == [(12, 3), (256, 12), (256, 256), (256, 256), (64, 256)]
    assert [layer.weight.shape[:2] for layer in second] == [(256, 64), (192, 256)]
    assert [layer.padding for layer in first] == [(2, 2)] + [(0, 0)] * 4
    assert [layer.stride for layer in first] == [(1, 1)] * 4 + [(4, 4)]
    assert all(layer.kernel_size == (3, 3) and layer.bias is not None for layer in [*first, *second])


def test_ck_contracts_to_the_plain_network():
    cupynn.manual_seed(4)
    model = models.create("alexnet", last_channels=8, classes=5, expand="ck", rate=0.5).astype("float64").eval()
    plain = contract(model)
    assert [type(layer) for layer in plain.features] == [type(layer) for layer in models.create("alexnet").features]
    images = Tensor(np.random.default_rng(4).standard_normal((1, 3, 63, 63)))
    with no_grad():
        wanted = models.create("alexnet", last_channels=8, classes=5).astype("float64")
        wanted.load_state_dict(plain.state_dict())
        wanted = wanted(images).numpy()
        for layer in (model.features[0], model.features[3]):
            layer.composition = "feature"
        # Chains of five and two layers instead of one, in float64.
        np.testing.assert_allclose(model(images).numpy(), wanted, rtol=1e-11, atol=1e-11 * np.abs(wanted).max())


def test_images_of_63_pixels_are_the_smallest():
    model = models.create("alexnet", last_channels=8).eval()
    assert model(Tensor(np.zeros((1, 3, 63, 63), "float32"))).shape == (1, 1000)
    with pytest.raises(ValueError, match="max_pool2d"):
        model(Tensor(np.zeros((1, 3, 62, 62), "float32")))


def test_errors():
    with pytest.raises(ValueError, match="out_channels"):
        models.create("alexnet", last_channels=0)
