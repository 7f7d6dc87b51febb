"""CIFAR networks: options, blocks against a computation in NumPy, initial values, names."""

import re

import numpy as np
import pytest

import cupynn
from cupynn import models, nn
from cupynn.autograd import Tensor
from cupynn.models.blocks.cifar import PaddedShortcut
from cupynn.reparam import contract

GLUON = {"shortcut": "conv", "stem_relu": False}


# --- the network in NumPy, float64, in evaluation mode ----------------------------------------------------------------


def convolution(x, weight, stride=1):
    """k x k with padding (k-1)/2."""
    k = weight.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


def per_channel(vector):
    return vector[:, None, None]


def relu(x):
    return np.maximum(x, 0)


class Reference:
    """Layers by their names in the state."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, stride=1):
        return convolution(x, self.state[f"{name}.weight"], stride)

    def bn(self, name, x):
        s = self.state
        x = (x - per_channel(s[f"{name}.running_mean"])) / np.sqrt(per_channel(s[f"{name}.running_var"]) + 1e-5)
        if f"{name}.weight" in s:
            x = x * per_channel(s[f"{name}.weight"]) + per_channel(s[f"{name}.bias"])
        return x

    def whe_block(self, name, x):
        """x + BN(y), y_i the sum over j of d_ij relu(a_ij x_i + b_ij x_j + c_ij), in each group of channels."""
        a, b, c, d = (self.state[f"{name}.whe.{letter}"][None, ..., None, None] for letter in "abcd")
        n, channels, height, width = x.shape
        group = a.shape[2]
        grouped = x.reshape(n, channels // group, group, height, width)
        hidden = relu(a * grouped[:, :, :, None] + b * grouped[:, :, None] + c)
        return x + self.bn(f"{name}.bn", (d * hidden).sum(axis=3).reshape(x.shape))

    def shortcut(self, name, x, outputs, stride):
        if x.shape[1] == outputs and stride == 1:
            return x
        if f"{name}.downsample.1.weight" in self.state:
            return self.bn(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, stride))
        if f"{name}.downsample.weight" in self.state:
            return self.conv(f"{name}.downsample", x, stride)
        y = np.zeros((x.shape[0], outputs, -(-x.shape[2] // stride), -(-x.shape[3] // stride)))
        y[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
        return y

    def conv_bn(self, block, i, x, stride=1):
        """A 3x3 convolution and batch norm, the WHE block between them, behind both, or nowhere."""
        conv, bn = f"{block}.conv{i}", f"{block}.bn{i}"
        if f"{conv}.1.whe.a" in self.state:
            return self.bn(bn, self.whe_block(f"{conv}.1", self.conv(f"{conv}.0", x, stride)))
        if f"{bn}.1.whe.a" in self.state:
            return self.whe_block(f"{bn}.1", self.bn(f"{bn}.0", self.conv(conv, x, stride)))
        return self.bn(bn, self.conv(conv, x, stride))

    def v1_basic(self, b, x, outputs, stride):
        y = self.conv_bn(b, 2, relu(self.conv_bn(b, 1, x, stride)))
        return relu(y + self.shortcut(b, x, outputs, stride))

    def v1_bottleneck(self, b, x, outputs, stride):
        y = relu(self.conv_bn(b, 2, relu(self.conv_bn(b, 1, x)), stride))
        return relu(self.conv_bn(b, 3, y) + self.shortcut(b, x, outputs, stride))

    def v2_basic(self, b, x, outputs, stride):
        y = self.conv(f"{b}.conv1", relu(self.bn(f"{b}.bn1", x)), stride)
        y = self.conv(f"{b}.conv2", relu(self.bn(f"{b}.bn2", y)))
        return y + self.shortcut(b, x, outputs, stride)

    def v2_bottleneck(self, b, x, outputs, stride):
        y = self.conv(f"{b}.conv1", relu(self.bn(f"{b}.bn1", x)))
        y = self.conv(f"{b}.conv2", relu(self.bn(f"{b}.bn2", y)), stride)
        y = self.conv(f"{b}.conv3", relu(self.bn(f"{b}.bn3", y)))
        return y + self.shortcut(b, x, outputs, stride)

    def plain_basic(self, b, x, outputs, stride):
        y = relu(self.bn(f"{b}.1", self.conv(f"{b}.0", x, stride)))
        return relu(self.bn(f"{b}.4", self.conv(f"{b}.3", y)))

    def network(self, x, version="v1", block="basic", depth=8, stem_relu=True, **_):
        if version == "v2":
            x = self.conv("conv1", self.bn("bn_input", x))
        else:
            x = self.bn("bn1", self.conv("conv1", x))
            x = relu(x) if stem_relu else x
        for stage in range(3):
            for i in range(depth // (6 if block == "basic" else 9)):
                outputs = (16 if block == "basic" else 64) * 2**stage
                stride = 2 if stage and i == 0 else 1
                x = getattr(self, f"{version}_{block}")(f"layer{stage + 1}.{i}", x, outputs, stride)
        if version == "v2":
            x = relu(self.bn("bn_last", x))
        return x.mean(axis=(2, 3)) @ self.state["fc.weight"].T + self.state["fc.bias"]


def with_random_state(model, rng):
    """Every batch norm and bias a function that a test can see: what starts as 0 or 1 does not stay so."""
    state = model.state_dict()
    for name, array in state.items():
        if array.ndim == 1 and name != "fc.bias":
            state[name] = rng.uniform(0.5, 1.5, array.shape).astype(array.dtype)
    model.load_state_dict(state)
    return model


NETWORKS = [
    {},
    {"depth": 14},
    GLUON,
    {"version": "plain"},
    {"version": "plain", "stem_relu": False},
    {"version": "v2"},
    {"version": "v2", "shortcut": "A"},
    {"block": "bottleneck", "depth": 11},
    {"block": "bottleneck", "depth": 11, **GLUON},
    {"version": "v2", "block": "bottleneck", "depth": 11},
    {"whe": 4, "dropout": 0.1},
    {"whe": 4, "whe_per_block": 1},
    {"whe": 8, "whe_position": "post_bn"},
]


@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_networks_are_the_ones_written_in_numpy(options):
    cupynn.manual_seed(5)
    rng = np.random.default_rng(5)
    model = models.create("cifar_resnet", **{"depth": 8, **options}).astype("float64")
    model = with_random_state(model, rng).eval()
    images = rng.standard_normal((2, 3, 12, 9))  # sizes that do not halve evenly
    wanted = Reference(model.state_dict()).network(images, **options)
    # At most 12 layers of sums of at most 600 products, each exact to 1e-16 of its terms.
    np.testing.assert_allclose(model(Tensor(images)).numpy(), wanted, rtol=1e-11, atol=1e-11 * np.abs(wanted).max())


@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_batch_norm_folds_into_the_convolutions_before_it(options):
    cupynn.manual_seed(6)
    rng = np.random.default_rng(6)
    model = models.create("cifar_resnet", **{"depth": 8, **options}).astype("float64")
    model = with_random_state(model, rng).eval()
    folded = contract(model, fold_batch_norm=True)
    images = rng.standard_normal((2, 3, 12, 12))
    wanted = model(Tensor(images)).numpy()
    np.testing.assert_allclose(folded(Tensor(images)).numpy(), wanted, rtol=1e-11, atol=1e-11 * np.abs(wanted).max())
    left = sum(type(layer) is nn.BatchNorm2d for layer in folded.modules())
    assert left < sum(type(layer) is nn.BatchNorm2d for layer in model.modules())


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parameters", "macs"),
    [
        ({}, 269_722, 40_551_040),
        ({"depth": 110}, 1_727_962, 252_887_680),
        ({"classes": 100, "whe": 4}, 287_668, 42_621_184),
        ({"classes": 100, "whe": 4, "whe_per_block": 1}, 281_620, 41_588_992),
        ({"whe": 4, "whe_position": "post_bn", "dropout": 0.1}, 281_818, 42_615_424),
        (GLUON, 272_474, 40_813_184),
        ({**GLUON, "depth": 164}, 1_704_154, 247_646_720),
        ({**GLUON, "depth": 164, "block": "basic"}, 2_605_658, 380_551_808),
        ({"version": "v2"}, 272_282, 40_813_184),
        ({"version": "v2", "depth": 164}, 1_703_258, 247_646_720),
        ({"version": "v2", "expand": "do"}, 323_069, 40_813_184),
        ({"version": "plain"}, 269_722, 40_551_040),
        ({"version": "plain", "expand": "do"}, 320_509, 40_551_040),
    ],
)
def test_counts(options, parameters, macs):
    with nn.init.shapes_only():
        counted = models.count(models.create("cifar_resnet", **options), (3, 32, 32))
    assert (counted.parameters, counted.macs) == (parameters, macs)


# --- blocks -----------------------------------------------------------------------------------------------------------


def test_option_a_takes_every_second_pixel_and_adds_channels_of_zeros():
    x = Tensor(np.arange(2 * 2 * 5 * 4, dtype="float32").reshape(2, 2, 5, 4), requires_grad=True)
    y = PaddedShortcut(2, 5, stride=2)(x)
    wanted = np.zeros((2, 5, 3, 2), "float32")
    for n in range(2):
        for c in range(2):
            for i in range(3):
                for j in range(2):
                    wanted[n, c, i, j] = x.data[n, c, 2 * i, 2 * j]
    np.testing.assert_array_equal(y.data, wanted)
    (y * 3).sum().backward()
    seen = np.zeros((5, 4), "float32")
    seen[::2, ::2] = 3
    np.testing.assert_array_equal(x.grad, np.broadcast_to(seen, x.shape))


def test_option_a_has_no_parameters_and_stands_only_where_the_shape_changes():
    model = models.create("cifar_resnet", depth=14)
    kinds = {name: type(layer) for name, layer in model.named_modules() if name.endswith("downsample")}
    assert [name for name, kind in kinds.items() if kind is PaddedShortcut] == [
        "layer2.0.downsample",
        "layer3.0.downsample",
    ]
    assert not any("downsample" in name for name in model.state_dict())
    wide = models.create("cifar_resnet", depth=11, block="bottleneck")  # 16 channels, then 64: nothing is halved
    assert (wide.layer1[0].downsample.new_channels, wide.layer1[0].downsample.stride) == (48, 1)


def test_dropout_is_between_the_convolutions_while_training():
    cupynn.manual_seed(2)
    block = models.create("cifar_resnet", depth=8, dropout=1.0).layer1[0]
    rng = np.random.default_rng(2)
    x, convolved = (Tensor(rng.standard_normal((2, 16, 6, 6)).astype("float32")) for _ in range(2))
    seen = []
    block.conv2.forward = lambda y: (seen.append(y.data), convolved)[1]
    wanted = np.maximum(block.bn2(convolved).data + x.data, 0)
    np.testing.assert_array_equal(block(x).data, wanted)  # nothing else is dropped
    block.eval()(x)
    assert not seen[0].any() and seen[1].min() == 0 and seen[1].max() > 1
    assert block.bn1.running_var.min() > 0.9  # it has seen what is dropped later: 0.9 of 1, and some of the batch's


def test_stem_relu():
    images = Tensor(np.random.default_rng(4).standard_normal((2, 3, 8, 8)).astype("float32"))
    for stem_relu in (True, False):
        cupynn.manual_seed(4)
        model = models.create("cifar_resnet", depth=8, stem_relu=stem_relu)
        seen = []
        first, forward = model.layer1[0], model.layer1[0].forward
        first.forward = lambda x, seen=seen, forward=forward: (seen.append(x.data.min()), forward(x))[1]
        model(images)
        assert (seen[0] >= 0) == stem_relu


def test_layers_that_a_block_has_in_their_order():
    block = models.create("cifar_resnet", whe=4, dropout=0.1).layer2[0]
    kinds = [type(layer).__name__ for layer in block.children()]
    assert kinds == ["Sequential", "BatchNorm2d", "ReLU", "Dropout", "Sequential", "BatchNorm2d", "PaddedShortcut"]
    assert [type(layer).__name__ for layer in block.conv1] == ["Conv2d", "WHEBlock"]
    one = models.create("cifar_resnet", whe=4, whe_per_block=1).layer2[0]
    assert type(one.conv1) is nn.Sequential and type(one.conv2) is nn.Conv2d
    assert sum(type(layer) is nn.WHE for layer in models.create("cifar_resnet", whe=4).modules()) == 18


# --- names, stages, initial values, sizes -----------------------------------------------------------------------------


def test_names_are_torchvisions():
    names = list(models.create("cifar_resnet", **GLUON).state_dict())
    assert names[:2] == ["conv1.weight", "bn1.weight"] and names[-2:] == ["fc.weight", "fc.bias"]
    for name in ("layer1.0.conv1.weight", "layer1.2.bn2.running_var", "layer2.0.downsample.0.weight"):
        assert name in names
    assert "layer3.0.downsample.1.running_mean" in names and "layer1.0.downsample.0.weight" not in names


@pytest.mark.parametrize("version", ["v1", "v2", "plain"])
def test_stages_hold_all_layers_that_can_be_expanded(version):
    model = models.create("cifar_resnet", depth=14, version=version)
    parts = [0] * 4
    for name, layer in model.named_modules():
        if type(layer) is nn.Conv2d and layer.kernel_size == (3, 3):
            (stage,) = [i for i, prefix in enumerate(model.stages) if name == prefix or name.startswith(prefix + ".")]
            parts[stage] += 1
    assert parts == [1, 4, 4, 4]
    expanded = models.create("cifar_resnet", depth=14, version=version, expand="do", stages=[0, 3])
    found = [name.split(".")[0] for name, layer in expanded.named_modules() if type(layer) is nn.DOConv2d]
    assert found == ["conv1"] + ["layer3"] * 4


@pytest.mark.parametrize("version", ["v1", "v2", "plain"])
def test_initial_values_are_those_of_he_et_al(version):
    cupynn.manual_seed(1)
    model = models.create("cifar_resnet", version=version)
    for name, layer in model.named_modules():
        if type(layer) is nn.Conv2d:
            weight = layer.weight.data
            deviation = np.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
            # The deviation of a sample of size n is off by a part sqrt(1 / (2 n)); five of these are allowed.
            assert abs(weight.std() / deviation - 1) < 5 / np.sqrt(2 * weight.size), name
            assert abs(weight.mean()) < 5 * deviation / np.sqrt(weight.size), name
        elif type(layer) is nn.BatchNorm2d and layer.weight is not None:
            assert np.all(layer.weight.data == 1) and np.all(layer.bias.data == 0)
    assert 0.9 / 8 < np.abs(model.fc.weight.data).max() <= 1 / 8


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 64, 64), (3, 33, 17), (3, 4, 4)])
@pytest.mark.parametrize("options", [{}, {"version": "v2"}, {"whe": 4}])
def test_images_may_have_any_size(channels, height, width, options):
    cupynn.manual_seed(1)
    model = models.create("cifar_resnet", depth=8, in_channels=channels, classes=7, **options)
    assert model.input_shape == (channels, 32, 32)
    assert model(Tensor(np.zeros((2, channels, height, width), "float32"))).shape == (2, 7)
    assert model.eval()(Tensor(np.zeros((0, channels, height, width), "float32"))).shape == (0, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "v3"}, "version must be one of v1, v2, plain; got 'v3'"),
        ({"depth": 21}, "depth must be 6 n + 2 for basic blocks; got 21"),
        ({"depth": 2}, "depth must be 6 n + 2 for basic blocks; got 2"),
        ({"depth": 32, "block": "bottleneck"}, "depth must be 9 n + 2 for bottleneck blocks; got 32"),
        ({"shortcut": "B"}, "shortcut must be 'A' or 'conv' or None for version 'v1'; got 'B'"),
        ({"version": "plain", "shortcut": "A"}, "shortcut must be None for version 'plain'; got 'A'"),
        ({"block": "wide"}, "block must be 'basic' or 'bottleneck' for version 'v1'; got 'wide'"),
        ({"version": "plain", "block": "bottleneck", "depth": 164}, "block must be 'basic' for version 'plain'"),
        ({"version": "v2", "stem_relu": False}, "stem_relu must be True for version 'v2'"),
        ({"version": "v2", "whe": 4}, "whe is an option of version 'v1' with basic blocks; got 4 for version 'v2'"),
        ({"version": "plain", "dropout": 0.1}, "dropout is an option of version 'v1' with basic blocks; got 0.1"),
        ({"depth": 164, "whe": 4}, "whe is an option of .* for version 'v1' with bottleneck blocks"),
        ({"whe": 4, "whe_per_block": 3}, "whe_per_block must be 1 or 2; got 3"),
        ({"whe_per_block": 1}, "whe must be a group size for whe_per_block=1"),
        ({"whe": 4, "whe_position": "last"}, "whe_position must be one of post_conv, post_bn; got 'last'"),
        ({"whe": 5}, "channels must be a multiple of group_size; got channels=16, group_size=5"),
        ({"dropout": 1.5}, "p must be a probability from 0 to 1; got 1.5"),
    ],
    ids=str,
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message.replace("+", re.escape("+"))):
        models.create("cifar_resnet", **options)
