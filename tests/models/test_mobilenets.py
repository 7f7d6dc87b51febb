import numpy as np
import pytest
from mobile_networks import check_logits, check_stages, check_training, layers_of

import cupynn
from cupynn import models
from cupynn.autograd import Tensor
from cupynn.models.mobilenet_v3 import SqueezeExcitation
from cupynn.nn import Conv2d, DOConv2d, Dropout, ExpandedConv2d, Linear, Sequential, WHEBlock, init

V1_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


@pytest.mark.parametrize("options", [{}, {"cifar": True}], ids=["imagenet", "cifar"])
@pytest.mark.parametrize(
    ("name", "own", "key"),
    [
        ("mobilenet_v1", {}, "mobilenet_v1"),
        ("mobilenet_v2", {}, "mobilenet_v2"),
        ("mobilenet_v2", {"classifier": "conv"}, "mobilenet_v2_conv"),
        ("mobilenet_v3", {}, "mobilenet_v3"),
    ],
)
def test_logits_are_those_of_an_independent_network(name, own, key, options):
    check_logits(name, key, **own, **options)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3"])
def test_cifar_network_trains(name):
    check_training(name)


@pytest.mark.parametrize("cifar", [False, True])
@pytest.mark.parametrize(("name", "count"), [("mobilenet_v1", 6), ("mobilenet_v2", 8), ("mobilenet_v3", 7)])
def test_stages_hold_every_large_convolution_once(name, count, cifar):
    check_stages(name, count, cifar=cifar)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("mobilenet_v1", {}, 4_231_976),
        ("mobilenet_v1", {"expand": "cl"}, 4_958_348),
        ("mobilenet_v1", {"whe": 4}, 4_339_112),
        ("mobilenet_v1", {"whe": 8, "whe_after": "depthwise"}, 4_400_616),
        ("mobilenet_v2", {}, 3_504_872),
        ("mobilenet_v2", {"classifier": "conv"}, 3_503_872),
        ("mobilenet_v2", {"expand": "cl"}, 3_666_108),
        ("mobilenet_v3", {}, 5_481_752),
        ("mobilenet_v3", {"expand": "do"}, 7_468_067),
    ],
)
def test_parameters_are_the_papers_and_the_same_for_cifar(name, options, parameters):
    for cifar in (False, True):
        with init.shapes_only():
            model = models.create(name, cifar=cifar, **options)
        assert sum(parameter.size for parameter in model.parameters()) == parameters
        assert model.input_shape == ((3, 32, 32) if cifar else (3, 224, 224))


@pytest.mark.parametrize(("after", "place"), [("pointwise", 3), ("depthwise", 0)])
def test_whe_blocks_stand_directly_behind_their_convolutions(after, place):
    with init.shapes_only():
        model = models.create("mobilenet_v1", whe=8, whe_after=after)
    assert len(layers_of(model, WHEBlock)) == 13
    for block, inputs, outputs in zip(list(model.model)[1:], (32, *V1_WIDTHS), V1_WIDTHS, strict=False):
        assert [type(layer).__name__ for i, layer in enumerate(block) if i != place] == [
            name for i, name in enumerate(["Conv2d", "BatchNorm2d", "ReLU"] * 2) if i != place
        ]
        assert type(block[place]) is Sequential
        convolution, whe = block[place]
        assert (convolution.kernel_size, convolution.groups) == (((1, 1), 1) if place else ((3, 3), inputs))
        channels = outputs if after == "pointwise" else inputs
        assert (whe.whe.channels, whe.whe.group_size) == (channels, 8) == (convolution.out_channels, 8)


@pytest.mark.parametrize("cifar", [False, True])
def test_v2_expands_the_layers_of_the_released_code(cifar):
    model = models.create("mobilenet_v2", expand="cl", cifar=cifar)
    depthwise = [f"features.{i}.conv.1.0" for i in (2, 4, 7, 14)]
    assert layers_of(model, ExpandedConv2d) == ["features.0.0", *depthwise]
    for name, layer in models.create("mobilenet_v2").named_modules():
        if type(layer) is Conv2d and layer.stride == (2, 2):
            assert name in ("features.0.0", *depthwise)


def test_v1_expands_all_large_convolutions():
    with init.shapes_only():
        names = layers_of(models.create("mobilenet_v1", expand="cl"), ExpandedConv2d)
    assert names == ["model.0.0", *(f"model.{i}.0" for i in range(1, 14))]


def test_do_conv_learns_625_numbers_for_a_channel_of_a_5x5_convolution():
    with init.shapes_only():
        model = models.create("mobilenet_v3", expand="do")
    layers = [layer for layer in model.modules() if type(layer) is DOConv2d]
    assert len(layers) == 16
    large = [layer for layer in layers if layer.kernel_size == (5, 5)]
    assert [layer.in_channels for layer in large] == [72, 120, 120, 672, 960, 960]
    with init.shapes_only():
        plain = models.create("mobilenet_v3")
    more = 9**2 * (3 + 16 + 64 + 72 + 240 + 200 + 184 + 184 + 480 + 672) + 25**2 * (72 + 120 + 120 + 672 + 960 + 960)
    assert models.count(model, (3, 64, 64)).parameters == models.count(plain, (3, 64, 64)).parameters + more


