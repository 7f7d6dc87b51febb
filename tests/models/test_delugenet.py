"""DelugeNets and their baselines. Small networks are compared with NumPy, in float64, written down from the paper."""

import numpy as np
import pytest
from residual_by_hand import conv, max_pool, relu

import cupynn
from cupynn import models, nn
from cupynn.autograd import Tensor, no_grad
from cupynn.models.delugenet import CompositeLayer, CrossLayerBlock, DelugeNet, transitions
from cupynn.models.delugenet_baselines import ProjectedLayer, ResidualBlock


def counted(name, **options):
    with nn.init.shapes_only():
        model = models.create(name, **options)
        return models.count(model, model.input_shape)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "parameters", "macs"),
    [
        ("cifar_delugenet", {}, 6_686_250, 704_481_792),
        ("cifar_delugenet", {"depth": 218, "classes": 100}, 10_004_868, 1_046_242_304),
        ("cifar_delugenet", {"wide": True, "classes": 100}, 20_191_068, 2_139_836_160),
        ("cifar_delugenet_baseline", {"classes": 100}, 6_500_100, 691_921_920),
        ("cifar_delugenet_baseline", {"classes": 100, "shortcut": "1x1"}, 6_153_220, 664_658_944),
        ("cifar_delugenet_baseline", {"classes": 100, "depth": 218}, 9_552_644, 1_019_077_632),
        ("cifar_delugenet_baseline", {"classes": 100, "wide": True, "shortcut": "1x1"}, 18_763_516, 2_034_323_200),
        ("delugenet", {}, 43_404_072, 5_875_630_080),
        ("delugenet", {"depth": 104}, 51_353_896, 6_547_436_544),
        ("delugenet", {"depth": 122}, 63_620_392, 7_555_622_912),
        ("delugenet", {"depth": 143}, 43_589_928, 4_977_298_944),
        ("delugenet", {"depth": 152}, 51_725_928, 5_259_313_152),
    ],
)
def test_counts_are_the_papers(name, options, parameters, macs):
    count = counted(name, **options)
    assert (count.parameters, count.macs) == (parameters, macs)


@pytest.mark.parametrize(
    ("name", "depth"), [("cifar_delugenet", 146), ("cifar_delugenet", 218), ("delugenet", 92), ("delugenet", 152)]
)
def test_the_depth_in_the_name_counts_three_for_a_composite_layer(name, depth):
    with nn.init.shapes_only():
        model = models.create(name, depth=depth)
    assert 3 * sum(type(module) is CompositeLayer for module in model.modules()) + 2 == depth


def test_cross_layer_convolutions_read_all_layers_of_their_block():
    """Of c composite layers the last gives output c, and the block's entry is one more where it is no composite one."""
    with nn.init.shapes_only():
        cifar, imagenet = models.create("cifar_delugenet"), models.create("delugenet", depth=143)

    def read(model):
        return [[cross.layers for cross in block.crosses] for block in model.blocks]

    assert read(cifar) == [list(range(2, last + 1)) for last in (8, 17, 25)]
    assert read(imagenet) == [list(range(2, last + 1)) for last in (7, 12, 15, 17)]
    maps = ((8, 64, 32), (17, 128, 16), (25, 256, 8))
    by_hand = sum(sum(range(2, last + 1)) * channels * side * side for last, channels, side in maps)
    assert counted("cifar_delugenet").cross_layer == by_hand


# --- against NumPy ----------------------------------------------------------------------------------------------------


def norm(x, weight, bias, statistics):
    """Batch norm with the given (running mean, running variance), or for None with the batch's."""
    mean, variance = (x.mean((0, 2, 3)), x.var((0, 2, 3))) if statistics is None else statistics
    factor = weight / np.sqrt(variance + 1e-5)
    return x * factor[:, None, None] + (bias - mean * factor)[:, None, None]


def batch_norm(x, layer):
    statistics = None if layer.training else (layer.running_mean, layer.running_var)
    return norm(x, layer.weight.data, layer.bias.data, statistics)


