import numpy as np
import pytest
from mobile_networks import check_logits, check_stages, check_training, layers_of

import cupynn
from cupynn import models
from cupynn.autograd import Tensor, no_grad
from cupynn.models.shufflenet_v2 import Downsample, Unit, shuffled
from cupynn.nn import BatchNorm2d, ExpandedConv2d, MaxPool2d, init
from cupynn.reparam import contract


@pytest.mark.parametrize("cifar", [False, True])
def test_logits_are_those_of_an_independent_network(cifar):
    check_logits("shufflenet_v2", "shufflenet_v2", cifar=cifar)


def test_cifar_network_trains():
    check_training("shufflenet_v2")


@pytest.mark.parametrize("cifar", [False, True])
def test_stages_hold_every_large_convolution_once(cifar):
    check_stages("shufflenet_v2", 4, cifar=cifar)


@pytest.mark.parametrize(
    ("options", "parameters", "macs"),
    [
        ({}, 1_366_792, 40_476_448),
        ({"expand": "cl"}, 1_526_428, 613_313_296),
        ({"expand": "cl", "mixing": False, "stride_last": True}, 1_414_972, 598_580_368),
    ],
)
def test_counts_are_the_papers(options, parameters, macs):
    with init.shapes_only():
        counted = models.count(models.create("shufflenet_v2", **options), (3, 224, 224))
    assert (counted.parameters, counted.macs) == (parameters, macs)


@pytest.mark.parametrize("channels", [1, 3, 24])
def test_shuffle_is_concatenate_then_exchange_groups(channels):
    rng = np.random.default_rng(channels)
    first, second = rng.standard_normal((2, 2, channels, 3, 4))
    wanted = np.concatenate([first, second], axis=1).reshape(2, 2, channels, 3, 4)
    wanted = wanted.transpose(0, 2, 1, 3, 4).reshape(2, 2 * channels, 3, 4)
    np.testing.assert_array_equal(shuffled(Tensor(first), Tensor(second)).numpy(), wanted)


def test_a_unit_passes_the_first_half_on():
    """The first half of the channels comes out at even places, and every gradient reaches where it came from."""
    cupynn.manual_seed(5)
    unit = Unit(8)
    x = Tensor(np.random.default_rng(5).standard_normal((2, 8, 4, 4)).astype(np.float32), requires_grad=True)
    y = unit(x)
    np.testing.assert_array_equal(y.numpy()[:, ::2], x.numpy()[:, :4])
    y[:, ::2].sum().backward()
    np.testing.assert_array_equal(x.grad[:, :4], 1)
    np.testing.assert_array_equal(x.grad[:, 4:], 0)


def test_downsampling_halves_the_image_and_gives_all_channels():
    assert Downsample(6, 10)(Tensor(np.zeros((2, 6, 9, 8), np.float32))).shape == (2, 10, 5, 4)


def test_all_large_convolutions_are_expanded_and_the_first_strides_last():
    with init.shapes_only():
        model = models.create("shufflenet_v2", expand="cl")
    names = layers_of(model, ExpandedConv2d)
    assert len(names) == 1 + 16 + 3  # one a unit, and a second one in the three that downsample
    for name in names:
        layer = dict(model.named_modules())[name]
        strides = [part.stride for part in layer.layers]
        assert strides == ([(1, 1), (1, 1), (2, 2)] if name == "conv1.0" else [(1, 1), layer.stride, (1, 1)])


@pytest.mark.parametrize("options", [{}, {"mixing": False, "stride_last": True}], ids=["released", "printed"])
def test_layer_by_layer_contracted_and_composed_are_the_same_function(options):
    cupynn.manual_seed(8)
    model = models.create("shufflenet_v2", classes=10, expand="cl", **options).astype(np.float64).eval()
    rng = np.random.default_rng(8)
    for module in model.modules():
        if type(module) is BatchNorm2d:
            module.running_mean[...] = rng.normal(0, 0.1, module.num_features)
            module.bias.data[...] = rng.normal(0, 0.5, module.num_features)
    x = Tensor(rng.standard_normal((1, 3, 32, 32)))
    with no_grad():
        composed, contracted = model(x).numpy(), contract(model)(x).numpy()
        for layer in model.modules():
            if type(layer) is ExpandedConv2d:
                layer.composition = "feature"
        layer_by_layer = model(x).numpy()
    # Float64 through some fifty layers of sums of at most 1024 products: 1e-11 is allowed.
    tolerance = 1e-11 * np.abs(layer_by_layer).max()
    np.testing.assert_allclose(composed, layer_by_layer, rtol=0, atol=tolerance)
    np.testing.assert_allclose(contracted, layer_by_layer, rtol=0, atol=tolerance)


def test_cifar_has_no_max_pool_and_no_stride_in_the_first_convolution():
    with init.shapes_only():
        model = models.create("shufflenet_v2", cifar=True, classes=10, in_channels=1)
        other = models.create("shufflenet_v2")
    assert model.input_shape == (1, 32, 32) and other.input_shape == (3, 224, 224)
    assert model.conv1[0].stride == (1, 1) and other.conv1[0].stride == (2, 2)
    assert not layers_of(model, MaxPool2d) and layers_of(other, MaxPool2d) == ["maxpool"]
    shapes = {row.name: row.output_shape for row in models.count_layers(model, (1, 28, 28))}
    assert shapes["conv5.1"] == (1024, 4, 4) and shapes["fc"] == (10,)


def test_no_layer_fits_ck():
    with init.shapes_only(), pytest.raises(ValueError, match="no layer that 'ck' expands"):
        models.create("shufflenet_v2", expand="ck")