def test_v2_is_residual_where_shapes_are_the_same():
    """With the last batch norm of all blocks at 0, a residual block is the identity, and others give 0."""
    model = models.create("mobilenet_v2", cifar=True).eval()
    blocks = list(model.features)[1:-1]
    for block in blocks:
        block.conv[len(block.conv) - 1].weight.data[...] = 0
    rng = np.random.default_rng(4)
    for index, block in enumerate(blocks, 1):
        first = block.conv[0] if isinstance(block.conv[0], Conv2d) else block.conv[0][0]
        x = rng.standard_normal((1, first.in_channels, 4, 4)).astype(np.float32)
        y = block(Tensor(x)).numpy()
        if index in (1, 2, 4, 7, 11, 14, 17):
            assert not y.any()
        else:
            np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(("channels", "squeezed"), [(72, 24), (120, 32), (480, 120), (672, 168), (960, 240)])
def test_squeeze_and_excitation_by_hand(channels, squeezed):
    cupynn.manual_seed(channels)
    layer = SqueezeExcitation(channels).astype(np.float64)
    x = np.random.default_rng(channels).normal(0.5, 3, (2, channels, 3, 4))
    fc1, fc2 = layer.fc1.weight.data[:, :, 0, 0], layer.fc2.weight.data[:, :, 0, 0]
    assert fc1.shape == (squeezed, channels)
    hidden = np.maximum(x.mean(axis=(2, 3)) @ fc1.T + layer.fc1.bias.data, 0)
    scale = np.clip(hidden @ fc2.T + layer.fc2.bias.data + 3, 0, 6) / 6
    # Sums of at most 960 products: 960 roundings of 1.1e-16, 1e-12 is far above.
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), x * scale[:, :, None, None], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_v2_starts_normal_with_deviations_of_the_outputs(seed):
    cupynn.manual_seed(seed)
    model = models.create("mobilenet_v2")
    for module in model.modules():
        if type(module) is Conv2d:
            weight = module.weight.data
            wanted = np.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
            # The deviation of n normal draws is within wanted / sqrt(2 n) of wanted; six times that fails once in 1e9.
            assert abs(weight.std() / wanted - 1) < 6 / np.sqrt(2 * weight.size)
    linear = model.classifier[1]
    assert abs(linear.weight.data.std() / 0.01 - 1) < 6 / np.sqrt(2 * linear.weight.size)
    assert not linear.bias.data.any()


def test_v1_starts_as_pytorch_does():
    for module in models.create("mobilenet_v1").modules():
        if isinstance(module, (Conv2d, Linear)):
            bound = 1 / np.sqrt(np.prod(module.weight.shape[1:]))
            largest = np.abs(module.weight.data).max()
            assert bound * 0.9 < largest <= bound * (1 + 1e-6)


def test_classifiers_of_v2():
    with init.shapes_only():
        linear, conv = (models.create("mobilenet_v2", classes=7, classifier=kind) for kind in ("linear", "conv"))
    assert (type(linear.classifier[0]), linear.classifier[0].p) == (Dropout, 0.2)
    assert linear.classifier[1].weight.shape == (7, 1280) and linear.classifier[1].bias is not None
    assert conv.classifier[0].weight.shape == (7, 1280, 1, 1) and conv.classifier[0].bias is None
    assert not layers_of(conv, Dropout)
    assert layers_of(models.create("mobilenet_v3"), Dropout) == ["classifier.2"]


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3"])
def test_grey_images_of_28_pixels(name):
    model = models.create(name, cifar=True, classes=10, in_channels=1)
    assert model.input_shape == (1, 32, 32)
    assert model(Tensor(np.zeros((2, 1, 28, 28), np.float32))).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenet_v1", {"whe": 4, "whe_after": "stem"}, "whe_after must be one of pointwise, depthwise; got 'stem'"),
        ("mobilenet_v1", {"whe_after": "depthwise"}, "whe_after='depthwise' needs whe, the group size; got whe=None"),
        ("mobilenet_v1", {"whe": 24}, "must be a multiple of group_size; got channels=64, group_size=24"),
        ("mobilenet_v2", {"classifier": "fc"}, "classifier must be one of linear, conv; got 'fc'"),
        ("mobilenet_v2", {"expand": "ck"}, "no layer that 'ck' expands"),
        ("mobilenet_v3", {"expand": "fc"}, "no layer that 'fc' expands"),
    ],
)
def test_errors(name, options, message):
    with init.shapes_only(), pytest.raises(ValueError, match=message):
        models.create(name, **options)