def branch(a, layer):
    """1x1, BN, ReLU, 3x3, BN, ReLU, 1x1."""
    a = relu(batch_norm(conv(a, layer.conv1), layer.bn2))
    return conv(relu(batch_norm(conv(a, layer.conv2), layer.bn3)), layer.conv3)


def composite(x, layer):
    a = relu(batch_norm(x, layer.bn1))
    return branch(a, layer) + (conv(a, layer.shortcut) if isinstance(layer, ProjectedLayer) else 0)


def cross(newest_first, layer):
    """sum_i weight_i * normalised h_i + bias_i"""
    total = 0
    for i, h in enumerate(newest_first):
        statistics = None if layer.training else (layer.running_mean[i], layer.running_var[i])
        total = total + norm(h, layer.weight.data[i], layer.bias.data[i], statistics)
    return total


def deluge_block(x, block):
    outputs = [x]
    for i, layer in enumerate(block.layers):
        read = outputs[0] if i == 0 else cross(outputs, block.crosses[i - 1])
        outputs = [composite(read, layer), *outputs]
    return cross(outputs, block.crosses[-1])


def residual_block(x, block):
    for layer in block.layers:
        x = composite(x, layer) + x
    return x


def network(x, model):
    x = conv(x, model.stem) if isinstance(model.stem, nn.Conv2d) else imagenet_stem(x, model.stem)
    for entry, block in zip(model.entries, model.blocks, strict=True):
        if isinstance(entry, CompositeLayer):
            x = composite(x, entry)
        elif isinstance(entry, nn.Conv2d):
            x = conv(x, entry)
        else:
            x = conv(batch_norm(x, entry[0]), entry[1])
        x = deluge_block(x, block) if isinstance(block, CrossLayerBlock) else residual_block(x, block)
    return relu(batch_norm(x, model.bn)).mean((2, 3)) @ model.fc.weight.data.T + model.fc.bias.data


def imagenet_stem(x, stem):
    return max_pool(relu(batch_norm(conv(x, stem[0]), stem[1])))


def small(kind):
    """The papers' networks with two blocks of widths 2 and 3."""
    stem, widths, side = nn.Conv2d(3, 2, 3, padding=1, bias=False), (2, 3), 8
    if kind == "cifar":
        entries, blocks = [CompositeLayer(2, 2), *transitions(widths)], [CrossLayerBlock(2, 2), CrossLayerBlock(3, 3)]
    elif kind == "imagenet":
        stem = nn.Sequential(nn.Conv2d(3, 5, 7, 2, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        entries, side = [nn.Conv2d(5, 4, 1, bias=False), *transitions(widths)], 18
        blocks = [CrossLayerBlock(2, 1), CrossLayerBlock(3, 3)]
    elif kind == "3x3":
        entries, blocks = [CompositeLayer(2, 2), *transitions(widths)], [ResidualBlock(2, 2), ResidualBlock(3, 2)]
    else:
        entries, blocks = [ProjectedLayer(2, 2, 1), ProjectedLayer(4, 3, 2)], [ResidualBlock(2, 1), ResidualBlock(3, 2)]
    return DelugeNet(stem, entries, blocks, 6, 5, 3, side)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", ["cifar", "imagenet", "3x3", "1x1"])
def test_small_networks_against_numpy(kind, training):
    """Outputs to 1e-9 of the largest: some ten layers of at most 150 products in float64. The gradient in a random
    direction is compared with NumPy's central difference of step 1e-6, wrong by rounding of some 1e-9 of its size."""
    cupynn.manual_seed(4)
    rng = np.random.default_rng(4)
    model = small(kind).astype(np.float64).train(training)
    for name, array in model.state_dict().items():
        if name.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif not name.endswith("num_batches_tracked"):
            array += 0.3 * rng.standard_normal(array.shape)
    images = rng.standard_normal((3, *model.input_shape))
    wanted = network(images, model)
    grad, x = rng.standard_normal(wanted.shape), Tensor(images, requires_grad=True)
    parameters = [x, *model.parameters()]
    directions = [rng.standard_normal(parameter.shape) for parameter in parameters]

    def at(step):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data += step * direction
        return (grad * network(x.data, model)).sum()

    difference = (at(1e-6) - at(-2e-6)) / 2e-6
    at(1e-6)
    y = model(x)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())
    y.backward(grad)
    pairs = zip(parameters, directions, strict=True)
    found = sum((parameter.grad * direction).sum() for parameter, direction in pairs)
    assert found == pytest.approx(difference, rel=1e-6)


# --- initial values, stages, errors -----------------------------------------------------------------------------------


def test_initial_values():
    cupynn.manual_seed(5)
    model = models.create("cifar_delugenet")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.data
            deviation = np.sqrt(2 / (layer.out_channels * weight[0, 0].size))
            # The deviation of n normal draws is known to 1 / sqrt(2 n) of itself: 5 of that.
            assert weight.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * weight.size)), name
            assert np.abs(weight).max() > 2.5 * deviation, name  # which no uniform draw of that deviation reaches
            assert layer.bias is None, name
        elif isinstance(layer, nn.CrossLayerDepthwise):
            assert (layer.weight.data == np.float32(1 / layer.layers)).all(), name
            assert not layer.bias.data.any(), name
    assert 0.99 / np.sqrt(256) < np.abs(model.fc.weight.data).max() <= 1 / np.sqrt(256)
    assert not model.fc.bias.data.any()


@pytest.mark.parametrize(
    ("name", "options", "stages"),
    [
        ("cifar_delugenet", {}, 4),
        ("delugenet", {}, 5),
        ("cifar_delugenet_baseline", {}, 4),
        ("cifar_delugenet_baseline", {"shortcut": "1x1"}, 4),
    ],
)
def test_do_conv_by_stages(name, options, stages):
    """Every large convolution is in one stage."""
    with nn.init.shapes_only():
        plain = models.create(name, **options)
        convolutions = [(key, layer) for key, layer in plain.named_modules() if type(layer) is nn.Conv2d]
        large = [key for key, layer in convolutions if layer.kernel_size != (1, 1)]
        assert len(plain.stages) == stages
        expanded = []
        for number in range(stages):
            model = models.create(name, expand="do", stages=[number], **options)
            expanded += [key for key, layer in model.named_modules() if type(layer) is nn.DOConv2d]
    assert sorted(expanded) == sorted(large)


@pytest.mark.parametrize("name", ["cifar_delugenet", "cifar_delugenet_baseline"])
def test_batch_norms_fold_and_images_may_have_one_channel(name):
    """Three convolutions and batch norms run as one convolution each; float32 through 440 layers keeps 4 digits."""
    cupynn.manual_seed(6)
    model = models.create(name, in_channels=1, classes=7)
    x = np.random.default_rng(6).standard_normal((2, 1, 8, 8)).astype(np.float32)
    model(x)  # gives the running statistics other values than their first
    folded = cupynn.contract(model.eval(), fold_batch_norm=True)
    with no_grad():
        wanted, found = model(x).numpy(), folded(x).numpy()
    assert wanted.shape == (2, 7)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    norms = [sum(type(layer) is nn.BatchNorm2d for layer in each.modules()) for each in (model, folded)]
    assert norms[0] - norms[1] >= 2 * 48  # bn2 and bn3 of each composite layer


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar_delugenet", {"depth": 92}, "cifar_delugenet: depth must be 146 or 218; got 92"),
        ("cifar_delugenet_baseline", {"depth": 1}, "cifar_delugenet_baseline: depth must be 146 or 218; got 1"),
        ("cifar_delugenet_baseline", {"shortcut": "5x5"}, "shortcut must be '3x3' or '1x1'; got '5x5'"),
        ("delugenet", {"depth": 146}, "delugenet: depth must be one of 143, 152, 92, 104, 122; got 146"),
    ],
)
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, **options)
